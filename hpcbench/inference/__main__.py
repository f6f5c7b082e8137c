"""``python -m hpcbench.inference KIND``: the program of the benchmarks that measure an endpoint."""

import sys

from hpcbench.inference.measure import run

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
