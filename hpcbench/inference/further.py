"""Further clients, where one event loop would not keep up: each is a process of its own that runs this module.

It is told what to do by lines of JSON and answers each with one when that is done. It ends with the process that
started it, however that one goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from hpcbench.errors import HpcbenchError, RunError
from hpcbench.inference.client import Client, Work, run
from hpcbench.inference.settings import of_case
from hpcbench.inference.summary import Fared
from hpcbench.site import Endpoint

_LONGEST = 1 << 31  # bytes of a line


class Further:
    """A `hpcbench.inference.client.Sender` in a process of its own; `counted` and `ended` as for a `Client`."""

    def __init__(self, counted: Callable[[bool], object], ended: Callable[[str], object]) -> None:
        self._counted, self._ended = counted, ended
        self._process: asyncio.subprocess.Process | None = None
        self._answers: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._reading: asyncio.Task[None] | None = None

    async def start(self, kind: str, where: Endpoint, fields: Mapping[str, Any], end: int) -> None:
        """Start it in the folder of the case. `end` is its pipe to the process that records, and is closed here."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "hpcbench.inference.further", kind, str(end),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, pass_fds=(end,),
                start_new_session=True,  # a signal to all of the job is handed on by the first client alone
            )  # fmt: skip
        finally:
            os.close(end)
        self._reading = asyncio.get_running_loop().create_task(self._read())
        await self._do("start", {"endpoint": where.model_dump(mode="json"), "fields": dict(fields)})

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        try:
            while line := await self._process.stdout.readline():
                self._take(line)
        finally:
            self._answers.put_nowait(None)

    def _take(self, line: bytes) -> None:
        try:
            told = json.loads(line)
        except ValueError:
            return  # what some library printed
        if not isinstance(told, dict):
            return
        if "counted" in told:
            self._counted(told["counted"])
        elif "ended" in told:
            self._ended(told["ended"])
        elif "done" in told:
            self._answers.put_nowait(told)

    def _say(self, verb: str, value: Any) -> None:
        if self._process is not None and self._process.stdin is not None:
            with contextlib.suppress(OSError, RuntimeError):  # it is gone: the answer that does not come will tell
                self._process.stdin.write(json.dumps([verb, value]).encode() + b"\n")

    async def _do(self, verb: str, value: Any) -> Any:
        """Let it do something, and wait until that is done; raises `RunError` where it is gone."""
        self._say(verb, value)
        told = await self._answers.get() if self._process is not None else None
        if told is None:
            status = await self._process.wait() if self._process is not None else "unknown"
            self._answers.put_nowait(None)
            why = f"a client ended with status {status}, and what it had in flight is not known"
            self._ended(why)
            raise RunError(why)
        return told["done"]

    async def open(self, streams: int) -> None:
        """Open connections ahead."""
        await self._do("open", streams)

    async def prepare(self, work: Work) -> None:
        """Write the requests of a block."""
        await self._do("prepare", asdict(work))

    async def send(self, at: int, until: int) -> None:
        """Send what was prepared; returns when all of it has ended."""
        await self._do("send", [at, until])

    def enough(self, why: str) -> None:
        """Send no more."""
        self._say("enough", why)

    def stop(self, why: str) -> None:
        """Send no more, and end what is in flight."""
        self._say("stop", why)

    async def end(self) -> Fared:
        """Hand over what is left, and be gone."""
        fared = Fared(**await self._do("end", None))
        if self._process is not None and self._reading is not None:
            await self._process.wait()
            await self._reading
        return fared


async def _serve(kind: str, end: int) -> None:
    """Do what each line of standard input says, until it ends; raises what goes wrong."""
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # what libraries print is no answer
        told = asyncio.StreamReader(limit=_LONGEST)
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(told), sys.stdin)
        await _work(kind, end, told, out)


async def _work(kind: str, end: int, told: asyncio.StreamReader, out: IO[str]) -> None:
    def say(**fields: Any) -> None:
        with contextlib.suppress(BrokenPipeError):
            out.write(json.dumps(fields) + "\n")
            out.flush()

    async def do(what: Awaitable[object]) -> None:
        await what
        say(done=None)

    _, first = json.loads(await told.readline())
    settings, asked = of_case(kind, json.loads(Path("case.json").read_text(encoding="utf-8")))
    client = Client(
        Endpoint.model_validate(first["endpoint"]), settings, asked,
        lambda failed: say(counted=failed), lambda why: say(ended=why),
    )  # fmt: skip
    await do(client.start(first["fields"], end))
    doing: asyncio.Task[None] | None = None
    while line := await told.readline():
        verb, value = json.loads(line)
        if verb in ("enough", "stop"):
            getattr(client, verb)(value)
        elif verb == "end":
            say(done=asdict(await client.end()))
            return
        else:
            doing = asyncio.get_running_loop().create_task(do(_doing(client, verb, value)))
            doing.add_done_callback(lambda task: None if task.cancelled() or not task.exception() else told.feed_eof())
    client.stop("the process that it belongs to is gone")
    if doing is not None:
        await doing
    await client.end()


def _doing(client: Client, verb: str, value: Any) -> Awaitable[None]:
    if verb == "prepare":
        return client.prepare(Work(**value))
    return client.send(*value) if verb == "send" else client.open(value)


if __name__ == "__main__":
    try:
        run(_serve(sys.argv[1], int(sys.argv[2])))
    except HpcbenchError as error:
        sys.exit(f"hpcbench: a further client: {error}")
