"""A site: where jobs run and how they are reached. One YAML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator

from hpcbench import config, process
from hpcbench.errors import ConfigError

_VERBATIM = frozenset({"setup"})  # bash, which expands ${...} itself, on the site


class Job(config.Model):
    """What every job of a site gets, in site-neutral words."""

    time: Annotated[str, Field(pattern=r"^[0-9]{1,4}:[0-5][0-9]:[0-5][0-9]$")] | None = None

    @field_validator("time")
    @classmethod
    def _is_some_time(cls, time: str | None) -> str | None:
        if time is not None and not time.strip("0:"):
            raise ValueError("a limit of no time; leave the key out for no limit")
        return time

    @property
    def seconds(self) -> int | None:
        """The time limit in seconds."""
        if self.time is None:
            return None
        hours, minutes, seconds = (int(part) for part in self.time.split(":"))
        return hours * 3600 + minutes * 60 + seconds


class Site(config.FileModel):
    """Where jobs run. `name` is the file's name without its ending."""

    title: str
    reach: Literal["local"] = "local"
    scheduler: Literal["process"] = "process"
    slots: Annotated[int, Field(ge=1)] = 1
    cores: Annotated[int, Field(ge=1)] | None = None
    oversubscribe: bool = False
    python: str | None = None
    job: Job = Job()
    env: dict[config.Variable, str] = {}
    setup: str = ""
    benchmark: str | None = None

    @property
    def name(self) -> str:
        """The name that `--site` takes."""
        return self.origin.file.stem

    @property
    def interpreter(self) -> str:
        """The Python that runs workloads: the site's, or the one that runs hpcbench."""
        return self.python or sys.executable

    @property
    def available_cores(self) -> list[int]:
        """The processors that cases may be pinned to, by their number in the operating system."""
        return process.cores()[: self.cores]


def load(name: str) -> Site:
    """Read a site by name, from ``./sites``, the user's configuration or the built-in ones."""
    return config.load(config.find("sites", "*.yaml", name), Site, verbatim=_VERBATIM)


def load_all() -> dict[str, Site | ConfigError]:
    """Read every site on the search path; what cannot be read stands as its error."""
    sites: dict[str, Site | ConfigError] = {}
    for name, file in config.available("sites", "*.yaml").items():
        sites[name] = load_file(file)
    return sites


def load_file(file: Path) -> Site | ConfigError:
    """Read one site file; a mistake is returned, not raised."""
    try:
        return config.load(file, Site, verbatim=_VERBATIM)
    except ConfigError as error:
        return error
