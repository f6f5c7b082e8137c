"""A TCP proxy in front of a port of loopback, which breaks connections at a chosen moment, refuses or delays them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading

from services import daemon

CHUNK = 64 * 1024
RESET = struct.pack("ii", 1, 0)  # SO_LINGER without a wait: closing sends a reset, as a broken connection does


class Proxy:
    """Passes connections to `port` on from a port of its own, each way after `delay` seconds.

    The kernel completes a handshake with the proxy at once; the time that it would have taken, there and back, comes
    before the first byte.
    """

    def __init__(self, port: int, *, delay: float = 0.0):
        self.target = port
        self.delay = delay
        self.port = daemon.free_port()
        self._left: int | None = None
        self._refuse = False
        self._listener: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._connections: set[asyncio.Task] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy of {port}", daemon=True)
        self._thread.start()
        self._do(self._listen())

    def cut(self) -> None:
        """Reset all live connections; new ones are welcome."""
        self._do(self._reset())

    def cut_after(self, count: int) -> None:
        """Reset all connections once `count` more bytes have passed, both ways together."""
        self._left = count

    @property
    def refuse(self) -> bool:
        """Whether new connections are refused; live ones are left alone."""
        return self._refuse

    @refuse.setter
    def refuse(self, refuse: bool) -> None:
        if refuse != self._refuse:
            self._refuse = refuse
            self._do(self._unlisten() if refuse else self._listen())

    def close(self) -> None:
        if self._thread.is_alive():
            self.refuse = True
            self.cut()
            self._do(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _do(self, work) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", self.port)

    async def _unlisten(self) -> None:
        if self._listener:
            self._listener.close()

    async def _reset(self) -> None:
        for writer in list(self._writers):
            self._break(writer)
        connections = [connection for connection in self._connections if connection is not asyncio.current_task()]
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    def _break(self, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # the other side has broken it before
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        writer.transport.abort()

    async def _end(self) -> None:
        """End what a broken connection left: where one way of it failed, the other may still wait."""
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        self._connections.add(connection)
        self._writers.add(writer)
        ends = [writer]
        try:
            await asyncio.sleep(2 * self.delay)
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
            ends.append(back)
            self._writers.add(back)
            await asyncio.gather(self._pass(reader, back), self._pass(there, writer))
        except (OSError, asyncio.CancelledError):
            for end in ends:
                self._break(end)
        finally:
            for end in ends:
                end.close()
                self._writers.discard(end)
            self._connections.discard(connection)

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what is read until it ends; what waits for its time is bounded, so that a fast sender waits too."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=128)

        async def read() -> None:
            data = b"-"
            while data:
                data = await reader.read(CHUNK)
                await waiting.put((self._loop.time() + self.delay, data))

        async def write() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(due - self._loop.time())
                if not data:
                    break
                await self._send(writer, data)
            with contextlib.suppress(OSError):  # the other side may be gone already
                writer.write_eof()

        await asyncio.gather(read(), write())

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        if self._left is not None and len(data) >= self._left:
            data, self._left = data[: self._left], None
            writer.write(data)
            for end in list(self._writers):
                self._break(end)
            raise ConnectionResetError
        if self._left is not None:
            self._left -= len(data)
        writer.write(data)
        await writer.drain()
