"""Requests as an endpoint wants them: address, token, and the words of its protocol."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from hpcbench import endpoint as endpoints
from hpcbench.errors import HpcbenchError
from hpcbench.inference import choice
from hpcbench.inference.prompts import Prompt
from hpcbench.inference.wire import Wire
from hpcbench.site import Endpoint

_OPTIONS = {"max_tokens": "num_predict", "temperature": "temperature", "seed": "seed"}  # Ollama's names
_SAME = ("model", "messages", "stream", "logprobs", "top_logprobs")  # what it calls so, too


class Asker:
    """Writes requests; knows the token, which goes nowhere else. Raises `NoTokenError` where there is none."""

    def __init__(self, where: Endpoint, wire: Wire) -> None:
        self._where, self._wire = where, wire
        self._headers: dict[str, str] = {}
        self._read()

    def _read(self) -> bool:
        if self._where.token is None:
            return False
        before = dict(self._headers)
        key, _ = endpoints.token(self._where.token)
        self._headers = {"Authorization": f"Bearer {key}"}
        return self._headers != before

    async def renew(self) -> bool:
        """Read the token anew, where it comes from a command; tells whether it is another one."""
        if self._where.token is None or not self._where.token.command:
            return False
        try:
            return await asyncio.get_running_loop().run_in_executor(None, self._read)
        except HpcbenchError:
            return False

    def body(self, asked: Mapping[str, Any]) -> bytes:
        """Write the body of a request, given as OpenAI's protocol has it."""
        told = as_ollama(asked) if self._where.api == "ollama" else asked
        return json.dumps(told, ensure_ascii=False).encode("utf-8", "replace")

    def post(self, asked: Mapping[str, Any]) -> bytes:
        """Write a request."""
        return self.bytes(self.body(asked), text="prompt" in asked)

    def bytes(self, body: bytes, *, text: bool = False) -> bytes:
        """Write a request with this body, which asks for an answer to messages, or for how a `text` goes on."""
        path = "/api/chat" if self._where.api == "ollama" else "/completions" if text else "/chat/completions"
        return self._wire.post(path, self._headers, body)


def base_url(where: Endpoint) -> str:
    """Return what the paths of the endpoint's protocol are put behind."""
    base = where.base_url.rstrip("/")
    return base.removesuffix("/v1") if where.api == "ollama" else base


def asks(fields: Mapping[str, Any], limit: str, prompt: Prompt) -> dict[str, Any]:
    """Say what a request asks; a prompt's own limit of tokens goes before that of all."""
    own = {} if prompt.max_tokens is None else {limit: prompt.max_tokens}
    if prompt.put is not None and choice.protocol(fields) == choice.COMPLETIONS:
        return {**fields, **own, "prompt": prompt.put.text}
    return {**fields, **own, "messages": [{"role": role, "content": content} for role, content in prompt.messages]}


def as_ollama(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Say the same in Ollama's own words (https://docs.ollama.com/api/chat)."""
    options = {_OPTIONS[name]: value for name, value in asked.items() if name in _OPTIONS}
    same = {name: asked[name] for name in _SAME if name in asked}
    return {**same, "options": options}
