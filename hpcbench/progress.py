"""What the terminal shows: the states of a run, live or once, and the comparison of its logs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hpcbench.metrics import COLUMNS, COUNTED, plural, quantity, rows, shown
from hpcbench.run import Run
from hpcbench.state import FINAL, CaseState

if TYPE_CHECKING:
    from hpcbench.metrics import Metrics
    from hpcbench.parse.growing import Growing
    from hpcbench.report.view import Section

_COLOURS = {"completed": "green", "running": "cyan", "queued": "default", "planned": "default", "submitting": "cyan"}
_MAX_FAILURES = 20  # lines
_MAX_DAMAGED = 20  # lines
_MAX_ROWS = 30  # in the live table: what runs, then the latest that ended and the next that wait


def show(run: Run, states: Sequence[CaseState]) -> None:
    """Print the state of every case."""
    console = _console()
    rows = _rows(run, states)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row, state in zip(rows, [None, *states], strict=True):  # by hand: rich takes a second to lay out 1,000 rows
        line = Text()
        for index, (cell, width) in enumerate(zip(row, widths, strict=True)):
            aligned = cell.rjust(width) if rows[0][index] in _NUMBERS else cell.ljust(width)
            style = "bold" if state is None else _colour(state) if rows[0][index] == "state" else ""
            line.append(f"{'  ' if index else ''}{aligned}", style=style)
        line.rstrip()
        console.print(line)
    console.print(Text(_counts(states)))


@contextlib.contextmanager
def live(run: Run) -> Iterator[Callable[[list[CaseState]], None]]:
    """Give a function that shows states: a live table on a terminal, else a line whenever a state changes."""
    console = Console(stderr=True, highlight=False)
    if console.is_terminal:
        with Live(console=console, auto_refresh=False, transient=False) as display:

            def refresh(states: list[CaseState]) -> None:
                display.update(_table(run, _window(states)), refresh=True)

            yield refresh
        return
    known: dict[str, str] = {}

    def log(states: list[CaseState]) -> None:
        for state in states:
            if known.get(state.case, "queued") != state.state:
                known[state.case] = state.state
                words = [state.case, state.state.replace("_", " "), state.reason, elapsed(state)]
                console.print(Text("  ".join(word for word in words if word)), soft_wrap=True)

    yield log


def comparison(metrics: Metrics, sections: Sequence[Section]) -> None:
    """Print the comparison tables and where the time went, then what failed and what was not read."""
    from hpcbench.analyse.summary import is_rate
    from hpcbench.report.answers import score_table
    from hpcbench.report.markdown import FAILURE_KINDS, cautions, damaged, ranges
    from hpcbench.report.view import asked, comparison_table, phase_table, point_name

    console = _console()
    comparisons = [section.comparison for section in sections]
    for section, each in zip(sections, comparisons, strict=True):
        if each.metrics:
            console.print(_columns(each.title, *comparison_table(each), left=len(each.axes)))
            if any(row.ratio for row in each.rows):
                of = COLUMNS[each.metrics[0]].label
                same = "" if each.benchmark or is_rate(each.metrics[0]) else ", if all do the same work in it"
                console.print(Text(f"speed-up: of {of}, against {point_name(each.baseline)}{same}{asked(each)}"))
            if each.warmup:
                console.print(Text(f"not steady, in no mean: step {ranges(each.warmup)}"))
        if section.phases:
            console.print(_columns("Where the time went", *phase_table(section), left=len(each.axes)))
        if section.scores:
            console.print(_columns("Scores", *score_table(section), left=len(each.axes)))
        for finding in section.findings:
            console.print(Text(finding))
    for source in rows(metrics.sources[metrics.sources["copy_of"] != ""]):
        console.print(Text(f"{source.path} is a copy of {source.copy_of}: not counted"))
    if hidden := sum(each.unmeasured for each in comparisons):
        what = "log holds" if hidden == 1 else "logs hold"
        console.print(Text(f"{hidden} more {what} none of the numbers that are compared; -o DIR writes what there is"))
    for case, said in cautions(metrics):
        console.print(Text(shown(f"{case}: {said}", 300), style="yellow"))
    shown_events = metrics.events[metrics.events["kind"].isin(FAILURE_KINDS)]
    for event in list(rows(shown_events))[:_MAX_FAILURES]:
        what = f"{event.source}:{event.line}: {event.kind.replace('_', ' ')}: {event.message}"
        console.print(Text(shown(what, 200), style="red"))
    if len(shown_events) > _MAX_FAILURES:
        console.print(Text(f"and {len(shown_events) - _MAX_FAILURES} more failures"))
    # what is known of how a foreign log ended are the failures in it
    failed = metrics.cases[~metrics.cases["state"].isin(COUNTED) & (metrics.cases["run"] != "")]
    for case in rows(failed):
        console.print(Text(f"{case.case}: {str(case.state).replace('_', ' ')}, {case.reason}", style="red"))
    problems = damaged(metrics.sources)
    for source in list(rows(problems))[:_MAX_DAMAGED]:
        console.print(Text(f"{source.path}: {shown(source.format, 200)}", style="red"))
    if len(problems) > _MAX_DAMAGED:
        console.print(Text(f"and {len(problems) - _MAX_DAMAGED} more"))
    console.print(Text(_what_was_read(metrics, len(problems))))


def _what_was_read(metrics: Metrics, problems: int) -> str:
    sources = metrics.sources
    nothing = sources["format"].isin(["", "binary"]) & (sources["records"] == 0)
    unknown = int((nothing & (sources["bytes"] > 0)).sum())
    parts = [f"{plural(int(sources['unread'].sum()), 'line')} could not be read"]
    parts += [f"{plural(problems, 'file')} could not be read"] if problems else []
    parts.append(f"{plural(unknown, 'file')} {'is' if unknown == 1 else 'are'} of no known format")
    read = plural(int((sources["records"] > 0).sum()), "file")
    return f"{read} read, {plural(int(sources['records'].sum()), 'record')}; {', '.join(parts)}"


def _columns(title: str, headings: Sequence[str], lines: Sequence[Sequence[str]], *, left: int) -> Table:
    """Lay out a table; its first `left` columns are names."""
    table = Table(title=Text(title), title_justify="left", box=None, pad_edge=False)
    for index, heading in enumerate(headings):
        widest = max(len(line[index]) for line in lines)  # a heading may wrap, a number may not
        table.add_column(Text(heading), justify="left" if index < left else "right", min_width=widest)
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    return table


def follow(
    paths: Sequence[Path], formats: Sequence[str] | None, label: str | None, baseline: Mapping[str, str] | None
) -> None:
    """Show the comparison of logs that grow, until Ctrl-C."""
    from hpcbench.analyse.summary import compare
    from hpcbench.parse import follow as follow_logs
    from hpcbench.report import section

    console = _console()
    with contextlib.suppress(KeyboardInterrupt):
        for metrics in follow_logs(*paths, formats=formats, label=label):
            if console.is_terminal:
                console.clear()
            comparison(metrics, [section(metrics, each) for each in compare(metrics, baseline)])


def _console() -> Console:
    """Make a console for stdout; into a file or pipe nothing is cut to a width."""
    console = Console(soft_wrap=True, highlight=False)
    return console if console.is_terminal else Console(soft_wrap=True, highlight=False, width=1000)


_NUMBERS = ("elapsed", "last step", "loss")


def _rows(run: Run, states: Sequence[CaseState]) -> list[list[str]]:
    """Write the states as rows of text, headings first; a column that is nowhere needed is left out."""
    jobs = any(state.job_id not in (None, state.case) for state in states)
    rows = [["case", "state", *(["job"] if jobs else []), *_NUMBERS, "reason"]]
    for state in states:
        step = _last_step(run, state)
        rows.append([
            state.case,
            state.state.replace("_", " "),
            *(["" if state.job_id in (None, state.case) else str(state.job_id)] if jobs else []),
            elapsed(state),
            "" if step is None or step.get("step") is None else f"{step['step']:.0f}",
            "" if step is None or step.get("loss") is None else f"{step['loss']:.4f}",
            shown(state.reason, 200),
        ])  # fmt: skip
    return rows


def _table(run: Run, states: Sequence[CaseState]) -> Table:
    """Lay out the states for a display that goes on."""
    headings, *rows = _rows(run, states)
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in _NUMBERS else "left")
    for row, state in zip(rows, states, strict=True):
        table.add_row(*(Text(cell, style=_colour(state) if at == 1 else "") for at, cell in enumerate(row)))
    return table


def _colour(state: CaseState) -> str:
    return _COLOURS.get(state.state, "red")


def _window(states: list[CaseState]) -> list[CaseState]:
    """Keep what fits on a screen, around the case that runs."""
    if len(states) <= _MAX_ROWS:
        return states
    active = next((index for index, state in enumerate(states) if state.state not in FINAL), len(states) - 1)
    start = max(0, min(active - _MAX_ROWS // 2, len(states) - _MAX_ROWS))
    return states[start : start + _MAX_ROWS]


def _last_step(run: Run, state: CaseState) -> dict[str, float] | None:
    if state.started is None:
        return None
    for name, form in _logs(run.folder / state.case):
        log = _growing(run.folder / state.case / name, form)
        log.update()
        if (step := log.last_step()) is not None:
            return step
    return None


@lru_cache(maxsize=1024)
def _logs(case: Path) -> tuple[tuple[str, str], ...]:
    """Return the logs that a case says it writes, and the format of each."""
    from hpcbench.formats import all_formats

    said = Run(case.parent, {}).case(case.name).get("logs")
    return tuple((name, form) for name, form in said.items() if form in all_formats()) if isinstance(said, dict) else ()


@lru_cache(maxsize=1024)
def _growing(file: Path, form: str) -> Growing:
    from hpcbench.formats import custom
    from hpcbench.parse.engine import Choice
    from hpcbench.parse.growing import Growing

    return Growing(file, Choice((form,), custom.keys()))


def elapsed(state: CaseState) -> str:
    """Write how long a case has run, or ran."""
    if state.started is None:
        return ""
    if state.ended is None and state.state != "running":
        return ""
    return quantity((state.ended or time.time()) - state.started, "s", 3)


def _counts(states: Sequence[CaseState]) -> str:
    counts: dict[str, int] = {}
    for state in states:
        counts[state.state] = counts.get(state.state, 0) + 1
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
