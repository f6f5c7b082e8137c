"""The commands that list what there is: sites, benchmarks and formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click

from hpcbench.cli.shared import emit, json_option


@click.command(short_help="List the sites there are.")
@json_option
def sites(as_json: bool) -> None:
    """List the sites there are, and what is missing where one cannot be used yet; `hpcbench check SITE` tries one."""
    from hpcbench import site

    def text(row: dict[str, Any]) -> str:
        if row.get("missing"):
            return f"{row['title']}\n    set {', '.join(row['missing'])}"
        return str(row["problem"] or row["title"])

    rows = _described(site.load_all(), lambda each: {"benchmark": each.benchmark})
    _list("sites", rows, as_json, text)


@click.command(short_help="List the benchmarks there are.")
@json_option
def benchmarks(as_json: bool) -> None:
    """List the benchmarks there are; `hpcbench submit --benchmark NAME --help` shows the parameters of one."""
    from hpcbench import benchmark

    def parameters(each: Any) -> dict[str, Any]:
        return {"parameters": {name: value.model_dump() for name, value in each.parameters.items()}}

    rows = _described(benchmark.load_all(), parameters)
    _list("benchmarks", rows, as_json, lambda row: row["problem"] or row["title"])


@click.command(short_help="List the log formats that `parse` recognises.")
@json_option
def formats(as_json: bool) -> None:
    """List the log formats that `parse` recognises, each with an example line."""
    from hpcbench.formats import KINDS, all_formats
    from hpcbench.metrics import shown

    rows = [
        {
            "name": each.name,
            "kind": each.kind,
            "title": each.title,
            "example": each.example,
            "untried": each.untried or None,
        }
        for each in sorted(all_formats().values(), key=lambda each: (KINDS.index(each.kind), each.name))
    ]

    def text(row: dict[str, Any]) -> str:
        untried = f"\n    not tried on a real log: {row['untried']}" if row["untried"] else ""
        return f"{row['kind']}: {row['title']}\n    {shown(row['example'].strip().splitlines()[0], 110)}{untried}"

    _list("formats", rows, as_json, text)


def _described(found: Mapping[str, Any], more: Callable[[Any], dict[str, Any]]) -> list[dict[str, Any]]:
    """Describe what was loaded from files, and say what is wrong with those that could not be."""
    from hpcbench.errors import ConfigError

    return [
        {"name": name, "title": each.title, "problem": str(each), "missing": list(each.missing)}
        if isinstance(each, ConfigError)
        else {"name": name, "title": each.title, "problem": None, "file": str(each.origin.file), **more(each)}
        for name, each in found.items()
    ]


def _list(kind: str, rows: list[dict[str, Any]], as_json: bool, text: Callable[[dict[str, Any]], str]) -> None:
    if as_json:
        emit(kind, {kind: rows})
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        click.echo(f"{row['name']:<{width}}  {text(row)}")
