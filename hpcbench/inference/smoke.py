"""Whether an endpoint answers: one tiny chat request, and where that fails, what is wrong and how to mend it."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
import ssl
import time
import urllib.parse
import urllib.request
from dataclasses import dataclass
from typing import Literal

from hpcbench import endpoint
from hpcbench import site as sites
from hpcbench.errors import HpcbenchError, UsageError
from hpcbench.inference.decode import blanked
from hpcbench.metrics import shown
from hpcbench.site import Endpoint

_TIMEOUT = 60.0  # seconds
_LIMIT = 64  # output tokens: enough for a model that reasons first
_PROMPT = "Reply with the one word: ready"
# What comes of asking a server for a list that it does not have.
_NO_ANSWER = (OSError, ValueError)

Problem = Literal[
    "dns", "connection", "tls", "timeout", "token missing", "token refused", "model unknown", "model cold", "quota",
    "schema", "content", "empty", "server",
]  # fmt: skip


class SmokeError(HpcbenchError):
    """An endpoint does not do what it should: what was seen, and what to do about it."""

    def __init__(self, problem: Problem, said: str, mend: str = "") -> None:
        self.problem, self.said, self.mend = problem, said, mend
        self.exit_code = 1 if problem == "empty" else 3
        super().__init__(f"{said}; {mend}" if mend else said)


@dataclass(frozen=True)
class Reply:
    """What a model said.

    `asked` is the site file's name for `model`. `latency` is in seconds, from the call to the whole answer, the opening
    of the connection included. Tokens are the server's count; None where it gives none.
    """

    site: str
    asked: str
    model: str
    latency: float
    text: str
    input_tokens: int | None
    output_tokens: int | None


def smoke(name: str) -> Reply:
    """Ask the model of a site for one word; raises `SmokeError`, or `UsageError` where the site has no endpoint."""
    site = sites.load(name)
    where = site.endpoint
    if where is None:
        raise UsageError(f"site {name} has no endpoint: `hpcbench check {name}` tells whether its jobs can run")
    try:
        import openai
    except ImportError:
        raise UsageError("the package openai is not installed: pip install 'hpcbench[inference]'") from None
    try:
        address = _address(where.base_url)
    except ValueError:
        raise site.origin.error("endpoint.base_url: it names no host", "endpoint", "base_url") from None
    key, source = "", ""
    if where.token is not None:
        try:
            key, source = endpoint.token(where.token)
        except endpoint.NoTokenError as error:
            raise SmokeError("token missing", str(error), error.mend) from None
    asked = _Asked(where, address, key, source, _known_name(where, key))
    limit = "max_tokens"
    # The SDK insists on a key; a server that wants none ignores it.
    with openai.OpenAI(base_url=where.base_url, api_key=key or "none", max_retries=0, timeout=_TIMEOUT) as client:
        while True:
            began = time.perf_counter()
            try:
                answer = client.chat.completions.with_raw_response.create(
                    model=asked.model, messages=[{"role": "user", "content": _PROMPT}], extra_body={limit: _LIMIT}
                )
                latency = time.perf_counter() - began
                return Reply(name, where.model, asked.model, latency, *asked.read(answer.http_response.text))
            except openai.APIStatusError as error:
                status, body = error.status_code, error.response.text
                if status in (400, 422) and limit == "max_tokens" and "max_completion_tokens" in body:
                    limit = "max_completion_tokens"  # what newer models of OpenAI insist on
                    continue
                raise asked.refused(status, error.response.headers.get("retry-after", ""), _message(body)) from None
            except openai.APITimeoutError:
                said = f"no answer from {address} in {_TIMEOUT:g} s"
                mend = "is a firewall in the way, or is the model still being loaded?"
                raise SmokeError("timeout", said, mend) from None
            except openai.APIConnectionError as error:
                raise asked.unreachable(error) from None


@dataclass(frozen=True)
class _Asked:
    """One request: where it goes, with which token, and the model's name there."""

    where: Endpoint
    address: str
    key: str
    source: str
    model: str

    def quoted(self, text: str, length: int = 200) -> str:
        """Write what a server said on one line, without the token, which some servers repeat."""
        return shown(" ".join(blanked(text, [self.key]).split()), length)

    def read(self, body: str) -> tuple[str, int | None, int | None]:
        """Return an answer's text and the tokens of input and output."""
        try:
            answer = json.loads(body)
            choice = answer["choices"][0]
            content = choice["message"].get("content") or ""
            usage = answer.get("usage") or {}
            counts = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
            text = self.quoted(content)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise SmokeError(
                "content", f"{self.address} answers, but not as OpenAI's protocol says: {self.quoted(body, 120)}",
                "is `endpoint.base_url` right? It often ends in /v1",
            ) from None  # fmt: skip
        if not text:
            thought = choice.get("finish_reason") == "length"
            raise SmokeError(
                "empty", f"{self.model} answers, and says nothing",
                f"its {_LIMIT} tokens went into reasoning: a benchmark must allow more" if thought else "try again",
            )  # fmt: skip
        known = [count if type(count) is int and count >= 0 else None for count in counts]
        return text, known[0], known[1]

    def refused(self, status: int, retry_after: str, message: str) -> SmokeError:
        """Say what an answer with an error's status means."""
        said = f"status {status}: {self.quoted(message)}" if message.strip() else f"status {status}"
        wait = (
            f"try again in {retry_after} s" if retry_after.isdecimal() and len(retry_after) < 7 else "try again later"
        )
        if status in (401, 403) and not self.key:
            return SmokeError("token missing", f"{self.address} wants a token: {said}", "name one in `endpoint.token`")
        if status == 401:
            return SmokeError("token refused", f"the token from {self.source} is not accepted: {said}", "get a new one")
        if status == 403:
            return SmokeError(
                "token refused", f"the token from {self.source} may not do this: {said}", "ask for access to the model"
            )
        if status in (400, 404):
            names = _names(self.where, self.key)
            if names and self.model not in names:
                there = self.quoted(", ".join(names), 300)
                return SmokeError("model unknown", f"no {self.model}: there is {there}", "change `endpoint.model`")
            if not names and self.model in message:
                return SmokeError("model unknown", f"{self.model} is refused: {said}", "change `endpoint.model`")
        if status == 404:
            return SmokeError(
                "server",
                f"{self.address}/chat/completions: {said}",
                "is `endpoint.base_url` right? It often ends in /v1",
            )
        if status == 422:
            return SmokeError(
                "schema", f"a field of the request is not accepted: {said}", "its own documentation says which it takes"
            )
        if status == 429:
            return SmokeError("quota", f"a limit is reached: {said}", wait)
        if status in (408, 504):
            return SmokeError("timeout", f"the gateway gave up waiting: {said}", wait)
        if status == 503:
            state = self.state()
            if state == "running":
                return SmokeError("server", f"{self.model} is loaded, but overloaded: {said}", wait)
            state = f"is not ready ({state})" if state else "is not ready"
            return SmokeError("model cold", f"{self.model} {state}: {said}", f"{wait}: a model takes minutes to load")
        return SmokeError("server", f"{self.address}: {said}", "its own log says more" if status >= 500 else "")

    def state(self) -> str:
        """Ask the gateway whether the model is loaded; empty where it does not tell."""
        if self.where.status is None:
            return ""
        try:
            return self.quoted(endpoint.model_state(self.where, self.key))
        except _NO_ANSWER:
            return ""

    def unreachable(self, error: BaseException) -> SmokeError:
        """Say why there was no answer at all: the SDK hides the reason below two layers of its own."""
        cause = error
        while not isinstance(cause, OSError) and (below := cause.__cause__ or cause.__context__):
            cause = below
        why = self.quoted(str(getattr(cause, "strerror", None) or cause))
        proxy = _proxy(self.where.base_url)
        if isinstance(cause, socket.gaierror):
            host = proxy or urllib.parse.urlsplit(self.where.base_url).hostname
            return SmokeError("dns", f"{host} has no address: {why}", "is its name right, and this machine online?")
        if isinstance(cause, ssl.SSLCertVerificationError):
            said = f"{self.address}: its certificate is not accepted: {self.quoted(cause.verify_message)}"
            mends = {
                **dict.fromkeys((62, 64), "change `endpoint.base_url` to a name that the certificate holds"),
                **dict.fromkeys((9, 10), "is this machine's clock right? Else it must be renewed"),
            }  # X509_verify_cert_error_string(3): hostname, address; not yet valid, expired
            ours = "set SSL_CERT_FILE to a file with the certificate of who signed it"
            return SmokeError("tls", said, mends.get(cause.verify_code, ours))
        if isinstance(cause, ssl.SSLError):
            return SmokeError("tls", f"{self.address} does not speak TLS: {why}", "is it http:// and not https://?")
        mend = "is the server up, the port right?"
        return SmokeError("connection", f"no connection to {proxy or self.address}: {why}", mend)


def _known_name(where: Endpoint, key: str) -> str:
    """Return the name that the model has there now: an alias where the list has that alone."""
    names = _names(where, key) if where.aliases else []
    return next((name for name in (where.model, *where.aliases) if name in names), where.model)


def _names(where: Endpoint, key: str) -> list[str]:
    try:
        return endpoint.models(where, key)
    except _NO_ANSWER:
        return []


def _message(body: str) -> str:
    """Find the words in an error's body, whose form each server chooses; all of it where it has none of them."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return re.sub(r"<[^<>]*>", " ", body)
    for _ in range(2):
        found = [told[key] for key in ("error", "message", "detail") if isinstance(told, dict) and told.get(key)]
        told = found[0] if found else told
    return told if isinstance(told, str) else json.dumps(told, ensure_ascii=False)


def _address(url: str) -> str:
    """Return a URL without what may be secret in it; raises `ValueError` where it names no host."""
    parts = urllib.parse.urlsplit(url)
    host, port = parts.hostname, parts.port
    if not host:
        raise ValueError("no host")
    if re.fullmatch(r"[0-9.]+", host):
        ipaddress.IPv4Address(host)
    host.encode("idna")
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


def _proxy(url: str) -> str:
    """Name the proxy that requests to a URL go through; empty where there is none."""
    parts = urllib.parse.urlsplit(url)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return ""
    return f"the proxy {urllib.parse.urlsplit(proxy).hostname}"
