"""The commands that look after a run: status, wait, cancel, resume, fetch and clean."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from hpcbench.cli.shared import PARTIAL, emit, json_option, logs_option
from hpcbench.errors import SiteError
from hpcbench.metrics import plural, quantity

if TYPE_CHECKING:
    from hpcbench.run import Run
    from hpcbench.state import CaseState


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
        finish(found, as_json=as_json, kind="status")
    problems = {} if offline else refresh(found)
    states = states_now(found, problems)
    if as_json:
        emit("status", described(found, states))
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

    finish(Run.find(run, logs), as_json=as_json, kind="wait")


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
        emit("cancel", described(found, states))
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
        finish(found, as_json=as_json, kind="resume")
    elif as_json:
        emit("resume", described(found, found.states()))


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


def finish(run: Run, *, as_json: bool, kind: str) -> NoReturn:
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
        emit(kind, described(run, states))
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


def described(run: Run, states: Sequence[CaseState]) -> dict[str, Any]:
    """Return where the cases of a run stand, as every command writes it with ``--json``."""
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
