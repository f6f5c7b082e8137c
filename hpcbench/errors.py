"""Every error that hpcbench raises on purpose.

    HpcbenchError          exit status 1
    ├── ConfigError        2  a file that a person wrote is wrong (names the file and line)
    ├── UsageError         2  a command line or call is wrong
    ├── RunError           2  a run folder cannot be found, written or taken over
    ├── RejectedError      1  a scheduler refused a job: its own words
    └── SiteError          3  a site cannot be reached, lets nobody in, or its scheduler does not answer

An error is one line: what was found, what was expected, what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class HpcbenchError(Exception):
    """Base of the tree; `exit_code` is what the command line exits with, `next_step` what it says after the error."""

    exit_code = 1
    next_step = ""


class ConfigError(HpcbenchError):
    """A site, benchmark or template file is wrong; `line` counts from 1.

    Where all that is wrong is that environment variables are not set, `missing` names them, and `title` is the file's.
    """

    exit_code = 2

    def __init__(
        self,
        message: str,
        file: Path | str | None = None,
        line: int | None = None,
        *,
        missing: Iterable[str] = (),
        title: str = "",
    ) -> None:
        self.file, self.line, self.missing, self.title = file, line, tuple(missing), title
        where = "" if file is None else f"{file}: " if line is None else f"{file}:{line}: "
        super().__init__(where + message)


class UsageError(HpcbenchError):
    """A command line or a call of the Python interface is wrong."""

    exit_code = 2


class RunError(HpcbenchError):
    """A run folder cannot be found, written or taken over."""

    exit_code = 2


class RejectedError(HpcbenchError):
    """A scheduler refused a job; the message holds its own words."""


class SiteError(HpcbenchError):
    """A site cannot be reached, lets nobody in, or its scheduler does not answer. Nothing is known of its jobs then.

    `needs_login` says that a person has to open the connection first (`hpcbench login`).
    """

    exit_code = 3

    def __init__(self, message: str, *, needs_login: bool = False) -> None:
        self.needs_login = needs_login
        super().__init__(message)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"``, or the known names where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there is {', '.join(names)}" if names else ""
