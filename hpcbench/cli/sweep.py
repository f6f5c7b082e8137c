"""The command that runs a sweep: submit."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hpcbench.cli.runs import described, finish
from hpcbench.cli.shared import PARTIAL, emit, json_option, logs_option
from hpcbench.errors import HpcbenchError, RejectedError, UsageError
from hpcbench.metrics import plural

if TYPE_CHECKING:
    from hpcbench.benchmark import Benchmark
    from hpcbench.run import Run


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

    names = [word.strip() for word in (value("--site", "local") or "").split(",")]
    name = value("--benchmark")
    if name is None:
        name = site.load(names[0]).benchmark
    return benchmark.load_for(name, map(site.load, names)) if name else None


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
            emit("submit", described(run, run.states()))
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
        finish(run, as_json=as_json, kind="submit")
    steps = control.next_steps(run)
    if wait_for_it and not steps:
        finish(run, as_json=as_json, kind="submit")
    if as_json:
        emit("submit", described(run, run.states()))
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
