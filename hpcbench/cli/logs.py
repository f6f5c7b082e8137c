"""The commands that read logs: parse and report."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcbench.cli.shared import PARTIAL, emit, json_option, logs_option
from hpcbench.errors import UsageError
from hpcbench.metrics import plural

if TYPE_CHECKING:
    from concurrent.futures import Executor


@click.command(short_help="Read logs and show the comparison.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--as", "formats", multiple=True, metavar="FORMAT", help="Read as this format; see `hpcbench formats`.")
@click.option("--label", metavar="REGEX", help=r"Parameters in the paths, as named groups: 'bs(?P<batch>\d+)'.")
@click.option("--baseline", metavar="NAME=VALUE", help="What speed-ups are against  [the benchmark's own].")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Write the tables there.")
@click.option("--csv", is_flag=True, help="Write them as CSV instead of Parquet.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Processes that read  [one a processor].")
@click.option("--dask", metavar="ADDRESS", help="Read on the workers of this Dask scheduler, which see the same files.")
@click.option("--no-cache", is_flag=True, help="Read again what has not changed.")
@click.option("--follow", is_flag=True, help="Go on reading what grows, but no archives, until Ctrl-C.")
@click.option("--explain-format", is_flag=True, help="Say of each file what it was taken for, and why.")
@logs_option
@json_option
def parse(
    paths: tuple[Path, ...],
    formats: tuple[str, ...],
    label: str | None,
    baseline: str | None,
    output: Path | None,
    csv: bool,
    workers: int | None,
    dask: str | None,
    no_cache: bool,
    follow: bool,
    explain_format: bool,
    logs: Path,
    as_json: bool,
) -> None:
    """Read the logs under PATHS (the latest run) and show the comparison."""
    from hpcbench.parse import parse as parse_logs
    from hpcbench.report import plain, section, section_json

    chosen = paths or tuple(_latest(logs))
    given = [name for name, value in (("-o", output), ("--csv", csv), ("--json", as_json)) if value]
    if follow and given and not explain_format:
        raise UsageError(f"--follow: shows tables and writes nothing; leave out {' and '.join(given)}")
    if csv and output is None:
        raise UsageError("--csv: say where to write the tables, with -o DIR")
    if explain_format:
        _explain_formats(chosen, formats or None, as_json)
        return
    if follow:
        from hpcbench import progress

        progress.follow(chosen, formats or None, label, _point(baseline))
        return
    with _executor(dask) as executor:
        metrics = parse_logs(
            *chosen,
            formats=formats or None,
            label=label,
            workers=workers or _processors(),
            executor=executor,
            cache=not no_cache,
        )
    from hpcbench.analyse.summary import compare

    sections = [section(metrics, each) for each in compare(metrics, _point(baseline))]
    try:
        written = metrics.write(output, csv=csv) if output is not None else []
    except OSError as error:
        raise UsageError(f"cannot write in {output}/: {error.strerror}") from None
    if as_json:
        tables = {name: len(table) for name, table in metrics.tables().items()}
        cases = [{key: plain(value) for key, value in row.items()} for row in metrics.cases.to_dict("records")]
        emit(
            "parse",
            {
                "rows": tables,
                "sections": [section_json(each) for each in sections],
                "cases": cases,
                "written": [str(file) for file in written],
            },
        )
    else:
        from hpcbench import progress

        progress.comparison(metrics, sections)
        for file in written:
            click.echo(f"wrote {file}", err=True)
    sys.exit(_parse_status(metrics))


@click.command(short_help="Write a report of logs, with figures and tables.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Where to write  [reports/NAME].")
@click.option("--as", "formats", multiple=True, metavar="FORMAT", help="Read as this format; see `hpcbench formats`.")
@click.option("--label", metavar="REGEX", help=r"Parameters in the paths, as named groups: 'bs(?P<batch>\d+)'.")
@click.option("--baseline", metavar="NAME=VALUE", help="What speed-ups are against  [the benchmark's own].")
@logs_option
@json_option
def report(
    paths: tuple[Path, ...],
    output: Path | None,
    formats: tuple[str, ...],
    label: str | None,
    baseline: str | None,
    logs: Path,
    as_json: bool,
) -> None:
    """Write a report of the logs under PATHS (the latest run): report.md, figures, tables, report.json."""
    from hpcbench.parse import parse as parse_logs
    from hpcbench.report import report as write_report

    chosen = paths or _latest(logs)
    metrics = parse_logs(*chosen, formats=formats or None, label=label, hashes=True)
    name = next(iter(metrics.runs)) if len(metrics.runs) == 1 else _report_name(chosen[0].resolve())
    file = write_report(metrics, output or Path("reports") / name, _point(baseline))
    if as_json:
        emit("report-written", {"report": str(file), "data": str(file.with_name("report.json"))})
    else:
        click.echo(str(file))
    sys.exit(_parse_status(metrics))


def _explain_formats(paths: Sequence[Path], formats: Sequence[str] | None, as_json: bool) -> None:
    """Say of each file which formats it was taken for: the first line that shows it, and what was read."""
    from hpcbench.parse import explain

    found = list(explain(*paths, formats=formats))
    if as_json:
        files = [
            {"file": file, "problem": problem or None, "formats": [vars(each) for each in evidence]}
            for file, problem, evidence in found
        ]
        emit("explain-format", {"files": files})
        return
    for file, problem, evidence in found:
        click.echo(file)
        if problem:
            click.echo(f"  could not be read: {problem}")
        for each in evidence:
            unread = f", {plural(each.unread, 'line')} with its words could not be read" if each.unread else ""
            unread += f" (the first is line {each.first_unread})" if each.unread and each.first_unread else ""
            click.echo(f"  {each.format}: {plural(each.rows, 'record')}{unread}")
            click.echo(f"    line {each.line}: {each.text}")
        if not evidence and not problem:
            click.echo("  of no known format: no line has the form of one that `hpcbench formats` lists")


@contextlib.contextmanager
def _executor(address: str | None) -> Iterator[Executor | None]:
    """Give the executor of a Dask scheduler, or None."""
    if address is None:
        yield None
        return
    try:
        from distributed import Client
    except ImportError:
        raise UsageError(
            "--dask: Dask is not installed; install hpcbench with its extra: pip install '.[dask]'"
        ) from None
    try:
        client: Any = Client(address, timeout=10)  # type: ignore[no-untyped-call]
    except (OSError, TimeoutError, ValueError) as error:
        raise UsageError(f"--dask: no scheduler answers at {address}: {str(error).splitlines()[0]}") from None
    with client:
        yield client.get_executor()


def _processors() -> int:
    """Return how many processors this process may use."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _parse_status(metrics: Any) -> int:
    """0 when every case counts, 4 when only some do, 1 when none does or nothing was recognised."""
    from hpcbench.metrics import COUNTED

    if not (metrics.sources["records"] > 0).any():
        click.echo("hpcbench: no log of a known format was found", err=True)
        return 1
    bad = ~metrics.cases["state"].isin(COUNTED)
    return 0 if not bad.any() else 1 if bad.all() else PARTIAL


def _point(text: str | None) -> dict[str, str] | None:
    if text is None:
        return None
    name, equals, value = text.partition("=")
    if not equals:
        raise UsageError(f"--baseline: write name=value, found {text!r}")
    return {name.strip().replace("-", "_"): value.strip()}


def _report_name(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _latest(logs: Path) -> tuple[Path, ...]:
    from hpcbench.run import Run

    return (Run.find(None, logs).folder,)
