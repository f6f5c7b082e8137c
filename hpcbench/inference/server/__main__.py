"""The command line of the server with stamped sends."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import resource
import sys
from dataclasses import fields

from hpcbench.errors import UsageError
from hpcbench.inference.server import Behaviour, option
from hpcbench.inference.server.loop import Server


def main() -> None:
    """Serve as the command line says; prints ``listening on 127.0.0.1:PORT`` when it does."""
    parser = argparse.ArgumentParser(
        prog="python -m hpcbench.inference.server",
        description="An OpenAI-compatible server on loopback whose GET /truth tells what it sent when.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--port", type=int, default=0, help="0: any that is free")
    parser.add_argument("--end-with-stdin", action="store_true", help="end when the standard input does")
    for each in fields(Behaviour):
        if each.name == "first_token":
            low_high = "{}-{}".format(*Behaviour.first_token)
            parser.add_argument("--first-token", type=_seconds, default=low_high, help=each.metadata["help"])
        elif each.default is False:
            parser.add_argument(option(each.name), action="store_true", help=each.metadata["help"])
        else:
            kind = type(each.default)
            parser.add_argument(option(each.name), type=kind, default=each.default, help=each.metadata["help"])
    options = vars(parser.parse_args())
    port, with_stdin = options.pop("port"), options.pop("end_with_stdin")
    if options["token"] and not os.environ.get(options["token"]):
        parser.error(f"the environment variable {options['token']} is not set")
    with contextlib.suppress(ValueError, OSError):  # macOS has a limit that it does not grant
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        server = Server(Behaviour(**options), port)
    except UsageError as error:
        parser.error(str(error))
    except (OSError, OverflowError) as error:
        parser.error(f"--port {port}: {error}")
    if with_stdin:
        server.end_with(sys.stdin.fileno())
    print(f"listening on 127.0.0.1:{server.port}", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        server.serve()


def _seconds(text: str) -> tuple[float, float]:
    found = re.fullmatch(r"([0-9.]+)(?:-([0-9.]+))?", text)
    try:
        assert found
        return float(found[1]), float(found[2] or found[1])
    except (AssertionError, ValueError):
        raise argparse.ArgumentTypeError(f"expected LOW-HIGH in seconds, found {text!r}") from None


if __name__ == "__main__":
    main()
