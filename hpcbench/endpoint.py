"""An inference endpoint as a site describes it: its token, its models, and whether the one asked for is loaded."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

from hpcbench.errors import HpcbenchError
from hpcbench.metrics import shown
from hpcbench.site import Endpoint, Token

_TIMEOUT = 20  # seconds


class NoTokenError(HpcbenchError):
    """A token cannot be had; `mend` says what to do."""

    exit_code = 3

    def __init__(self, message: str, mend: str) -> None:
        self.mend = mend
        super().__init__(message)


def token(source: Token) -> tuple[str, str]:
    """Read a token now, and say where from. It goes nowhere but into a request. Raises `NoTokenError`."""
    ways = [f"export {source.env}=..."] if source.env else []
    ways += [f"log in with {source.command[0]}"] if source.command else []
    mend = " or ".join(ways)
    if source.env is not None and (value := os.environ.get(source.env, "").strip()):
        where = f"the environment variable {source.env}"
        return _checked(value, where, mend), where
    if not source.command:
        raise NoTokenError(f"the environment variable {source.env} is not set", mend)
    said = shlex.join(source.command)
    try:
        done = subprocess.run(source.command, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except subprocess.TimeoutExpired:
        raise NoTokenError(f"{said}: no answer in 60 s", mend) from None
    except OSError as error:
        raise NoTokenError(f"{said}: {error.strerror}", mend) from None
    if done.returncode != 0 or not done.stdout.strip():
        raise NoTokenError(f"{said} ended with status {done.returncode} and printed no token", mend)
    return _checked(done.stdout.strip(), said, mend), said


def _checked(value: str, source: str, mend: str) -> str:
    """Refuse what is more than a token: no message may quote it, and no header can hold it."""
    if not value.isascii() or not value.isprintable() or " " in value:
        raise NoTokenError(f"{source}: what it gives is not a token alone", mend)
    return value


def models_url(endpoint: Endpoint) -> str:
    """Return where the endpoint lists its models."""
    return endpoint.models or endpoint.base_url.rstrip("/") + "/models"


def models(endpoint: Endpoint, key: str) -> list[str]:
    """Ask for the names of the models; raises `OSError` or `ValueError` where there is no such answer."""
    return sorted(set(_names(_get(models_url(endpoint), key))))


def model_state(endpoint: Endpoint, key: str) -> str:
    """Ask whether the model is loaded: ``running``, or the gateway's word for what it is instead.

    Raises `OSError` or `ValueError` where there is no answer.
    """
    assert endpoint.status
    told = _get(endpoint.status, key)
    asked = {endpoint.model, *endpoint.aliases}
    for word in ("running", "queued", "stopped", "others"):
        for entry in _listed(told, word):
            if isinstance(entry, dict) and asked & {name.strip() for name in str(entry.get("Models", "")).split(",")}:
                return shown(str(entry.get("Model Status") or word), 40)
    return "not loaded"


def _names(listed: Any) -> Iterator[str]:
    """Find the models in OpenAI's list, or in a gateway's ``clusters.X.frameworks.Y.models``."""
    for entry in _listed(listed, "data"):
        if isinstance(entry, dict) and isinstance(entry.get("id"), str):
            yield entry["id"]
    for cluster in _listed(listed, "clusters"):
        for framework in _listed(cluster, "frameworks"):
            yield from (name for name in _listed(framework, "models") if isinstance(name, str))


def _listed(value: Any, key: str) -> list[Any]:
    """Return what stands under a key, in a list or under names of its own; nothing where it is neither."""
    found = value.get(key) if isinstance(value, dict) else None
    if isinstance(found, dict):
        return list(found.values())
    return found if isinstance(found, list) else []


def _get(url: str, key: str) -> Any:
    """Fetch JSON; the address begins with http, which the site file was checked for."""
    request = urllib.request.Request(url)  # noqa: S310
    if key:  # not for whoever a redirection leads to
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as answer:  # noqa: S310
            return json.loads(answer.read(1 << 24))
    except (HTTPException, RecursionError) as error:
        raise ValueError(f"no answer of HTTP with JSON: {type(error).__name__}") from None
