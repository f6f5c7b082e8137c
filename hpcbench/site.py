"""A site: where jobs run and how they are reached. One YAML file."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from hpcbench import config, process
from hpcbench.errors import ConfigError, UsageError, nearest

_VERBATIM = frozenset({"setup"})  # bash, which expands ${...} itself, on the site
# Host and user names go to ssh as words of its command line: none may look like an option or hold shell code.
_HOST = r"^[A-Za-z0-9_][A-Za-z0-9._:-]{0,252}$"
_USER = r"^[A-Za-z0-9_][A-Za-z0-9._@-]{0,63}$"
# What schedulers read as directives: no blank, quote, comment or line break can stand in it.
_WORD = r"^[A-Za-z0-9_][A-Za-z0-9._:+,@/=-]{0,127}$"
MEMORY = r"^[1-9][0-9]{0,6}(M|G|T)$"
TIME = r"^[0-9]{1,4}:[0-5][0-9]:[0-5][0-9]$"
_URL = r"^https?://[^\s]{1,500}$"

Host = Annotated[str, Field(pattern=_HOST)]
Word = Annotated[str, Field(pattern=_WORD)]
Time = Annotated[str, Field(pattern=TIME)]
Package = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._,<>=!~\[\]-]{0,99}$")]
Count = Annotated[int, Field(ge=1)]


class Reach(config.Model):
    """How a site is reached by ssh. What is left out comes from ``~/.ssh/config``."""

    ssh: Host
    user: Annotated[str, Field(pattern=_USER)] | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    identity: str | None = None  # file of a private key
    known_hosts: str | None = None  # file of host keys, beside ssh's own
    jump: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._@:,-]{0,252}$")] | None = None
    then: list[Host] = []  # further hosts, each by ssh from the one before
    login: Literal["key", "password", "passcode"] = "key"

    @property
    def kept_open(self) -> bool:
        """Whether one connection is opened by a person (`hpcbench login`) and shared by all commands."""
        return self.login == "passcode" or bool(self.then)


class Job(config.Model):
    """What every job of a site gets, in site-neutral words."""

    account: Word | None = None
    partition: Word | None = None  # Slurm
    queue: Word | None = None  # PBS
    nodes: Count | None = None
    cores: Count | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    gpu_type: Word | None = None
    memory: Annotated[str, Field(pattern=MEMORY)] | None = None
    time: Time | None = None
    filesystems: Word | None = None  # PBS
    select: Literal["nodes", "gpus"] = "nodes"  # PBS: what one chunk of `select=` is
    directives: list[str] = []

    @field_validator("time")
    @classmethod
    def _is_some_time(cls, time: str | None) -> str | None:
        if time is not None and not time.strip("0:"):
            raise ValueError("a limit of no time; leave the key out for no limit")
        return time

    @field_validator("directives")
    @classmethod
    def _are_options(cls, directives: list[str]) -> list[str]:
        for directive in directives:
            if not re.fullmatch(r"-[A-Za-z-]{1,40}(?:[= ][^\0-\x1f\x7f\"'\\#$`]{1,200})?", directive):
                raise ValueError(f"{directive!r} is not an option such as --mail-type=END")
        return directives

    @property
    def seconds(self) -> int | None:
        """The time limit in seconds."""
        return None if self.time is None else seconds(self.time)


class Limits(config.Model):
    """What a site allows one user; what is left out is not limited, or found out by asking the scheduler."""

    array: Annotated[int, Field(ge=0)] | None = None  # tasks of one array; 0: no arrays
    submitted: Count | None = None  # jobs queued and running
    running: Count | None = None
    time: Time | None = None  # the longest a job may ask for
    gpus: list[Annotated[int, Field(ge=0)]] | None = None  # how many a job may ask for


class Endpoint(config.Model):
    """An inference endpoint that speaks OpenAI's protocol, or is measured by Ollama's own."""

    api: Literal["openai", "ollama"] = "openai"  # Ollama tells its own times by its own protocol alone
    base_url: Annotated[str, Field(pattern=r"^https?://[^\s?#]{1,500}$")]  # paths are put behind it
    model: str
    aliases: list[str] = []  # other names the model has had there
    token: Token | None = None
    status: Annotated[str, Field(pattern=_URL)] | None = None  # where it tells which models are ready
    models: Annotated[str, Field(pattern=_URL)] | None = None  # where it lists them, when not under base_url


class Token(config.Model):
    """Where a token is read from at the moment of use: an environment variable, or what a command prints."""

    env: config.Variable | None = None
    command: list[str] = []

    @model_validator(mode="after")
    def _is_one(self) -> Token:
        if self.env is None and not self.command:
            raise ValueError("name an environment variable (env) or a command")
        return self


Endpoint.model_rebuild()


# what counts of `job` where no scheduler reads directives
_HEEDED = {
    "process": {"time", "cores"}, "cerebras": {"time"}, "notebook": {"time", "gpu_type"},
    "modal": {"time", "gpu_type", "gpus"},
}  # fmt: skip


_COUNTS = frozenset({"nodes", "cores", "gpus"})


class Site(config.FileModel):
    """Where jobs run. `name` is the file's name without its ending."""

    title: str
    reach: Literal["local"] | Reach = "local"
    scheduler: Literal["process", "slurm", "pbs", "cerebras", "notebook", "modal"] = "process"
    folder: str | None = None
    slots: Count = 1
    cores: Count | None = None
    oversubscribe: bool = False
    python: str | None = None
    job: Job = Job()
    limits: Limits = Limits()
    env: dict[config.Variable, str] = {}
    packages: list[
        Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._,<>=!~\[\]-]{0,99}$")]
    ] = []  # notebooks, Modal
    setup: str = ""
    endpoint: Endpoint | None = None
    benchmark: str | None = None

    @field_validator("job", "limits", "env", "packages", mode="before")
    @classmethod
    def _may_be_empty(cls, value: Any, info: ValidationInfo) -> Any:
        """Take a key with nothing but comments below it for one that is left out."""
        return cls.model_fields[str(info.field_name)].default if value is None else value

    @property
    def name(self) -> str:
        """The name that `--site` takes."""
        return self.origin.file.stem

    @property
    def here(self) -> bool:
        """Whether jobs are processes of this machine, which the feeder starts."""
        return self.reach == "local" and self.scheduler == "process"

    @property
    def by_hand(self) -> bool:
        """Whether a person (or a vendor's tool) carries the run there and its results back."""
        return self.scheduler in ("notebook", "modal")

    @property
    def interpreter(self) -> str:
        """The Python that runs workloads: the site's; here, the one that runs hpcbench."""
        return self.python or (sys.executable if self.reach == "local" and not self.by_hand else "python3")

    def place(self) -> dict[str, Any]:
        """Return what is known of a site to those who look after jobs there; nothing of it is secret."""
        return {
            "scheduler": self.scheduler,
            "reach": self.reach if isinstance(self.reach, str) else self.reach.model_dump(exclude_defaults=True),
            "folder": self.folder,
            "slots": self.slots,
            "limits": self.limits.model_dump(exclude_none=True),
            "partition": self.job.partition,
            "queue": self.job.queue,
            "gpu_type": self.job.gpu_type,
            "seconds": self.job.seconds,
        }

    @property
    def available_cores(self) -> list[int]:
        """The processors that cases may be pinned to, by their number in the operating system."""
        return process.cores()[: self.cores]


def seconds(time: str) -> int:
    """Return the seconds of ``HH:MM:SS``."""
    hours, minutes, rest = (int(part) for part in time.split(":"))
    return hours * 3600 + minutes * 60 + rest


def load(name: str) -> Site:
    """Read a site by name, from ``./sites``, the user's configuration or the built-in ones."""
    return _load(config.find("sites", "*.yaml", name))


def load_all() -> dict[str, Site | ConfigError]:
    """Read every site on the search path; what cannot be read stands as its error."""
    sites: dict[str, Site | ConfigError] = {}
    for name, file in config.available("sites", "*.yaml").items():
        try:
            sites[name] = _load(file)
        except ConfigError as error:
            sites[name] = error
    return sites


def with_job(site: Site, settings: Mapping[str, str]) -> Site:
    """Return the site with keys of `job` said anew, each as text; `directives` adds one. Raises `UsageError`."""
    given: dict[str, Any] = dict(settings)
    if not given:
        return site
    if unknown := sorted(set(given) - set(Job.model_fields)):
        raise UsageError(f"--job: there is no {unknown[0]!r}{nearest(unknown[0], Job.model_fields)}")
    heeded = _HEEDED.get(site.scheduler, given)
    if idle := sorted(set(given) - set(heeded)):
        raise UsageError(f"--job {idle[0]}: nothing at site {site.name} would heed it")
    if "directives" in given:
        given["directives"] = [*site.job.directives, given["directives"]]
    try:
        job = Job.model_validate({**site.job.model_dump(exclude_unset=True), **given}, strict=False)
    except ValidationError as error:
        key = str(error.errors()[0]["loc"][0])
        like = {"time": "02:00:00", "memory": "32G", "directives": "--mail-type=END", "select": "nodes or gpus"}
        form = f"not like {like[key]}" if key in like else "no whole number" if key in _COUNTS else "not one plain word"
        raise UsageError(f"--job {key}: {settings[key]!r} is {form}") from None
    limits = site.limits.model_copy(update={"gpus": None}) if {"queue", "partition"} & set(given) else site.limits
    changed = site.model_copy(update={"job": job, "limits": limits})
    changed._origin = site.origin
    try:
        _check(changed)
    except ConfigError as error:
        raise UsageError(f"--job: {str(error).removeprefix(f'{error.file}:{error.line}: ')}") from None
    return changed


def _load(file: Path) -> Site:
    site = config.load(file, Site, verbatim=_VERBATIM)
    _check(site)
    return site


def _check(site: Site) -> None:
    """Check what one key says against another."""
    error = site.origin.error
    if site.reach != "local" and site.by_hand:
        raise error(f"scheduler {site.scheduler}: it is not reached by ssh; leave `reach` out", "reach")
    if site.reach != "local" and site.folder is None:
        raise error("the key 'folder' is missing: where runs are kept on the site, such as $HOME/hpcbench")
    if site.job.partition and site.scheduler == "pbs":
        raise error("job.partition: PBS has queues; use job.queue", "job", "partition")
    if site.job.queue and site.scheduler == "slurm":
        raise error("job.queue: Slurm has partitions; use job.partition", "job", "queue")
    if site.job.time and site.limits.time and seconds(site.job.time) > seconds(site.limits.time):
        raise error(f"job.time: {site.job.time} is over the site's limit, {site.limits.time}", "job", "time")
