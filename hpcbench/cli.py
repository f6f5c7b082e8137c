"""The command line: thin commands over the stages, nothing heavy imported before it is needed."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from hpcbench import __version__
from hpcbench.errors import HpcbenchError, UsageError

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from hpcbench.benchmark import Benchmark
    from hpcbench.run import CaseState, Run

PARTIAL = 4

_Command = TypeVar("_Command", bound=Callable[..., Any])


class _Group(click.Group):
    """Turns hpcbench's own errors into one line and their exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except HpcbenchError as error:
            if ctx.params.get("debug"):
                raise
            click.echo(f"hpcbench: {error}", err=True)
            ctx.exit(error.exit_code)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:  # click's own form takes four lines
            command = error.ctx.command_path if error.ctx else "hpcbench"
            message = " ".join(error.format_message().split())
            click.echo(f"hpcbench: {message} See {command} --help.", err=True)
            ctx.exit(error.exit_code)
        except (click.exceptions.Exit, click.Abort, click.ClickException, KeyboardInterrupt, BrokenPipeError):
            raise
        except Exception as error:  # a mistake of hpcbench's own is one line too
            if ctx.params.get("debug"):
                raise
            kind = type(error).__name__
            click.echo(f"hpcbench: unexpected {kind}: {error} (hpcbench --debug ... shows where)", err=True)
            ctx.exit(1)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from hpcbench.errors import nearest

        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            raise UsageError(f"unknown command {args[0]!r}{nearest(args[0], self.list_commands(ctx))}")
        return super().resolve_command(ctx, args)


class _SubmitCommand(click.Command):
    """`submit`, whose options include the parameters of the benchmark that is chosen on its own command line."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        benchmark = _chosen_benchmark(args)
        own = {option for parameter in self.params for option in parameter.opts}
        added: list[click.Parameter] = []
        for name, parameter in benchmark.parameters.items() if benchmark else ():
            option = f"--{name.replace('_', '-')}"
            if option in own:
                raise benchmark.origin.error(  # type: ignore[union-attr]
                    f"parameter {name!r}: submit has an option of that name; choose another", "parameters", name
                )
            unit = f" ({parameter.unit})" if parameter.unit else ""
            text = f"{parameter.help}{unit}  [{_shown(parameter.default)}]"
            added.append(
                click.Option(
                    [f"axis__{name}", option], metavar=parameter.type.upper() + ",...", help=text, multiple=True
                )
            )
        whole = click.Command(
            self.name,
            callback=self.callback,
            params=[*self.params, *added],
            help=self.help,
            short_help=self.short_help,
            epilog=_epilog(benchmark),
        )
        return click.Command.make_context(whole, info_name, args, parent, **extra)


def _epilog(benchmark: Benchmark | None) -> str | None:
    if benchmark is None or not benchmark.parameters:
        return None
    first = next(iter(benchmark.parameters)).replace("_", "-")
    return (
        f"The options from --{first} on are the parameters of the benchmark {benchmark.name}. "
        "They take lists and ranges: 1,2,4 or 1:8:*2 or 1:9:2."
    )


def _shown(default: object) -> str:
    return "empty" if default == "" else str(default).lower() if isinstance(default, bool) else str(default)


def _chosen_benchmark(args: Sequence[str]) -> Benchmark | None:
    """Find the benchmark that a command line asks for, before the line as a whole can be read."""
    from hpcbench import benchmark, site

    def value(option: str, default: str | None = None) -> str | None:
        for index, word in enumerate(args):
            if word == option and index + 1 < len(args):
                return args[index + 1]
            if word.startswith(f"{option}="):
                return word.partition("=")[2]
        return default

    name = value("--benchmark")
    if name is None:
        first = (value("--site", "local") or "").split(",")[0].strip()
        name = site.load(first).benchmark
    return benchmark.load(name) if name else None


def _json_option(command: _Command) -> _Command:
    return click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout; people's text goes to stderr.")(
        command
    )


def _logs_option(command: _Command) -> _Command:
    option = click.option(
        "--logs", type=click.Path(path_type=Path), default=Path("logs"), show_default=True, help="Where runs are kept."
    )
    return option(command)


def _emit(kind: str, value: dict[str, Any]) -> None:
    """Write a command's JSON: one object whose ``schema`` names its shape (``docs/json.md``)."""
    click.echo(json.dumps({"schema": f"hpcbench/{kind}/1", **value}, ensure_ascii=False, allow_nan=False))


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="hpcbench")
@click.option("--debug", is_flag=True, help="Show where in hpcbench an error comes from.")
def main(debug: bool) -> None:
    r"""From a sweep to run to a report that can be defended.

    \b
      hpcbench submit --site local --benchmark gpt2 --threads 1,2 --repeat 3 --wait
      hpcbench parse logs/
      hpcbench report logs/
    """


@main.command(cls=_SubmitCommand, short_help="Run a sweep.")
@click.option(
    "--site", default="local", show_default=True, metavar="NAME,...", help="Where to run; see `hpcbench sites`."
)
@click.option("--benchmark", metavar="NAME", help="What to run  [the site's default]; see `hpcbench benchmarks`.")
@click.option(
    "--repeat", type=int, default=1, show_default=True, help="Run the whole sweep so many times, interleaved."
)
@click.option("--zip", "zips", multiple=True, metavar="NAME,NAME", help="Let these axes advance together.")
@click.option("--exclude", multiple=True, metavar="NAME=VALUE,...", help="Leave out the cases that have all of these.")
@click.option("--set", "settings", multiple=True, metavar="NAME=VALUES", help="A parameter, whatever its name.")
@click.option("--name", metavar="NAME", help="Name of the run  [the benchmark and the time].")
@click.option("--wait", "wait_for_it", is_flag=True, help="Stay and show progress until all cases have ended.")
@click.option("--dry-run", is_flag=True, help="Write the bundles and print the first job script; start nothing.")
@_logs_option
@_json_option
def submit(
    site: str,
    benchmark: str | None,
    repeat: int,
    zips: tuple[str, ...],
    exclude: tuple[str, ...],
    settings: tuple[str, ...],
    name: str | None,
    wait_for_it: bool,
    dry_run: bool,
    logs: Path,
    as_json: bool,
    **options: tuple[str, ...],
) -> None:
    """Run a sweep: every combination of the values given, in the background, one case after another.

    Give any parameter of the benchmark several values to make it an axis; `--benchmark NAME --help` lists them.
    """
    from hpcbench.submit import submit as submit_sweep

    axes: dict[str, str] = {}
    for key, values in options.items():
        if len(values) > 1:
            raise UsageError(
                f"--{key.removeprefix('axis__').replace('_', '-')} is given twice; write 1,2 for two values"
            )
        if values:
            axes[key.removeprefix("axis__")] = values[0]
    for setting in settings:
        key, equals, value = setting.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"--set: write name=values, found {setting!r}")
        if key in axes:
            raise UsageError(f"--set: {key} is given twice")
        axes[key] = value
    run = submit_sweep(
        [word.strip() for word in site.split(",")],
        benchmark,
        axes,
        zips=zips,
        exclude=exclude,
        repeat=repeat,
        logs=logs,
        name=name,
        dry_run=dry_run,
        command=["hpcbench", *sys.argv[1:]],
    )
    if dry_run:
        if as_json:
            _emit("submit", _status(run, run.states()))
        else:
            click.echo((run.folder / run.cases[0] / "job.sh").read_text(), nl=False)
        click.echo(
            f"{_plural(len(run.cases), 'case')} in {run.folder}/; start with: hpcbench resume {run.name}", err=True
        )
        return
    click.echo(f"{run.name}: {_plural(len(run.cases), 'case')} in {run.folder}/", err=True)
    if wait_for_it:
        _finish(run, as_json=as_json, kind="submit")
    elif as_json:
        _emit("submit", _status(run, run.states()))
    else:
        click.echo(f"running in the background: hpcbench status, wait or cancel {run.name}", err=True)


@main.command()
@click.argument("run", required=False)
@_logs_option
@_json_option
def status(run: str | None, logs: Path, as_json: bool) -> None:
    """Show where every case of RUN stands (the latest run; a unique prefix will do)."""
    from hpcbench.run import Run

    found = Run.find(run, logs)
    states = found.states()
    if as_json:
        _emit("status", _status(found, states))
        return
    from hpcbench import progress

    progress.show(found, states)


@main.command()
@click.argument("run", required=False)
@_logs_option
@_json_option
def wait(run: str | None, logs: Path, as_json: bool) -> None:
    """Wait for RUN to end, showing progress; Ctrl-C stops the waiting, not the run."""
    from hpcbench.run import Run

    _finish(Run.find(run, logs), as_json=as_json, kind="wait")


@main.command()
@click.argument("run", required=False)
@click.argument("cases", nargs=-1)
@_logs_option
@_json_option
def cancel(run: str | None, cases: tuple[str, ...], logs: Path, as_json: bool) -> None:
    """Cancel RUN, or only the CASES named. What has ended stays as it is."""
    from hpcbench import progress
    from hpcbench.run import FINAL, Run
    from hpcbench.submit import cancel as cancel_run

    found = Run.find(run, logs)
    states = cancel_run(found, cases)
    if as_json:
        _emit("cancel", _status(found, states))
    else:
        progress.show(found, states)
    if left := [state for state in states if state.state not in FINAL]:
        click.echo(f"{_plural(len(left), 'case')} could not be cancelled", err=True)
        sys.exit(PARTIAL)


@main.command()
@click.argument("run", required=False)
@click.option("--wait", "wait_for_it", is_flag=True, help="Stay and show progress until all cases have ended.")
@_logs_option
@_json_option
def resume(run: str | None, wait_for_it: bool, logs: Path, as_json: bool) -> None:
    """Go on with RUN: start the cases that never started. What has started is never started again."""
    from hpcbench.run import Run
    from hpcbench.submit import resume as resume_run

    found = Run.find(run, logs)
    count = resume_run(found)
    click.echo(
        f"{found.name}: {_plural(count, 'case')} to start" if count else f"{found.name}: nothing to start", err=True
    )
    if wait_for_it:
        _finish(found, as_json=as_json, kind="resume")
    elif as_json:
        _emit("resume", _status(found, found.states()))


@main.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("--as", "formats", multiple=True, metavar="FORMAT", help="Read as this format; see `hpcbench formats`.")
@click.option("--label", metavar="REGEX", help=r"Parameters in the paths, as named groups: 'bs(?P<batch>\d+)'.")
@click.option("--baseline", metavar="NAME=VALUE", help="What speed-ups are against  [the benchmark's own].")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Write the tables there.")
@click.option("--csv", is_flag=True, help="Write them as CSV instead of Parquet.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Processes that read  [one a processor].")
@click.option("--dask", metavar="ADDRESS", help="Read on the workers of this Dask scheduler, which see the same files.")
@click.option("--no-cache", is_flag=True, help="Read again what has not changed.")
@click.option("--follow", is_flag=True, help="Go on reading what grows, until Ctrl-C.")
@click.option("--explain-format", is_flag=True, help="Say of each file what it was taken for, and why.")
@_logs_option
@_json_option
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
    if csv and output is None:
        raise UsageError("--csv: say where to write the tables, with -o DIR")
    if explain_format:
        _explain_formats(chosen, as_json)
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

    comparisons = compare(metrics, _point(baseline))
    try:
        written = metrics.write(output, csv=csv) if output is not None else []
    except OSError as error:
        raise UsageError(f"cannot write in {output}/: {error.strerror}") from None
    if as_json:
        tables = {name: len(table) for name, table in metrics.tables().items()}
        sections = [section_json(section(metrics, each)) for each in comparisons]
        cases = [{key: plain(value) for key, value in row.items()} for row in metrics.cases.to_dict("records")]
        _emit(
            "parse", {"rows": tables, "sections": sections, "cases": cases, "written": [str(file) for file in written]}
        )
    else:
        from hpcbench import progress

        progress.comparison(metrics, comparisons)
        for file in written:
            click.echo(f"wrote {file}", err=True)
    sys.exit(_parse_status(metrics))


@main.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="DIR", help="Where to write  [reports/NAME].")
@click.option("--as", "formats", multiple=True, metavar="FORMAT", help="Read as this format; see `hpcbench formats`.")
@click.option("--label", metavar="REGEX", help=r"Parameters in the paths, as named groups: 'bs(?P<batch>\d+)'.")
@click.option("--baseline", metavar="NAME=VALUE", help="What speed-ups are against  [the benchmark's own].")
@_logs_option
@_json_option
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
        _emit("report-written", {"report": str(file), "data": str(file.with_name("report.json"))})
    else:
        click.echo(str(file))
    sys.exit(_parse_status(metrics))


@main.command()
@_json_option
def sites(as_json: bool) -> None:
    """List the sites there are, and what is wrong with those that cannot be used."""
    from hpcbench import site
    from hpcbench.errors import ConfigError

    rows = [
        {"name": name, "title": "" if isinstance(each, ConfigError) else each.title, "problem": str(each)}
        if isinstance(each, ConfigError)
        else {
            "name": name,
            "title": each.title,
            "problem": None,
            "file": str(each.origin.file),
            "benchmark": each.benchmark,
        }
        for name, each in site.load_all().items()
    ]
    _list("sites", rows, as_json, lambda row: row["problem"] or row["title"])


@main.command()
@_json_option
def benchmarks(as_json: bool) -> None:
    """List the benchmarks there are; `hpcbench submit --benchmark NAME --help` shows the parameters of one."""
    from hpcbench import benchmark
    from hpcbench.errors import ConfigError

    rows = [
        {"name": name, "title": "", "problem": str(each)}
        if isinstance(each, ConfigError)
        else {
            "name": name,
            "title": each.title,
            "problem": None,
            "file": str(each.origin.file),
            "parameters": {key: value.model_dump() for key, value in each.parameters.items()},
        }
        for name, each in benchmark.load_all().items()
    ]
    _list("benchmarks", rows, as_json, lambda row: row["problem"] or row["title"])


@main.command()
@_json_option
def formats(as_json: bool) -> None:
    """List the log formats that `parse` recognises, each with an example line."""
    from hpcbench.formats import all_formats
    from hpcbench.metrics import shown

    rows = [
        {"name": each.name, "title": each.title, "example": each.example, "untried": each.untried or None}
        for each in all_formats().values()
    ]

    def text(row: dict[str, Any]) -> str:
        untried = f"\n    not tried on a real log: {row['untried']}" if row["untried"] else ""
        return f"{row['title']}\n    {shown(row['example'].strip().splitlines()[0], 110)}{untried}"

    _list("formats", rows, as_json, text)


def _list(kind: str, rows: list[dict[str, Any]], as_json: bool, text: Callable[[dict[str, Any]], str]) -> None:
    if as_json:
        _emit(kind, {kind: rows})
        return
    width = max((len(row["name"]) for row in rows), default=0)
    for row in rows:
        click.echo(f"{row['name']:<{width}}  {text(row)}")


def _finish(run: Run, *, as_json: bool, kind: str) -> NoReturn:
    """Wait for a run with progress, then exit with what came of it."""
    from hpcbench import progress
    from hpcbench.run import FINAL
    from hpcbench.submit import wait as wait_for

    try:
        with progress.live(run) as show:
            states = wait_for(run, show)
    except KeyboardInterrupt:
        click.echo(f"\nstopped waiting; {run.name} goes on: hpcbench status, wait or cancel {run.name}", err=True)
        sys.exit(130)
    if as_json:
        _emit(kind, _status(run, states))
    left = [state for state in states if state.state not in FINAL]
    if left:
        click.echo(f"{_plural(len(left), 'case')} left and nothing works on them: hpcbench resume {run.name}", err=True)
    done = sum(state.state == "completed" for state in states)
    sys.exit(0 if done == len(states) else 1 if done == 0 and not left else PARTIAL)


def _status(run: Run, states: Sequence[CaseState]) -> dict[str, Any]:
    return {
        "run": run.name,
        "folder": str(run.folder),
        "cases": [
            {
                "case": state.case,
                "state": state.state,
                "reason": state.reason or None,
                "started": state.started,
                "ended": state.ended,
                "exit_status": state.exit_status,
                "parameters": run.case(state.case).get("parameters", {}),
            }
            for state in states
        ],
    }


def _explain_formats(paths: Sequence[Path], as_json: bool) -> None:
    """Say of each file which formats it was taken for: the first line that shows it, and what was read."""
    from hpcbench.parse import explain

    found = list(explain(*paths))
    if as_json:
        files = [
            {"file": file, "problem": problem or None, "formats": [vars(each) for each in evidence]}
            for file, problem, evidence in found
        ]
        _emit("explain-format", {"files": files})
        return
    for file, problem, evidence in found:
        click.echo(file)
        if problem:
            click.echo(f"  could not be read: {problem}")
        for each in evidence:
            unread = f", {_plural(each.unread, 'line')} with its words could not be read" if each.unread else ""
            unread += f" (the first is line {each.first_unread})" if each.unread and each.first_unread else ""
            click.echo(f"  {each.format}: {_plural(each.rows, 'record')}{unread}")
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


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
