"""Whether a site can be used: each thing that a run needs of it, tried, and the mend where it is not there."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from hpcbench import site as sites
from hpcbench.errors import SiteError
from hpcbench.metrics import quantity, shown
from hpcbench.site import Endpoint, Site, seconds
from hpcbench.submit import transport
from hpcbench.submit.fetch import Answers
from hpcbench.submit.scheduler import scheduler

_NEEDED = ("tar", "gzip", "find", "sed", "awk", "comm", "xargs", "mktemp")


@dataclass(frozen=True)
class Line:
    """One thing that was tried."""

    what: str
    verdict: Literal["ok", "unknown", "bad"]
    said: str
    mend: str = ""


def check(name: str) -> Iterator[Line]:
    """Yield what was tried of a site, as it goes; raises `ConfigError` where its file is wrong."""
    site = sites.load(name)
    if site.endpoint is not None:
        yield from _endpoint(site.endpoint)
    if site.by_hand:
        yield from _by_hand(site)
    elif site.here and site.endpoint is None:
        yield Line("reach", "ok", f"this machine, {len(site.available_cores)} cores for cases")
        yield _interpreter(site)
    elif not site.here:
        yield from _remote(site)


def _remote(site: Site) -> Iterator[Line]:
    """Try a site that is reached by ssh, or whose scheduler is at hand, in one round trip."""
    kind = scheduler(site.scheduler)
    # `check` leaves nothing behind: the folder is tried with a file that is deleted again
    script = f'{kind.script}\n"$@"\n'
    where = str(site.reach if isinstance(site.reach, str) else site.reach.ssh)
    answers = Answers(where)
    wanted = kind.facts_wanted({"partition": site.job.partition or site.job.queue or ""})
    try:
        with transport.of(site) as way:
            answers.where = way.where
            way.call(script, "hb_check", site.folder or ".", site.interpreter, site.job.account or "", *_NEEDED, "--",
                     *wanted, sink=answers.feed)  # fmt: skip
    except SiteError as error:
        yield Line("login" if error.needs_login else "reach", "bad", str(error))
        return
    said = {words[0]: words[1:] for words in answers.lines if words}
    if "host" not in said:
        yield Line("reach", "bad", f"{where} answers, but not as a bash does")
        return
    yield Line("reach", "ok", f"{shown(' '.join(said['host']))}")
    if missing := said.get("missing"):
        yield Line("tools", "bad", f"{' '.join(missing)} not found there", "ask the site's administrators")
    if problem := said.get("problem"):
        yield Line("folder", "bad", shown(" ".join(problem), 300), "change `folder` in the site file")
    elif folder := said.get("folder"):
        free = quantity(float(folder[1]) * 1024, "B") if len(folder) > 1 and folder[1].isdigit() else "unknown"
        yield Line("folder", "ok", f"{folder[0]}, {free} free")
    python = said.get("python", [""])[0]
    yield (
        Line("python", "ok", python)
        if python
        else Line("python", "unknown", f"no {site.interpreter} before the site's setup ran", "see `setup` and `python`")
    )
    yield from _scheduler(site, answers)


def _scheduler(site: Site, answers: Answers) -> Iterator[Line]:
    if site.scheduler in ("process", "cerebras"):
        if site.scheduler == "cerebras":
            found = answers.texts.get("tools", (1, ""))[1].split()
            yield (
                Line("scheduler", "ok", "csctl is there")
                if "csctl" in found
                else Line("scheduler", "bad", "csctl is not there", "is this the user node? see `reach.then`")
            )
        return
    status, text = answers.texts.get("facts", (1, ""))
    facts = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if status != 0 or not facts:
        why = answers.texts.get("facts-errors", (1, ""))[1]
        yield Line(
            "scheduler", "bad", shown(f"{site.scheduler} does not answer: {why or text}", 300), "is it the login node?"
        )
        return
    yield Line("scheduler", "ok", f"{site.scheduler} answers")
    status, text = answers.texts.get("account", (1, ""))
    accounts = text.split()
    if site.job.account and accounts:
        known = site.job.account in accounts
        yield (
            Line("account", "ok", site.job.account)
            if known
            else Line(
                "account", "bad", f"no {site.job.account}: there is {', '.join(accounts)}", "change `job.account`"
            )
        )
    elif site.job.account:
        yield Line("account", "unknown", f"{site.job.account}: the scheduler does not tell which there are")
    longest = facts.get("MaxTime", "")
    if limit := _seconds(longest):
        asked = site.job.seconds
        yield (
            Line(
                "time",
                "bad",
                f"jobs may ask for {longest}, the site file asks for {site.job.time}",
                "change `job.time`",
            )
            if asked and asked > limit
            else Line("time", "ok", f"jobs may ask for {longest}")
        )
    elif site.job.partition or site.job.queue:
        name = site.job.partition or site.job.queue
        if "MaxTime" not in facts:
            yield Line("partition", "bad", f"there is no {name}", "change `job.partition` or `job.queue`")
    others = [f"{name} {value}" for name, value in facts.items() if name != "MaxTime"]
    if others:
        yield Line("limits", "ok", ", ".join(others))


def _seconds(time: str) -> int | None:
    """Read a limit as Slurm (``2-00:00:00``) and PBS (``24:00:00``) write it; None where there is none."""
    days, _, rest = time.rpartition("-")
    parts = rest.split(":")
    if len(parts) > 3 or not all(part.isdigit() for part in [*parts, days or "0"]):
        return None
    return int(days or 0) * 86400 + seconds(":".join([*["0"] * (3 - len(parts)), *parts]))


def _interpreter(site: Site) -> Line:
    found = shutil.which(site.interpreter)
    if found is None:
        return Line("python", "bad", f"there is no {site.interpreter}", "change `python` in the site file")
    return Line("python", "ok", found)


def _by_hand(site: Site) -> Iterator[Line]:
    tool = "colab" if site.scheduler == "notebook" else "modal"
    if found := shutil.which(tool):
        yield Line("tool", "ok", f"{found}: submit --wait drives it")
    else:
        by = "pip install google-colab-cli (Python 3.12)" if tool == "colab" else "pip install modal"
        yield Line("tool", "unknown", f"no {tool} here: the run is carried there by hand", by)


def _endpoint(endpoint: Endpoint) -> Iterator[Line]:
    """Try an endpoint: its token, whether it answers, whether it has the model."""
    token = ""
    if endpoint.token is not None:
        line, token = _token(endpoint)
        yield line
        if line.verdict == "bad":
            return
    url = endpoint.models or endpoint.base_url.rstrip("/") + "/models"
    try:
        listed = _get(url, token)
    except urllib.error.HTTPError as error:
        mend = {401: "the token is not accepted: make a new one", 403: "the account may not use it"}.get(error.code, "")
        yield Line("endpoint", "bad", f"{url}: status {error.code} {error.reason}", mend)
        return
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        yield Line("endpoint", "bad", f"{url}: {shown(str(reason), 200)}", "is the address right, and the server up?")
        return
    yield Line("endpoint", "ok", url)
    names = sorted(_models(listed))
    asked = [endpoint.model, *endpoint.aliases]
    if found := [name for name in asked if name in names]:
        yield Line(
            "model", "ok", found[0] + ("" if found[0] == endpoint.model else f", as {endpoint.model} is called now")
        )
    elif names:
        yield Line(
            "model", "bad", f"no {endpoint.model}: there is {shown(', '.join(names), 300)}", "change `endpoint.model`"
        )
    else:
        yield Line("model", "unknown", "the list of models is empty")
    if endpoint.status is not None:
        yield _model_state(endpoint, token)


def _get(url: str, token: str) -> Any:
    """Fetch JSON from an endpoint; its address begins with http, which the site file was checked for."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310
    with urllib.request.urlopen(request, timeout=20) as answer:  # noqa: S310
        return json.loads(answer.read(1 << 24))


def _model_state(endpoint: Endpoint, token: str) -> Line:
    """Say whether the model is loaded: the first request of a cold one takes minutes."""
    assert endpoint.status
    try:
        told = _get(endpoint.status, token)
    except (OSError, ValueError) as error:
        return Line("model state", "unknown", f"{endpoint.status}: {shown(str(error), 200)}")
    for word in ("running", "queued", "stopped", "others"):
        entries = told.get(word) if isinstance(told, dict) else None
        for entry in entries if isinstance(entries, list) else ():
            names = str(entry.get("Models", "")) if isinstance(entry, dict) else ""
            if {endpoint.model, *endpoint.aliases} & {name.strip() for name in names.split(",")}:
                hot = word == "running" and str(entry.get("Model Status", "running")) == "running"
                state = shown(str(entry.get("Model Status", word)))
                return Line("model state", "ok" if hot else "unknown", state, "" if hot else "its first request waits")
    return Line("model state", "unknown", "not loaded", "its first request waits until it is")


def _models(listed: Any) -> Iterator[str]:
    """Find the models in OpenAI's list, or in the gateway's ``clusters.X.frameworks.Y.models``."""
    if isinstance(listed, dict):
        for entry in listed.get("data") or ():
            if isinstance(entry, dict) and isinstance(entry.get("id"), str):
                yield entry["id"]
        for cluster in (listed.get("clusters") or {}).values():
            for framework in ((cluster or {}).get("frameworks") or {}).values():
                yield from (name for name in (framework or {}).get("models") or () if isinstance(name, str))


def _token(endpoint: Endpoint) -> tuple[Line, str]:
    """Read a token at the moment of use; it goes nowhere but into the request."""
    source = endpoint.token
    assert source
    if source.env is not None and (value := os.environ.get(source.env)):
        return Line("token", "ok", f"from the environment variable {source.env}"), value
    if source.command:
        shown_command = shlex.join(source.command)
        try:
            done = subprocess.run(source.command, capture_output=True, text=True, timeout=60, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            reason = error.strerror if isinstance(error, OSError) else "no answer in 60 s"
            return Line("token", "bad", f"{shown_command}: {reason}", _token_mend(endpoint)), ""
        if done.returncode == 0 and done.stdout.strip():
            return Line("token", "ok", f"from {shown_command}"), done.stdout.strip()
        return Line("token", "bad", f"{shown_command} ended with status {done.returncode}", _token_mend(endpoint)), ""
    return Line("token", "bad", f"the environment variable {source.env} is not set", _token_mend(endpoint)), ""


def _token_mend(endpoint: Endpoint) -> str:
    source = endpoint.token
    assert source
    ways = [f"export {source.env}=..."] if source.env else []
    ways += ["log in again with the command's own tool"] if source.command else []
    return " or ".join(ways)
