"""A server program as a child process: found, started in the foreground, waited for, and ended for certain."""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


class ServiceError(RuntimeError):
    """A server that did not start; the message ends with the tail of its log."""


@dataclass
class Daemon:
    """A running server program; what it prints goes to `log`."""

    name: str
    process: subprocess.Popen
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self, seconds: float = 10.0) -> None:
        """Ask it to end, and end it where it does not."""
        if self.alive:
            self.process.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def check(self) -> None:
        """Raise with the tail of its log when it has ended."""
        if not self.alive:
            raise ServiceError(f"{self.name} ended with {self.process.returncode}\n{tail(self.log)}")

    def wait_until(self, ready: Callable[[], bool], seconds: float = 30.0) -> None:
        """Wait for it to serve; raise with the tail of its log when it ends first or takes too long."""
        deadline = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > deadline:
                raise ServiceError(f"{self.name} is not ready after {seconds:.0f} s\n{tail(self.log)}")
            time.sleep(0.02)


def start(log: Path, *argv: str | Path, environment: Mapping[str, str] | None = None) -> Daemon:
    """Start a program that stays in the foreground.

    The kernel ends it when the thread that started it ends, also where that was killed: call this from a thread that
    lives as long as the server shall.
    """
    guard = [program("setpriv"), "--pdeathsig", "KILL"] if program("setpriv") else []
    with log.open("ab") as output:
        process = subprocess.Popen(
            [*guard, *map(str, argv)],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # a Ctrl-C in the terminal is for pytest, which then stops the servers in order
        )
    return Daemon(Path(argv[0]).name, process, log)


def program(name: str) -> str | None:
    """Return the absolute path of a program, also where PATH lacks the folders of the administrator."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/local/sbin", "/usr/sbin"]))


def tail(log: Path, lines: int = 20) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) if log.exists() else f"no {log}"


def free_port() -> int:
    """Return a port of loopback that nothing listens on.

    It is below those that the kernel gives to outgoing connections: one of them could take it before its server does.
    """
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    choose = random.SystemRandom()  # a test may have seeded the ordinary generator
    while True:
        port = choose.randrange(10_000, max(lowest, 20_000))
        if not listens(port):
            with socket.socket() as listener:
                try:
                    listener.bind(("127.0.0.1", port))
                except OSError:
                    continue
                return port


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


@dataclass(frozen=True)
class Process:
    """What /proc says about a process of ours."""

    pid: int
    parent: int
    executable: str
    folder: Path

    def environment(self) -> list[bytes]:
        return _read(self.folder / "environ").split(b"\0")

    def arguments(self) -> str:
        return _read(self.folder / "cmdline").replace(b"\0", b" ").decode(errors="replace")

    def opened(self) -> list[str]:
        try:
            return [os.readlink(link) for link in (self.folder / "fd").iterdir()]  # noqa: PTH115 - pipe:[1] is no path
        except OSError:
            return []


def processes() -> Iterator[Process]:
    """Yield every process whose program may be known: those of this user, and for root all."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            executable = os.readlink(folder / "exe")  # noqa: PTH115 - may end with " (deleted)"
            # the name of the program is in parentheses and may hold spaces
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        yield Process(int(folder.name), parent, executable, folder)


def descendants(roots: set[int]) -> set[int]:
    """Return processes and all that came of them."""
    children: dict[int, set[int]] = {}
    for process in processes():
        children.setdefault(process.parent, set()).add(process.pid)
    found, new = set(roots), set(roots)
    while new:
        new = set().union(*(children.get(pid, set()) for pid in new)) - found
        found |= new
    return found


def kill(pids: set[int]) -> None:
    """SIGKILL processes that may be gone already."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""
