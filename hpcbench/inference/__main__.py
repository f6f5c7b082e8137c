"""``python -m hpcbench.inference KIND``: the program of the benchmarks that measure an endpoint."""

import sys

from hpcbench.inference.measure import start

if __name__ == "__main__":
    sys.exit(start(sys.argv[1:]))
