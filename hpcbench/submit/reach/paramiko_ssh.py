"""A site by ssh with keys or a typed password: one connection of this process, by paramiko.

``~/.ssh/config`` is followed as ssh does, as far as it says where a host is and how it is reached; what the site file
says comes first. Host keys are always checked, and no key of a host is ever added.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import IO

import paramiko

from hpcbench.errors import SiteError
from hpcbench.site import Reach
from hpcbench.submit.reach.authenticate import LOST, RefusedError, authenticate
from hpcbench.submit.reach.hops import Hop, check, hops, known_keys
from hpcbench.submit.reach.transport import CHUNK, PATIENCE, Answer, Transport, command, pieces

CONNECT = 20.0  # seconds for a connection, and for the server's greeting
KEEP_ALIVE = 30  # seconds

# A logger of its own, which says nothing: paramiko's would write the traceback of a lost connection to stderr.
_LOGGER = "hpcbench.paramiko"
logging.getLogger(_LOGGER).addHandler(logging.NullHandler())
logging.getLogger(_LOGGER).propagate = False


class Paramiko(Transport):
    """A site by ssh; the connection is opened by the first call and serves all that follow."""

    def __init__(self, reach: Reach, name: str) -> None:
        self.where = name
        self._reach = reach
        self._open: list[paramiko.Transport] = []  # one a hop, the site last
        self._refused = ""

    def call(
        self,
        script: str,
        *arguments: str,
        data: bytes | IO[bytes] = b"",
        sink: Callable[[bytes], None] | None = None,
        patience: float = PATIENCE,
    ) -> Answer:
        """Run the script by the site's bash."""
        transport = self._connected()
        try:
            channel = transport.open_session(timeout=CONNECT)
        except paramiko.ChannelException as error:
            raise SiteError(f"{self.where} lets nobody run a command: {error.text!r}") from None
        except LOST:
            raise self._broke() from None
        feed = _Feed(channel, command(script, arguments), data)
        try:
            answer = self._read(channel, feed, sink, patience)
        except BaseException:
            self.close()  # not the channel alone, whose closing would wait for a network that is gone
            raise
        whole = answer.status >= 0 and channel.eof_received and not feed.refused
        if not whole and _gone(transport):
            raise self._broke()
        if feed.refused:
            raise SiteError(f"{self.where} lets nobody run a command")
        return answer

    def _read(
        self, channel: paramiko.Channel, feed: _Feed, sink: Callable[[bytes], None] | None, patience: float
    ) -> Answer:
        """Take what the command writes, until it ended."""
        collected, errors = bytearray(), bytearray()
        with selectors.DefaultSelector() as ready:
            ready.register(channel, selectors.EVENT_READ)
            feed.start()
            while True:
                ended = channel.eof_received or channel.closed  # before looking: what came before it is there
                if ended:
                    channel.status_event.wait(1.0)
                else:
                    ready.select(1.0)
                if feed.error is not None:
                    raise feed.error
                if feed.refused:
                    break
                if channel.recv_ready():
                    (sink or collected.extend)(self._received(channel.recv))
                elif channel.recv_stderr_ready():
                    errors.extend(self._received(channel.recv_stderr))
                elif ended and channel.exit_status_ready():
                    break
                elif time.monotonic() - feed.moved > patience:
                    raise SiteError(f"{self.where} has not answered for {patience:.0f} seconds")
                else:
                    continue
                feed.moved = time.monotonic()
        with contextlib.suppress(*LOST):
            channel.close()
        feed.join()
        return Answer(channel.exit_status, bytes(collected), errors.decode(errors="replace"))

    def _received(self, receive: Callable[[int], bytes]) -> bytes:
        try:
            return receive(CHUNK)
        except LOST:
            raise self._broke() from None

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        while self._open:
            self._open.pop().close()

    def _broke(self) -> SiteError:
        return SiteError(f"the connection to {self.where} broke")

    def _connected(self) -> paramiko.Transport:
        """Return the connection to the site, opened where it is not."""
        if self._open and all(transport.is_active() for transport in self._open):
            return self._open[-1]
        self.close()
        if self._refused:  # sites ban an address that goes on trying
            raise SiteError(self._refused)
        try:
            for hop in hops(self._reach):
                self._log_in(hop)
        except SiteError as error:
            self.close()
            why = f"{self.where}: {error}"
            self._refused = why if isinstance(error, RefusedError) else ""
            raise SiteError(why, needs_login=error.needs_login) from None
        except BaseException:
            self.close()
            raise
        return self._open[-1]

    def _log_in(self, hop: Hop) -> None:
        """Connect to a host, through those before it, check its key and authenticate."""
        transport = paramiko.Transport(self._socket(hop))
        self._open.append(transport)
        transport.set_log_channel(_LOGGER)
        transport.banner_timeout = transport.handshake_timeout = CONNECT
        known = known_keys(hop)
        options = transport.get_security_options()
        kinds = {kind for each in known for kind in _signatures(each.key)}
        # ask for a kind of key that is known, for a host may have several
        options.key_types = sorted(options.key_types, key=lambda kind: kind not in kinds)
        try:
            transport.start_client()
        except paramiko.ssh_exception.IncompatiblePeer as error:
            raise SiteError(f"{hop} and paramiko have no algorithm in common: {error}") from None
        except LOST:
            greeted = bool(transport.remote_version)
            what = "hung up before anybody could log in" if greeted else "did not greet as an ssh server does"
            raise SiteError(f"{hop} {what}") from None
        check(hop, transport.get_remote_server_key(), known)
        transport.set_keepalive(KEEP_ALIVE)
        authenticate(transport, hop, password=self._reach.login == "password")

    def _socket(self, hop: Hop) -> socket.socket | paramiko.Channel:
        try:
            if self._open:
                return self._open[-1].open_channel("direct-tcpip", (hop.host, hop.port), ("", 0), timeout=CONNECT)
            connected = socket.create_connection((hop.host, hop.port), CONNECT)
        except paramiko.ChannelException as error:
            raise SiteError(f"{hop} cannot be reached from the jump host: {error.text!r}") from None
        except socket.gaierror:
            raise SiteError(f"no host is called {hop.host}; see `reach` of the site file") from None
        except ConnectionRefusedError:
            raise SiteError(f"{hop} refuses connections") from None
        except TimeoutError:
            raise SiteError(f"{hop} does not answer") from None
        except LOST as error:
            raise SiteError(f"{hop} cannot be reached: {getattr(error, 'strerror', None) or error}") from None
        # else each command waits for the acknowledgement of the one before: 21 a second instead of 208
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connected


class _Feed(threading.Thread):
    """Starts the command and feeds it, beside the thread that reads what it writes: neither waits for the other."""

    def __init__(self, channel: paramiko.Channel, line: str, data: bytes | IO[bytes]) -> None:
        super().__init__(name="hpcbench-feed", daemon=True)
        self.moved = time.monotonic()
        self.refused = False  # the command did not start
        self.error: BaseException | None = None  # of reading the data
        self._channel, self._line, self._data = channel, line, data

    def run(self) -> None:
        try:
            self._channel.exec_command(os.fsencode(self._line))
        except LOST:
            self.refused = True
            return
        try:
            for piece in pieces(self._data):
                if not self._send(piece):
                    return
        except BaseException as error:  # noqa: BLE001 - raised again where the command was asked for
            self.error = error
        else:
            with contextlib.suppress(*LOST):
                self._channel.shutdown_write()

    def _send(self, piece: bytes) -> bool:
        """Send all of it, and say whether the command still reads."""
        while piece:
            try:
                sent = self._channel.send(piece)
            except LOST:
                return False
            if not sent:
                return False
            self.moved = time.monotonic()
            piece = piece[sent:]
        return True


def _gone(transport: paramiko.Transport) -> bool:
    """Whether a connection is gone. Its channels know a moment before it does, so it gets that moment."""
    transport.join(0.5)
    return not transport.is_active()


def _signatures(key: paramiko.PKey) -> tuple[str, ...]:
    """Return how a kind of key is named when algorithms are agreed on."""
    name = key.get_name()
    return ("rsa-sha2-512", "rsa-sha2-256", name) if name == "ssh-rsa" else (name,)
