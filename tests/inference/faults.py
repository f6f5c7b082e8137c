"""An OpenAI-compatible server that fails as real ones do.

What it does is chosen by the first folder of the path (``/stall-2/v1/chat/completions``), else by the request's model;
what is not in this table is 404.

| name | what happens |
|---|---|
| `ok` | five tokens, streamed where asked for, else as JSON |
| `retry-after-K` | 429 with ``Retry-After: 1`` for the first K attempts of a prompt, then ok |
| `retry-after-date-K` | the same with the time as a date |
| `408-K`, `429-K`, `503-K`, … | that status for the first K attempts of a prompt, then ok |
| `status-S` | always status S |
| `one-in-K` | 500 for each Kth request, ok for the others |
| `echo` | 401, its message repeats the Authorization header |
| `error-text` | 502 with a proxy's HTML for a body |
| `html` | status 200 with a page of HTML (a login, a captive portal) |
| `redirect-307` | to another path of this server |
| `redirect-302` | to this server by another host name |
| `hang-up` | the connection is reset before any answer |
| `reset-N`, `cut-N`, `stall-N` | after N tokens the connection is reset, or closed, or silent for ever |
| `error-event-N` | after N tokens ``event: error`` with a message for data |
| `error-data-N` | after N tokens ``data: {"error": …}`` |
| `silent` | no answer for ever |
| `slow-headers` | the headers come one byte at a time |
| `half-body` | the connection is closed before Content-Length is reached |
| `close-idle` | ok, then the connection is closed although it was said to be kept |
| `close-delimited` | HTTP/1.0: the body ends with the connection |
| `dies-N` | the Nth request ends the server: nothing listens, all connections are reset |
| `gzip` | a JSON body, compressed |
| `json` | a JSON body though a stream was asked for |
| `invalid-json` | one event is no JSON |
| `large` | one token of 1 MB |
| `many` | 10,000 tokens |
| `no-done`, `no-usage` | the stream without that |
| `usage-null` | the usage is null though it was asked for |
| `usage-unasked` | the usage comes though it was not asked for |
| `packed` | the whole stream in one packet |
| `split` | events in pieces, cut inside a character of several bytes and between CR and LF |
| `dribble` | the stream's bytes, framing and all, in packets of 16 |
| `comments` | ``: ping`` and blank lines between the events |
| `crlf` | lines that end with CR LF |
| `no-space` | ``data:{…}`` |
| `empty` | role-only and empty chunks before, between and behind the tokens |
| `reasoning` | the first two tokens are ``reasoning_content`` |
| `strict` | 422 where a request holds ``seed`` or ``max_tokens``, in the words of two gateways |
"""

from __future__ import annotations

import contextlib
import datetime as dt
import gzip
import ipaddress
import json
import re
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http import HTTPStatus
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

TOKENS = [" w0", " é", " 日本", " w3", " 🙂"]
USAGE = {"prompt_tokens": 3, "completion_tokens": len(TOKENS), "total_tokens": 3 + len(TOKENS)}
DONE = b"data: [DONE]\n\n"
NAMES = {
    re.sub(r"-([A-Z]|[0-9]+)$", "", name)
    for row in __doc__.splitlines()
    if row.startswith("| `")
    for name in re.findall("`([^`]+)`", row.split("|")[1])
}
RESET = struct.pack("ii", 1, 0)  # SO_LINGER without a wait: closing sends a reset


@contextmanager
def serving(tls: bool = False, host: str = "127.0.0.1") -> Iterator[Faults]:
    """Serve on a free port of `host`; with `tls` by a certificate that nobody knows (`certificate` is its file)."""
    with TemporaryDirectory() as folder:
        server = Faults(host, _certificate(Path(folder), host) if tls else None)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), name="faults")
        thread.start()
        try:
            yield server
        finally:
            server.die()
            thread.join()
            server.server_close()


class Faults(socketserver.ThreadingTCPServer):
    """The server; `requests` holds what was asked: path, headers (names in small letters) and body, JSON decoded."""

    request_queue_size = 1024

    def __init__(self, host, certificate):
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, 0), Client)
        self.certificate = certificate
        self.requests = []
        self.attempts = Counter()
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self._clients = set()
        self._tls = None
        if certificate:
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate)
        name = f"[{host}]" if ":" in host else host
        self.root = f"{'https' if certificate else 'http'}://{name}:{self.server_address[1]}"
        self.url = f"{self.root}/v1"

    def at(self, name: str) -> str:
        """Return the base URL at which every request gets that answer."""
        return f"{self.root}/{name}/v1"

    def die(self) -> None:
        """Listen no more and reset all connections."""
        self.shutdown()
        self.socket.close()
        with self.lock:
            for client in self._clients:
                with contextlib.suppress(OSError):
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                    client.shutdown(socket.SHUT_RD)  # ends a `recv` and sends nothing
        self.ended.set()

    def get_request(self):
        client, address = super().get_request()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(60)
        if self._tls:
            client = self._tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        with self.lock:
            self._clients.add(client)
        return client, address

    def shutdown_request(self, request):
        with self.lock:
            self._clients.discard(request)
        with contextlib.suppress(OSError):
            request.close()  # without a shutdown, so that a reset stays one

    def handle_error(self, request, client_address):
        pass  # clients leave, and some do not like the certificate


class Client(socketserver.BaseRequestHandler):
    """One connection."""

    def handle(self):
        self.received = b""
        while (asked := self._read()) and not self.server.ended.is_set():
            with self.server.lock:
                self.server.requests.append(asked)
            if self.answer(asked) is False:
                return

    def _read(self):
        head, body = self._until(b"\r\n\r\n"), b""
        if head is None:
            return None
        lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = int(headers.get("content-length", 0))
        while len(self.received) < length:
            if not (data := self.request.recv(1 << 16)):
                return None
            self.received += data
        body, self.received = self.received[:length], self.received[length:]
        return {"path": lines[0].split(" ")[1], "headers": headers, "body": json.loads(body) if body else None}

    def _until(self, mark):
        while mark not in self.received:
            if not (data := self.request.recv(1 << 16)):
                return None
            self.received += data
        found, _, self.received = self.received.partition(mark)
        return found

    def answer(self, asked):
        """Do what the table says; False: the connection is over."""
        body = asked["body"] or {}
        folder = asked["path"].split("/")[1]
        chosen = folder if folder != "v1" else str(body.get("model", "ok"))
        name, number = re.fullmatch(r"(.+?)(?:-(\d+))?", chosen).groups()
        number = int(number or 0)
        prompt = json.dumps(body.get("messages"))
        with self.server.lock:
            self.server.attempts[chosen, prompt] += 1
            self.server.attempts[chosen] += 1
            attempt, count = self.server.attempts[chosen, prompt], self.server.attempts[chosen]
        if asked["path"].endswith("/models"):
            return self.json(200, {"object": "list", "data": [{"id": "ok", "object": "model"}]})
        if name not in NAMES and not name.isdecimal():
            return self.error(404, f"The model {chosen} does not exist.")
        match name:
            case "retry-after" if attempt <= number:
                return self.error(429, "Tokens/minute limit exceeded", {"Retry-After": "1"})
            case "retry-after-date" if attempt <= number:
                date = formatdate(time.time() + 1, usegmt=True)
                return self.error(429, "Tokens/minute limit exceeded", {"Retry-After": date})
            case _ if name.isdecimal() and attempt <= number:
                return self.error(int(name), "not now")
            case "status":
                return self.error(number, "never")
            case "one-in" if count % number == 0:
                return self.error(500, "Internal server error")
            case "echo":
                return self.error(401, f"invalid token: {asked['headers'].get('authorization')}")
            case "error-text":
                page = b"<html><head><title>502 Bad Gateway</title></head></html>\r\n"
                return self.whole(502, page, {"Content-Type": "text/html"})
            case "html":
                return self.whole(200, b"<!doctype html><title>Log in</title>", {"Content-Type": "text/html"})
            case "redirect":
                here = self.server.root
                there = here.replace("127.0.0.1", "localhost").replace("[::1]", "localhost")
                path = "/ok/v1/chat/completions"
                location = path if number == 307 else there + path
                return self.whole(number, b"", {"Location": location})
            case "hang-up":
                return self.reset()
            case "strict" if "seed" in body:
                refused = {"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}
                return self.json(422, {"detail": [refused]})
            case "strict" if "max_tokens" in body:
                return self.json(400, {"error": {"message": "max_tokens: use max_completion_tokens"}})
            case "silent":
                return self.stall()
            case "dies" if count >= number:
                threading.Thread(target=self.server.die).start()
                return self.stall()
            case "half-body":
                self.request.sendall(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
                )
                return False
            case "gzip":
                packed = gzip.compress(json.dumps(_body()).encode())
                return self.whole(200, packed, {"Content-Type": "application/json", "Content-Encoding": "gzip"})
            case "json":
                return self.json(200, _body())
            case "slow-headers":
                return self.stream(_stream(), head_pause=0.001)
        return self._ok(name, number, body)

    def _ok(self, name, number, body):
        """Answer as asked, but for what may be wrong with the stream."""
        if not body.get("stream"):
            self.json(200, _body())
        elif name in ("reset", "cut", "stall"):
            self.stream(_stream()[: 1 + number], end=b"")
            return {"reset": self.reset, "cut": lambda: False, "stall": self.stall}[name]()
        elif name == "close-delimited":
            self.request.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + b"".join(_stream()))
            return False
        elif name == "packed":
            self.stream([b"".join(_stream())])
        elif name == "dribble":
            self.stream(_stream(), packet=16)
        else:
            self.stream(_variant(name, number, bool((body.get("stream_options") or {}).get("include_usage"))))
        return name != "close-idle"

    def error(self, status, message, headers=None):
        return self.json(status, {"error": {"message": message, "code": status}}, headers)

    def json(self, status, body, headers=None):
        return self.whole(status, json.dumps(body).encode(), {"Content-Type": "application/json", **(headers or {})})

    def whole(self, status, body, headers):
        self.request.sendall(_head(status, {**headers, "Content-Length": len(body)}) + body)

    def stream(self, pieces, *, head_pause=0.0, packet=0, end=b"0\r\n\r\n"):
        """Send each piece as a chunk and a packet of its own, or all in packets of so many bytes."""
        head = _head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        packets = [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces] + ([end] if end else [])
        if head_pause:
            for byte in head:
                self.request.sendall(bytes([byte]))
                time.sleep(head_pause)
        else:
            self.request.sendall(head)
        if packet:
            whole = b"".join(packets)
            packets = [whole[at : at + packet] for at in range(0, len(whole), packet)]
        for each in packets:
            self.request.sendall(each)
            time.sleep(0.001 if len(packets) < 1000 else 0)  # so that it stays a packet of its own

    def reset(self):
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        return False

    def stall(self):
        self.server.ended.wait()
        return False


def _variant(name, number, wants_usage):
    """Return the pieces of a stream by the table; where the fault is another's than the stream's, those of `ok`."""
    usage = _event(None, usage=USAGE)
    ok = _stream(wants_usage)
    role, *tokens = ok[: 1 + len(TOKENS)]
    rest = ok[1 + len(TOKENS) :]
    empty = _event({"content": ""})
    match name:
        case "no-done":
            return [each for each in ok if each != DONE]
        case "no-usage":
            return _stream(wants_usage=False)
        case "usage-null":
            return [*_stream(wants_usage=False)[:-1], _event({}, usage=None), DONE]
        case "usage-unasked":
            return [*_stream(wants_usage=False)[:-1], usage, DONE]
        case "error-event":
            return [role, *tokens[:number], b'event: error\ndata: {"message": "out of memory"}\n\n']
        case "error-data":
            return [role, *tokens[:number], b'data: {"error": {"message": "out of memory", "code": 500}}\n\n', DONE]
        case "invalid-json":
            return [role, *tokens[:2], b'data: {"choices": [{"delta": {"cont\n\n', *tokens[2:], *rest]
        case "large":
            return [role, _event({"content": " w" * (1 << 19)}), *rest]
        case "many":
            return [role, *[_event({"content": f" w{n}"}) for n in range(10_000)], *rest]
        case "comments":
            return [part for each in ok for part in (b": ping\n\n", b"\n", each)]
        case "crlf":
            return [each.replace(b"\n", b"\r\n") for each in ok]
        case "split":
            return [part for each in ok for part in _cut(each.replace(b"\n", b"\r\n"))]
        case "no-space":
            return [each.replace(b"data: ", b"data:") for each in ok]
        case "empty":
            return [role, role, empty, *[part for each in tokens for part in (each, empty)], _event({}), *rest]
        case "reasoning":
            thoughts = [_event({"reasoning_content": token}) for token in TOKENS[:2]]
            return [role, *thoughts, *tokens[2:], *rest]
    return ok


def _stream(wants_usage=True):
    """Return the events of a stream: the role, the tokens, the reason of the end, the usage, [DONE]."""
    tokens = [_event({"content": token}) for token in TOKENS]
    usage = [_event(None, usage=USAGE)] if wants_usage else []
    return [_event({"role": "assistant", "content": ""}), *tokens, _event({}, "stop"), *usage, DONE]


def _event(delta, reason=None, **more):
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    event = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices}
    return f"data: {json.dumps({**event, **more}, ensure_ascii=False)}\n\n".encode()


def _cut(event):
    """Cut an event behind its first bytes, inside its first long character, and before its last LF."""
    inside = next((at for at, byte in enumerate(event) if 0x80 <= byte < 0xC0), 20)
    return [event[:3], event[3:inside], event[inside:-1], event[-1:]]


def _body():
    message = {"role": "assistant", "content": "".join(TOKENS)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    told = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m"}
    return {**told, "choices": [choice], "usage": USAGE}


def _head(status, headers):
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _certificate(folder: Path, host: str) -> Path:
    """Make a certificate that signs itself, valid for `host` and localhost; the file holds its key too."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "faults")])
    now = dt.datetime.now(dt.timezone.utc)
    names = [x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("localhost")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "certificate.pem"
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(key.private_bytes(*plain) + certificate.public_bytes(serialization.Encoding.PEM))
    return file
