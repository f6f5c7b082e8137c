"""Proxies: which one the environment names for a host, and the way through it."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import urllib.parse
import urllib.request
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass

from hpcbench.errors import ConfigError


def proxy(scheme: str, host: str, netloc: str) -> Proxy | None:
    """Return the proxy on the way to a host, or None; raises `ConfigError` for one that cannot be used."""
    known = urllib.request.getproxies()
    found = known.get(scheme) or known.get("all")
    if not found or _is_here(host) or urllib.request.proxy_bypass(netloc):
        return None
    parts = address(found if "://" in found else f"http://{found}", "the proxy that the environment names")
    if parts.scheme != "http":
        raise ConfigError("the proxy that the environment names is not one of http")
    headers, secrets = {}, []
    if parts.username is not None:
        user, password = urllib.parse.unquote(parts.username), urllib.parse.unquote(parts.password or "")
        packed = b64encode(f"{user}:{password}".encode()).decode()
        headers["Proxy-Authorization"] = f"Basic {packed}"
        secrets = [packed, password] if password else [packed]
    return Proxy(parts.hostname or "", parts.port or 80, headers, tuple(secrets))


@dataclass(frozen=True)
class Proxy:
    """A proxy that the environment names."""

    host: str
    port: int
    headers: Mapping[str, str]
    secrets: tuple[str, ...]

    async def tunnel(self, loop: asyncio.AbstractEventLoop, target: str) -> socket.socket:
        """Open a way through it; raises `OSError`."""
        way = await self._reached(loop)
        try:
            lines = {"Host": target, **self.headers}
            head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
            await loop.sock_sendall(way, f"CONNECT {target} HTTP/1.1\r\n{head}\r\n".encode("ascii"))
            answer = b""
            while b"\r\n\r\n" not in answer and len(answer) < 1 << 16:
                if not (more := await loop.sock_recv(way, 4096)):
                    break
                answer += more
            self._check(answer)
        except BaseException:
            way.close()
            raise
        return way

    async def _reached(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        """Connect to the first of its addresses that answers."""
        last = OSError(f"the proxy {self.host} has no address")
        for family, kind, protocol, _, address in await loop.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM):
            way = socket.socket(family, kind, protocol)
            try:
                way.setblocking(False)
                await loop.sock_connect(way, address)
            except BaseException as error:
                way.close()
                if not isinstance(error, OSError):
                    raise
                last = error
            else:
                return way
        raise last

    def _check(self, answer: bytes) -> None:
        words = answer.split(b"\r\n", 1)[0].split(b" ", 2)
        if len(words) < 2 or words[1] != b"200":
            said = b" ".join(words[1:]).decode("ascii", "replace") or "nothing"
            raise OSError(f"the proxy {self.host} answers {said}")


def address(url: str, whose: str) -> urllib.parse.SplitResult:
    """Read an address; raises `ConfigError`, whose message quotes none of it, because it may hold a password."""
    try:
        parts = urllib.parse.urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(f"{whose} is no address such as http://host:8000")
    if not parts.netloc.isascii() or not parts.path.isascii():
        raise ConfigError(f"{whose} has letters that no address has: write them as %XX, or as xn-- in a name")
    return parts


def _is_here(host: str) -> bool:
    """Tell whether a host is this machine: what a proxy would reach by that name is the proxy's."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
