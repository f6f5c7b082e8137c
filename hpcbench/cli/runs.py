"""The commands that run a sweep and look after the run: submit, status, wait, cancel and resume."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from hpcbench.cli.shared import PARTIAL, emit, json_option, logs_option
from hpcbench.errors import UsageError
from hpcbench.metrics import plural

if TYPE_CHECKING:
    from hpcbench.benchmark import Benchmark
    from hpcbench.run import Run
    from hpcbench.state import CaseState


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


@click.command(cls=_SubmitCommand, short_help="Run a sweep.")
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
@logs_option
@json_option
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
            emit("submit", _status(run, run.states()))
        else:
            click.echo((run.folder / run.cases[0] / "job.sh").read_text(), nl=False)
        click.echo(
            f"{plural(len(run.cases), 'case')} in {run.folder}/; start with: hpcbench resume {run.name}", err=True
        )
        return
    click.echo(f"{run.name}: {plural(len(run.cases), 'case')} in {run.folder}/", err=True)
    if wait_for_it:
        _finish(run, as_json=as_json, kind="submit")
    elif as_json:
        emit("submit", _status(run, run.states()))
    else:
        click.echo(f"running in the background: hpcbench status, wait or cancel {run.name}", err=True)


@click.command(short_help="Show where every case of a run stands.")
@click.argument("run", required=False)
@logs_option
@json_option
def status(run: str | None, logs: Path, as_json: bool) -> None:
    """Show where every case of RUN stands (the latest run; a unique prefix will do)."""
    from hpcbench.run import Run

    found = Run.find(run, logs)
    states = found.states()
    if as_json:
        emit("status", _status(found, states))
        return
    from hpcbench import progress

    progress.show(found, states)


@click.command(short_help="Wait for a run to end, showing progress.")
@click.argument("run", required=False)
@logs_option
@json_option
def wait(run: str | None, logs: Path, as_json: bool) -> None:
    """Wait for RUN to end, showing progress; Ctrl-C stops the waiting, not the run."""
    from hpcbench.run import Run

    _finish(Run.find(run, logs), as_json=as_json, kind="wait")


@click.command(short_help="Cancel a run, or only some of its cases.")
@click.argument("run", required=False)
@click.argument("cases", nargs=-1)
@logs_option
@json_option
def cancel(run: str | None, cases: tuple[str, ...], logs: Path, as_json: bool) -> None:
    """Cancel RUN, or only the CASES named. What has ended stays as it is."""
    from hpcbench import progress
    from hpcbench.run import Run
    from hpcbench.state import FINAL
    from hpcbench.submit import cancel as cancel_run

    found = Run.find(run, logs)
    states = cancel_run(found, cases)
    if as_json:
        emit("cancel", _status(found, states))
    else:
        progress.show(found, states)
    if left := [state for state in states if state.state not in FINAL]:
        click.echo(f"{plural(len(left), 'case')} could not be cancelled", err=True)
        sys.exit(PARTIAL)


@click.command(short_help="Go on with a run: start the cases that never started.")
@click.argument("run", required=False)
@click.option("--wait", "wait_for_it", is_flag=True, help="Stay and show progress until all cases have ended.")
@logs_option
@json_option
def resume(run: str | None, wait_for_it: bool, logs: Path, as_json: bool) -> None:
    """Go on with RUN: start the cases that never started. What has started is never started again."""
    from hpcbench.run import Run
    from hpcbench.submit import resume as resume_run

    found = Run.find(run, logs)
    count = resume_run(found)
    click.echo(
        f"{found.name}: {plural(count, 'case')} to start" if count else f"{found.name}: nothing to start", err=True
    )
    if wait_for_it:
        _finish(found, as_json=as_json, kind="resume")
    elif as_json:
        emit("resume", _status(found, found.states()))


def _finish(run: Run, *, as_json: bool, kind: str) -> NoReturn:
    """Wait for a run with progress, then exit with what came of it."""
    from hpcbench import progress
    from hpcbench.state import FINAL
    from hpcbench.submit import wait as wait_for

    try:
        with progress.live(run) as show:
            states = wait_for(run, show)
    except KeyboardInterrupt:
        click.echo(f"\nstopped waiting; {run.name} goes on: hpcbench status, wait or cancel {run.name}", err=True)
        sys.exit(130)
    if as_json:
        emit(kind, _status(run, states))
    left = [state for state in states if state.state not in FINAL]
    if left:
        click.echo(f"{plural(len(left), 'case')} left and nothing works on them: hpcbench resume {run.name}", err=True)
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
