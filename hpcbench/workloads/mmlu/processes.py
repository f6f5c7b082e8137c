"""The modes: how many processes there are, when each runs, and what it works on."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Any, Literal

from .worker import Settings

Mode = Literal["sequential", "parallel", "batched", "replicas"]
MODES: tuple[Mode, ...] = ("sequential", "parallel", "batched", "replicas")
Part = tuple[str, int, int]  # a subject, which part of it, of how many
_PARTS = 4  # of the work of a replica: the last one to end makes the others wait no longer than for one of these


@dataclass(frozen=True)
class Layout:
    """How the work is laid out: each process has subjects of its own, or takes what is next in the queue when free."""

    processes: tuple[tuple[str, ...], ...]
    at_once: int
    queue: tuple[Part, ...] = ()


def layout(mode: Mode, subjects: Sequence[str], processes: int, device: str = "auto") -> Layout:
    """Lay out the subjects; `processes` 0 is one a subject in the mode parallel, and one a GPU or two of replicas."""
    if mode == "batched":
        return Layout((tuple(subjects),), 1)
    if mode == "replicas":
        count = processes or max(2, 0 if device == "cpu" else _gpus())
        pieces = -(-_PARTS * count // len(subjects))
        parts = tuple((subject, piece, pieces) for subject in subjects for piece in range(pieces))
        return Layout(((),) * count, count, parts)
    own = tuple((subject,) for subject in subjects)
    return Layout(own, 1 if mode == "sequential" else min(processes or len(own), len(own)))


class ProcessError(Exception):
    """A process did not come to its end; `status` is what this program should end with."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def run(
    planned: Layout, settings: Mapping[str, Any], threads: int, took: Callable[[int, Mapping[str, Any]], object]
) -> None:
    """Run the processes; `took` gets each message of each. Raises `ProcessError` when the first one fails."""
    waiting = deque(enumerate(planned.processes))
    queue = deque(planned.queue)
    running: dict[IO[bytes], _Process] = {}
    places = list(range(planned.at_once))  # that are free, the first one last
    places.reverse()
    with selectors.DefaultSelector() as ready:
        try:
            while waiting or running:
                while waiting and len(running) < planned.at_once:
                    number, own = waiting.popleft()
                    took(number, {"kind": "import_start", "time": time.time()})
                    process = _Process(number, places.pop(), own, settings, threads, queue)
                    running[process.said] = process
                    ready.register(process.said, selectors.EVENT_READ, process)
                for key, _ in ready.select():
                    process = key.data
                    for message in process.read():
                        took(process.number, message)
                    if process.ended:
                        ready.unregister(process.said)
                        del running[process.said]
                        places.append(process.place)
                        process.close()
                        took(process.number, {"kind": "process_end", "time": time.time()})
        finally:
            for process in running.values():
                process.kill()


class _Process:
    """A process that works: on its own subjects, or on the part of the queue that it gets when it says it is ready."""

    def __init__(
        self,
        number: int,
        place: int,
        own: Sequence[str],
        settings: Mapping[str, Any],
        threads: int,
        queue: deque[Part],
    ) -> None:
        self.number, self.place, self.ended = number, place, False
        self._queue, self._rest = queue, b""
        self._subjects = tuple(own or dict.fromkeys(subject for subject, *_ in queue))
        told = Settings(
            **settings, process=number, place=place, subjects=self._subjects, ahead=bool(own), threads=threads
        )
        # OpenMP, MKL and the tokenizers' Rayon read these once, when they are loaded
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")
        environment = {**os.environ, **dict.fromkeys(names, str(threads))}
        self._child = subprocess.Popen(
            [sys.executable, "-B", "-m", f"{__package__}.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
        )  # fmt: skip
        assert self._child.stdout is not None
        self.said: IO[bytes] = self._child.stdout
        self._tell(asdict(told))

    def _tell(self, message: object) -> None:
        assert self._child.stdin is not None
        try:
            self._child.stdin.write(json.dumps(message).encode() + b"\n")
            self._child.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, and `close` says how

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield what it says, and answer that it is ready."""
        data = os.read(self.said.fileno(), 1 << 20)
        self.ended = not data
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message["kind"] == "failed":
                raise ProcessError(message["message"], message["status"])
            if message["kind"] != "ready":
                yield message
            elif self._queue:
                self._tell(self._queue.popleft())
            else:
                assert self._child.stdin is not None
                self._child.stdin.close()

    def close(self) -> None:
        """Wait for its end; raises `ProcessError` where that is none."""
        self.said.close()
        status = self._child.wait()
        if status < 0:
            name = signal.Signals(-status).name
            raise ProcessError(f"process {self.number} ({self._names()}) was ended by {name}")
        if status:
            raise ProcessError(f"process {self.number} ({self._names()}) failed with status {status}")

    def _names(self) -> str:
        return ", ".join(self._subjects[:3]) + (" and others" if len(self._subjects) > 3 else "")

    def kill(self) -> None:
        """End it."""
        self._child.kill()
        self._child.wait()


def _gpus() -> int:
    """Return how many GPUs this process may use, as far as the driver's own tool says."""
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return len([each for each in visible.split(",") if each.strip() not in ("", "-1")])
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    # the parts of a GPU that is divided stand indented below it
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines()) if listed.returncode == 0 else 0
