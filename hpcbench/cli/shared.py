"""What several commands share: options, how JSON and counts are written, an exit status."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

PARTIAL = 4  # exit status when some cases count and some do not

_Command = TypeVar("_Command", bound=Callable[..., Any])


def json_option(command: _Command) -> _Command:
    """Give a command the option `--json`, as its argument ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout; people's text goes to stderr.")(
        command
    )


def logs_option(command: _Command) -> _Command:
    """Give a command the option `--logs`, as its argument ``logs``."""
    option = click.option(
        "--logs", type=click.Path(path_type=Path), default=Path("logs"), show_default=True, help="Where runs are kept."
    )
    return option(command)


def emit(kind: str, value: dict[str, Any]) -> None:
    """Write a command's JSON: one object whose ``schema`` names its shape (``docs/json.md``)."""
    click.echo(json.dumps({"schema": f"hpcbench/{kind}/1", **value}, ensure_ascii=False, allow_nan=False))
