"""An OpenAI-compatible server that stamps its own sends, so that what a client measured can be held against the truth.

`python -m hpcbench.inference.server` serves on loopback until it is ended. One thread sends every chunk by itself at
its due time, which is counted from the request's arrival and never from the chunk before. ``GET /truth`` tells what was
sent when, ``POST /reset`` forgets it. Bytes that a client is too slow to take are stamped when it takes them.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

from hpcbench.errors import HpcbenchError, UsageError


def _setting(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True)
class Behaviour:
    """What a server does; each field is an option of its command line. Raises `UsageError` where that cannot be."""

    tokens_per_second: float = _setting(50.0, "of each stream, one token a chunk")
    first_token: tuple[float, float] = _setting(
        (0.1, 0.5), "LOW-HIGH: seconds from a request to its first token, drawn by its prompt: the same in every run"
    )
    serialise: bool = _setting(False, "generate for one request at a time, the others wait")
    relay: bool = _setting(False, "group chunks as ALCF's gateway does: 20 or 0.5 s, looked for every 25 ms")
    reasoning: int = _setting(0, "how many of the first tokens come as delta.reasoning_content")
    strict: bool = _setting(False, "refuse unknown fields with status 422")
    cold: float = _setting(0.0, "seconds from the first request in which all get status 503")
    server_timings: bool = _setting(False, "usage also holds time_to_first_token and total_latency, as SambaNova's")
    token: str = _setting("", "the environment variable with the token that requests must bear")

    def __post_init__(self) -> None:
        if not 0 < self.tokens_per_second <= 1e9:
            raise UsageError(f"tokens_per_second: expected a number above 0, found {self.tokens_per_second}")
        low, high = self.first_token
        if not 0 <= low <= high < math.inf:
            raise UsageError(f"first_token: expected LOW-HIGH in seconds, found {low}-{high}")
        if self.reasoning < 0 or not 0 <= self.cold < math.inf:
            raise UsageError(f"reasoning and cold: expected no negative numbers, found {self.reasoning}, {self.cold}")


@dataclass(frozen=True)
class Running:
    """A server in a process of its own; `url` is its API's, as clients take it (``http://127.0.0.1:PORT/v1``)."""

    url: str

    def truth(self, *, sends: bool = True) -> list[dict[str, Any]]:
        """Return what was sent when, one entry a request in the order they came; times are ns of the monotonic clock.

        ``prompt``: its `prompt_key`; ``received``: when the request had been read; ``first``, ``last``: just before the
        first and the last token were sent, be they content or reasoning (None: not yet); ``sends``: the same of every
        token. Tokens that a relay groups share a stamp, and an answer that is not streamed has one.
        """
        told: list[dict[str, Any]] = json.loads(self._ask("GET", f"/truth?sends={int(sends)}"))
        return told

    def reset(self) -> None:
        """Forget what was sent so far."""
        self._ask("POST", "/reset")

    def _ask(self, method: str, path: str) -> bytes:
        # urllib would go through the environment's proxy
        connection = http.client.HTTPConnection(self.url.split("/")[2], timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path)
            return connection.getresponse().read()


@contextlib.contextmanager
def running(behaviour: Behaviour | None = None) -> Iterator[Running]:
    """Run a server as a child process, which ends with this block or with this process; raises `HpcbenchError`."""
    command = [sys.executable, "-m", __name__, "--end-with-stdin", *_options(behaviour or Behaviour())]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        start_new_session=True,  # Ctrl-C is for the client: the requests that it lets end need their server
    ) as child:  # fmt: skip
        assert child.stdin
        assert child.stdout
        try:
            said = child.stdout.readline().split()
            if said[:2] != ["listening", "on"]:
                raise HpcbenchError("the server with stamped sends did not start: what it said is above")
            yield Running(f"http://{said[2]}/v1")
        finally:
            child.stdin.close()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()


def prompt_key(text: str) -> str:
    """Name a prompt as the truth does: by the first 16 hexadecimal digits of the SHA-256 of its UTF-8."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def option(name: str) -> str:
    """Write a field of `Behaviour` as an option."""
    return f"--{name.replace('_', '-')}"


def _options(behaviour: Behaviour) -> Iterator[str]:
    for each in fields(behaviour):
        value = getattr(behaviour, each.name)
        text = "{:f}-{:f}".format(*value) if isinstance(value, tuple) else value
        if value is not False:
            yield option(each.name) if value is True else f"{option(each.name)}={text}"
