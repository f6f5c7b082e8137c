"""Whether a site can be used: each thing that a run needs of it, tried, and the mend where it is not there."""

from __future__ import annotations

import shutil
import urllib.error
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from hpcbench import directives, endpoint, render
from hpcbench import site as sites
from hpcbench.errors import HpcbenchError, SiteError
from hpcbench.inference import embedded
from hpcbench.metrics import quantity, shown
from hpcbench.site import Endpoint, Site, seconds
from hpcbench.submit.fetch import Answers
from hpcbench.submit.reach import connect
from hpcbench.submit.schedulers import scheduler

_NEEDED = ("tar", "gzip", "find", "sed", "awk", "comm", "xargs", "mktemp", "timeout", "base64")
_FEEDER = ("flock", "setsid")  # where hpcbench brings its own feeder


_TOLD = ("MaxTime", "resources_max.walltime", "queue")  # facts that have a line of their own


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
    if site.endpoint is not None and site.here:
        yield from _endpoint(site.endpoint)
    if site.by_hand:
        yield from _by_hand(site)
    elif site.here and site.endpoint is None:
        yield Line("reach", "ok", f"this machine, {len(site.available_cores)} cores for cases")
        yield _interpreter(site)
        for server, address, model in embedded.running():
            yield Line("endpoint", "ok", f"{server} answers at {address}, model {model}: a site file can name it")
    elif not site.here:
        yield from _remote(site)
        if site.endpoint is not None:  # beside its jobs: who does not measure it needs no token
            for line in _endpoint(site.endpoint):
                yield replace(line, verdict="unknown") if line.verdict == "bad" else line


def _remote(site: Site) -> Iterator[Line]:
    """Try a site that is reached by ssh, or whose scheduler is at hand, in one round trip."""
    kind = scheduler(site.scheduler)
    # `check` leaves nothing behind: the folder is tried with a file that is deleted again
    script = f'{kind.script}\n"$@"\n'
    where = str(site.reach if isinstance(site.reach, str) else site.reach.ssh)
    answers = Answers(where)
    needed = (*_NEEDED, *(_FEEDER if site.scheduler in ("process", "cerebras") else ()))
    wanted = kind.facts_wanted(site.place())
    job = ""
    try:
        job = _job(site) if site.scheduler == "slurm" else ""
    except HpcbenchError as error:
        yield Line("job", "bad", str(error))
    try:
        with connect(site.reach, site.name) as way:
            answers.where = way.where
            way.call(script, "hb_check", site.folder or ".", site.interpreter, site.job.account or "", job,
                     *needed, "--", *wanted, sink=answers.feed)  # fmt: skip
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


def _job(site: Site) -> str:
    """Write a job script that asks for what every job of a site asks for, and does nothing."""
    job = site.job
    asked = directives.Resources(job.nodes or 1, job.cores, job.gpus, job.memory, job.time)
    head = directives.head(render.job_template(directives.head_name(site)), "hb-check", asked, site)
    return f"{head}true\n"


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
    longest = facts.get("MaxTime") or facts.get("resources_max.walltime", "")
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
        if "MaxTime" not in facts and "queue" not in facts:
            yield Line("partition", "bad", f"there is no {name}", "change `job.partition` or `job.queue`")
    verdict = answers.texts.get("try", (0, ""))[1].strip()
    why = shown(" ".join(answers.texts.get("try-errors", (0, ""))[1].split()), 300)
    if verdict == "ok":
        yield Line("job", "ok", "a job of this site would be accepted")
    elif verdict == "rejected":
        yield Line("job", "bad", why, "change `job` in the site file")
    elif verdict:
        yield Line("job", "unknown", why)
    others = [f"{name} {value}" for name, value in facts.items() if name not in _TOLD]
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


def _endpoint(where: Endpoint) -> Iterator[Line]:
    """Try an endpoint: its token, whether it answers, whether it has the model and has it loaded."""
    token = ""
    if where.token is not None:
        try:
            token, source = endpoint.token(where.token)
        except endpoint.NoTokenError as error:
            yield Line("token", "bad", str(error), error.mend)
            return
        yield Line("token", "ok", f"from {source}")
    try:
        names = endpoint.models(where, token)
    except urllib.error.HTTPError as error:
        mend = {
            401: "the token is not accepted: get a new one",
            403: "the account may not use it",
            404: "is `endpoint.base_url` right? It often ends in /v1",
        }.get(error.code, "")
        yield Line("endpoint", "bad", f"{endpoint.models_url(where)}: status {error.code} {error.reason}", mend)
        return
    except (OSError, ValueError) as error:
        below = getattr(error, "reason", None) or error
        reason = shown(str(getattr(below, "strerror", None) or below), 200)
        yield Line("endpoint", "bad", f"{endpoint.models_url(where)}: {reason}", "is the address right, the server up?")
        return
    yield Line("endpoint", "ok", endpoint.models_url(where))
    found = [name for name in [where.model, *where.aliases] if name in names]
    if found:
        now = "" if found[0] == where.model else f", which {where.model} is called there"
        others = [name for name in names if name != found[0]]
        beside = f"; also there: {shown(', '.join(others), 200)}" if others else ""
        yield Line("model", "ok", found[0] + now + beside)
    elif names:
        there = shown(", ".join(names), 300)
        yield Line("model", "bad", f"no {where.model}: there is {there}", "change `endpoint.model`")
    else:
        yield Line("model", "unknown", "the list of models is empty")
    if where.status is not None:
        try:
            state = endpoint.model_state(where, token)
        except (OSError, ValueError) as error:
            yield Line("model state", "unknown", f"{where.status}: {shown(str(error), 200)}")
            return
        mend = "" if state == "running" else "its first request waits until it is loaded"
        yield Line("model state", "ok" if state == "running" else "unknown", state, mend)
