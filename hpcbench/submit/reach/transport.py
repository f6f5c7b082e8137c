"""How commands reach a site: one interface, with this machine, paramiko and OpenSSH behind it.

A transport runs a bash script with arguments, feeds its standard input and takes its output, all bytes. Everything else
(copying, submitting, asking) is built on that, so that each of them costs one round trip.
"""

from __future__ import annotations

import base64
import contextlib
import os
import selectors
import shlex
import signal
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from hpcbench.errors import SiteError

CHUNK = 1 << 18  # bytes sent or received at once
PATIENCE = 120.0  # seconds without a byte in either direction after which a command is given up


@dataclass(frozen=True)
class Answer:
    """How a script ended, and what it wrote; `stdout` is empty where a sink took it."""

    status: int
    stdout: bytes
    stderr: str


class Transport(ABC):
    """A way to a site. Use it as a context manager: leaving it closes what was opened for it."""

    where: str  # as messages name it

    @abstractmethod
    def call(
        self,
        script: str,
        *arguments: str,
        data: bytes | IO[bytes] = b"",
        sink: Callable[[bytes], None] | None = None,
        patience: float = PATIENCE,
    ) -> Answer:
        """Run a bash script with arguments; `data` is its standard input, `sink` takes its output as it comes.

        Raises `SiteError` where the site cannot be reached, the connection breaks, or nothing moves for `patience`
        seconds. What the script does after that is not known.
        """

    def close(self) -> None:  # noqa: B027 - not every way opens something
        """Close what this object opened; a connection that a person opened stays."""

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def command(script: str, arguments: Sequence[str]) -> str:
    """Write the shell command that runs a script on a site, in a login shell: there its tools are on PATH.

    What reads it first is the login shell of the account. csh takes no line break inside quotes and fish takes a
    backslash there for its own, so the script and its arguments go as one word of letters and digits.
    """
    told = f"set -- {shlex.join(arguments)}\n{script}"
    word = base64.b64encode(os.fsencode(told)).decode()
    return f"""bash -lc 'eval "$(printf %s {word} | base64 -d)"' hpcbench"""


class Local(Transport):
    """This machine: a login node, where the scheduler's commands are at hand."""

    where = "this machine"

    def call(
        self,
        script: str,
        *arguments: str,
        data: bytes | IO[bytes] = b"",
        sink: Callable[[bytes], None] | None = None,
        patience: float = PATIENCE,
    ) -> Answer:
        """Run the script by this machine's bash."""
        return exchange(["bash", "-c", script, "hpcbench", *arguments], self.where, data, sink, patience)


def exchange(
    argv: Sequence[str],
    where: str,
    data: bytes | IO[bytes] = b"",
    sink: Callable[[bytes], None] | None = None,
    patience: float = PATIENCE,
    environment: Mapping[str, str] | None = None,
) -> Answer:
    """Run a program of this machine and pass bytes both ways at once; raises `SiteError` when nothing moves."""
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
            start_new_session=True,  # Ctrl-C is for hpcbench: what runs at the site is not cut in the middle by it
        )  # fmt: skip
    except OSError as error:
        raise SiteError(f"cannot run {argv[0]}: {error.strerror}") from None
    assert child.stdin
    assert child.stdout
    assert child.stderr
    collected, errors = bytearray(), bytearray()
    try:
        waiting = pieces(data)
        piece = memoryview(next(waiting, b""))
        for stream in (child.stdin, child.stdout, child.stderr):
            os.set_blocking(stream.fileno(), False)
        with selectors.DefaultSelector() as ready:
            ready.register(child.stdout, selectors.EVENT_READ, sink or collected.extend)
            ready.register(child.stderr, selectors.EVENT_READ, errors.extend)
            ready.register(child.stdin, selectors.EVENT_WRITE)
            last = time.monotonic()
            while ready.get_map():
                for key, _ in ready.select(1.0):
                    last = time.monotonic()
                    if key.fileobj is child.stdin:
                        try:
                            piece = piece[os.write(key.fd, piece) :] if piece else piece
                        except BrokenPipeError:  # it ended without reading to the end
                            piece, waiting = memoryview(b""), iter(())
                        piece = piece or memoryview(next(waiting, b""))
                        if not piece:
                            ready.unregister(child.stdin)
                            with contextlib.suppress(BrokenPipeError):
                                child.stdin.close()
                    elif received := os.read(key.fd, CHUNK):
                        key.data(received)
                    else:
                        ready.unregister(key.fileobj)
                if time.monotonic() - last > patience:
                    raise SiteError(f"{where} has not answered for {patience:.0f} seconds")
        status = child.wait()
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            with contextlib.suppress(BrokenPipeError):
                stream.close()
    return Answer(status, bytes(collected), errors.decode(errors="replace"))


def pieces(data: bytes | IO[bytes]) -> Iterator[bytes]:
    """Yield the bytes to send, in pieces."""
    if isinstance(data, bytes):
        for start in range(0, len(data), CHUNK):
            yield data[start : start + CHUNK]
    else:
        while block := data.read(CHUNK):
            yield block
