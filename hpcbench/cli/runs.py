"""The commands that run a sweep and look after the run: submit, status, wait, cancel, resume, fetch and clean."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from hpcbench.cli.shared import PARTIAL, emit, json_option, logs_option
from hpcbench.errors import HpcbenchError, RejectedError, SiteError, UsageError
from hpcbench.metrics import plural, quantity

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
@click.option("--job", multiple=True, metavar="KEY=VALUE", help="What the site's `job` says, said anew: time=02:00:00.")
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
    job: tuple[str, ...],
    name: str | None,
    wait_for_it: bool,
    dry_run: bool,
    logs: Path,
    as_json: bool,
    **options: tuple[str, ...],
) -> None:
    """Run a sweep: every combination of the values given. It goes on by itself.

    Without a scheduler cases run one after another; with one each is a job of its own.

    Give any parameter of the benchmark several values to make it an axis; `--benchmark NAME --help` lists them.
    """
    from hpcbench.submit import control
    from hpcbench.submit import submit as submit_sweep

    axes: dict[str, str] = {}
    for key, values in options.items():
        if len(values) > 1:
            raise UsageError(
                f"--{key.removeprefix('axis__').replace('_', '-')} is given twice; write 1,2 for two values"
            )
        if values:
            axes[key.removeprefix("axis__")] = values[0]
    for key, value in _pairs("--set", settings).items():
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
        job=_pairs("--job", job),
        logs=logs,
        name=name,
        dry_run=True,
        command=["hpcbench", *sys.argv[1:]],
    )
    if dry_run:
        if as_json:
            emit("submit", _status(run, run.states()))
        else:
            _show_scripts(run)
        if steps := control.next_steps(run):
            click.echo(f"{plural(len(run.cases), 'case')} in {run.folder}/\n{steps}", err=True)
            return
        click.echo(
            f"{plural(len(run.cases), 'case')} in {run.folder}/; start with: hpcbench resume {run.name}", err=True
        )
        return
    click.echo(f"{run.name}: {plural(len(run.cases), 'case')} in {run.folder}/", err=True)
    try:
        control.start(run)
    except HpcbenchError as error:
        error.next_step = f"{_unsent(run)}; once that is mended: hpcbench resume {run.name}"
        if steps := control.next_steps(run):
            error.next_step += f"\n{steps}"
        if isinstance(error, RejectedError):
            error.next_step += "; what the site file says under `job` counts only for a new submit"
        raise
    except KeyboardInterrupt:
        click.echo(f"\n{_unsent(run)}: hpcbench resume, status or cancel {run.name}", err=True)
        sys.exit(130)
    if wait_for_it and control.drive(run, lambda line: click.echo(line, err=True)):
        _finish(run, as_json=as_json, kind="submit")
    steps = control.next_steps(run)
    if wait_for_it and not steps:
        _finish(run, as_json=as_json, kind="submit")
    if as_json:
        emit("submit", _status(run, run.states()))
    if steps:
        click.echo(steps, err=True)
        sys.exit(PARTIAL if wait_for_it else 0)
    else:
        left = sum(state.state == "planned" for state in run.states()) if run.places else 0
        later = f"; {plural(left, 'case')} more when there is room, sent by wait or status" if left else ""
        how = f"sent to {', '.join(run.places)}" if run.places else "running in the background"
        click.echo(f"{how}{later}: hpcbench status, wait or cancel {run.name}", err=True)


def _unsent(run: Run) -> str:
    """Say what is known of a run that could not be started everywhere."""
    from hpcbench.state import refused

    states = [each for each in run.states() if run.case(each.case).get("site") in run.places]
    unsure = sum(each.state == "submitting" for each in states)
    waiting = sum((each.state == "planned" and not each.reason) or refused(each) for each in states)
    said = [f"{plural(waiting, 'case')} of {len(run.cases)} not sent"] if waiting or not unsure else []
    if unsure:
        said.append(f"of {plural(unsure, 'case')} it is not known: their jobs are looked for before any is sent")
    return ", ".join(said)


def _pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """Read an option that is given once for each `name=value`."""
    pairs: dict[str, str] = {}
    for each in given:
        key, equals, value = each.partition("=")
        key = key.strip().replace("-", "_")
        if not equals:
            raise UsageError(f"{option}: write name=values, found {each!r}")
        if key in pairs:
            raise UsageError(f"{option}: {key} is given twice")
        pairs[key] = value
    return pairs


def _show_scripts(run: Run) -> None:
    """Print the first job script of each site: what an administrator would want to see."""
    by_site: dict[str, list[str]] = {}
    for case in run.cases:
        by_site.setdefault(str(run.case(case).get("site")), []).append(case)
    for number, (site, cases) in enumerate(by_site.items()):
        if number:
            click.echo()
        click.echo((run.folder / cases[0] / "job.sh").read_text(), nl=False)
        place = run.places.get(site, {})
        arrays = place.get("scheduler") in ("slurm", "pbs") and place.get("limits", {}).get("array") not in (0, 1)
        if len(cases) > 1 and arrays:
            click.echo(f"{site}: cases that ask for the same go as an array, whose tasks run these scripts", err=True)


@click.command(short_help="Show where every case of a run stands.")
@click.argument("run", required=False)
@click.option("--watch", is_flag=True, help="Go on showing it until all cases have ended, or Ctrl-C.")
@click.option("--offline", is_flag=True, help="Ask no site: show what was known when it was last asked.")
@logs_option
@json_option
def status(run: str | None, watch: bool, offline: bool, logs: Path, as_json: bool) -> None:
    """Show where every case of RUN stands (the latest run; a unique prefix will do).

    Each of its sites is asked once, and gets what it has room for by now. A site that does not answer changes nothing:
    its cases are unknown, and the exit status is 3.
    """
    from hpcbench.run import Run
    from hpcbench.submit.control import refresh, states_now

    found = Run.find(run, logs)
    if watch:
        _finish(found, as_json=as_json, kind="status")
    problems = {} if offline else refresh(found)
    states = states_now(found, problems)
    if as_json:
        emit("status", _status(found, states))
    else:
        from hpcbench import progress

        progress.show(found, states)
    _tell(problems)


def _tell(problems: Mapping[str, str]) -> None:
    """Say which sites did not answer; then the exit status is 3."""
    for problem in problems.values():
        click.echo(f"hpcbench: {problem}", err=True)
    if problems:
        sys.exit(SiteError.exit_code)


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
    from hpcbench.submit.control import cancel as cancel_run
    from hpcbench.submit.control import how_to_stop

    found = Run.find(run, logs)
    states = cancel_run(found, cases)
    if as_json:
        emit("cancel", _status(found, states))
    else:
        progress.show(found, states)
    if by_hand := how_to_stop(found):
        click.echo(by_hand, err=True)
    if left := [state for state in states if state.state not in FINAL]:
        click.echo(f"{plural(len(left), 'case')} could not be cancelled", err=True)
        sys.exit(PARTIAL)


@click.command(short_help="Go on with a run: start the cases that never started.")
@click.argument("run", required=False)
@click.option("--failed", is_flag=True, help="Start again what failed, too; what it left is kept beside.")
@click.option("--wait", "wait_for_it", is_flag=True, help="Stay and show progress until all cases have ended.")
@logs_option
@json_option
def resume(run: str | None, failed: bool, wait_for_it: bool, logs: Path, as_json: bool) -> None:
    """Go on with RUN: start the cases that never started. Only with --failed is anything started twice.

    A submission that was interrupted is first looked for at its site: a job that exists is adopted, not sent again.
    """
    from hpcbench.run import Run
    from hpcbench.state import FAILED
    from hpcbench.submit.control import next_steps
    from hpcbench.submit.control import resume as resume_run

    found = Run.find(run, logs)
    count = resume_run(found, failed=failed)
    lost = sum(state.state in FAILED for state in found.states())
    rest = f"; {plural(lost, 'case')} failed or cancelled: --failed starts them again" if lost and not failed else ""
    click.echo(f"{found.name}: {plural(count, 'case') if count else 'nothing'} to start{rest}", err=True)
    if steps := next_steps(found):
        click.echo(steps, err=True)
    if wait_for_it:
        _finish(found, as_json=as_json, kind="resume")
    elif as_json:
        emit("resume", _status(found, found.states()))


@click.command(short_help="Bring back logs from the sites of a run.")
@click.argument("run", required=False)
@click.option("--watch", is_flag=True, help="Go on until all cases have ended: logs here grow as there.")
@click.option("--every", type=click.IntRange(1), default=10, show_default=True, metavar="SECONDS", help="With --watch.")
@click.option(
    "--max-size", type=click.IntRange(1), default=1024, show_default=True, metavar="MIB", help="Leave larger files."
)
@click.option(
    "--from", "archive", type=click.Path(path_type=Path), metavar="ZIP", help="Results of a notebook or of Modal."
)
@logs_option
@json_option
def fetch(
    run: str | None, watch: bool, every: int, max_size: int, archive: Path | None, logs: Path, as_json: bool
) -> None:
    """Bring back what is new or changed of RUN: only its cases' own files, checked, in one stream a site."""
    import time

    from hpcbench.run import Run
    from hpcbench.state import FINAL
    from hpcbench.submit.control import fetch as fetch_run
    from hpcbench.submit.control import fetch_zip

    found = Run.find(run, logs)
    try:
        while True:
            limit = max_size << 20
            got = fetch_run(found, limit=limit) if archive is None else fetch_zip(found, archive, limit=limit)
            if not as_json and (got.files or not watch):
                brought = (
                    f"{plural(len(got.files), 'file')}, {quantity(max(1, got.size), 'B')}"
                    if got.files
                    else "nothing new"
                )
                click.echo(f"{found.name}: {brought}", err=True)
            if not watch or archive is not None or all(state.state in FINAL for state in found.states()):
                break
            time.sleep(every)
    except KeyboardInterrupt:
        sys.exit(130)
    for name, why in got.left.items():
        click.echo(f"left there: {name} {why}", err=True)
    if as_json:
        emit("fetch", {"run": found.name, "files": got.files, "bytes": got.size, "left": got.left})


@click.command(short_help="Delete what a run keeps at its sites.")
@click.argument("run")
@click.option("--yes", is_flag=True, help="Do not ask.")
@logs_option
def clean(run: str, yes: bool, logs: Path) -> None:
    """Delete the folders of RUN at its sites, once all of its cases have ended; what is here stays."""
    from hpcbench.run import Run
    from hpcbench.submit.control import clean as clean_run

    found = Run.find(run, logs)
    if not yes:
        click.confirm(f"Delete what {found.name} keeps at {', '.join(found.places) or 'no site'}?", abort=True)
    clean_run(found)
    click.echo(f"{found.name}: nothing of it is kept at {', '.join(found.places) or 'a site'} any more", err=True)


def _finish(run: Run, *, as_json: bool, kind: str) -> NoReturn:
    """Wait for a run with progress, then exit with what came of it."""
    from hpcbench.state import FINAL

    told: dict[str, str] = {}

    def show(states: list[CaseState], problems: Mapping[str, str]) -> None:
        for site, problem in problems.items():
            if told.get(site) != problem:
                click.echo(f"hpcbench: {problem}", err=True)
        told.clear()
        told.update(problems)
        refresh(states)

    try:
        from hpcbench import progress  # it takes a while, in which somebody may change their mind
        from hpcbench.submit.control import next_steps
        from hpcbench.submit.control import wait as wait_for

        with progress.live(run) as refresh:
            states = wait_for(run, show)
    except KeyboardInterrupt:
        click.echo(f"\nstopped waiting; {run.name} goes on: hpcbench status, wait or cancel {run.name}", err=True)
        sys.exit(130)
    if as_json:
        emit(kind, _status(run, states))
    left = [state for state in states if state.state not in FINAL]
    if left and told:
        _tell({site: f"{run.name}: {plural(len(left), 'case')} left at {site}" for site in told})
    if told:
        _tell(
            {site: f"{run.name}: not all is here of what ended at {site}: hpcbench fetch {run.name}" for site in told}
        )
    if left:
        steps = next_steps(run) or f"hpcbench resume {run.name}"
        click.echo(f"{plural(len(left), 'case')} left and nothing works on them:\n{steps}", err=True)
    done = sum(state.state == "completed" and not state.reason for state in states)
    done_partly = sum(state.state == "completed" and bool(state.reason) for state in states)
    sys.exit(0 if done == len(states) else PARTIAL if done_partly else 1 if done == 0 and not left else PARTIAL)


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
                "site": run.case(state.case).get("site"),
                "job": state.job_id,
                "parameters": run.case(state.case).get("parameters", {}),
            }
            for state in states
        ],
    }
