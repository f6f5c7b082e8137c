"""report.md: the sections of a report through a Jinja template, every value escaped for Markdown."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from jinja2.sandbox import ImmutableSandboxedEnvironment

from hpcbench.analyse.overlap import overlaps
from hpcbench.analyse.sameness import TOLERANCE, Agreement, Sameness
from hpcbench.analyse.serving import serialised
from hpcbench.formats import all_formats
from hpcbench.metrics import CAUTIONS, COLUMNS, COUNTED, Metrics, plural, quantity, rows, shown
from hpcbench.report import answers, view
from hpcbench.report.view import Section

_MAX_SOURCES = 100  # files listed in the text; all are in tables/sources.csv
_MAX_UNKNOWN = 10
_NUMERIC = re.compile(
    r"(?:|–|baseline|not bounded|\d+ of \d+|[-+]?\d[\d,.]*(?:e[-+]\d+)?[%×]?(?: (?:±|to) [\d.,–]+)?(?: [A-Za-zµ%]+)?)"
)
FAILURE_KINDS = (
    "out_of_memory", "time_limit", "traceback", "assertion", "nan_loss", "failed", "cancelled", "killed", "aborted",
    "node_failure", "preempted", "nccl_error", "nccl_timeout", "cuda_error", "segmentation_fault", "bus_error",
    "illegal_instruction", "appliance_error",
)  # fmt: skip


class _Markdown(str):
    """Text that is Markdown already."""

    __slots__ = ()


def write(metrics: Metrics, sections: Sequence[Section]) -> str:
    """Return the text of report.md."""
    environment = ImmutableSandboxedEnvironment(
        undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, _Markdown) else escape(str(value)),
        autoescape=False,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    source = Path(str(resources.files("hpcbench.templates"))) / "reports" / "report.md.j2"
    text = environment.from_string(source.read_text(encoding="utf-8")).render(
        title=" and ".join(section.comparison.title for section in sections),
        runs=[_run(run) for run in metrics.runs.values()],
        sections=[_section(section) for section in sections],
        level=_Markdown("##" if len(sections) < 2 else "###"),
        cautions=table(["case or run", "what is known of it"], told) if (told := cautions(metrics)) else None,
        failures=_failures(metrics),
        unknown=_unknown(metrics),
        sources=_sources(metrics),
        counts={
            "files": len(metrics.sources),
            "recognised": len(recognised(metrics.sources)),
            "records": int(metrics.sources["records"].sum()),
            "unread": int(metrics.sources["unread"].sum()),
        },
    )
    return re.sub(r"\n{3,}", "\n\n", text)


def escape(text: str) -> str:
    """Make text safe in Markdown, in a table cell too: it reads as it was written and starts nothing."""
    text = "".join(letter if letter.isprintable() else "�" if letter not in "\n\r\t" else " " for letter in text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # an underscore within a word is only an underscore
    return re.sub(r"([\\`*\[\]|#~$]|(?<!\w)_|_(?!\w))", r"\\\1", text)


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> _Markdown:
    """Make a Markdown table, columns padded so that it also reads as plain text; numbers are set right."""
    body = [[escape(cell) for cell in row] for row in rows]
    head = [escape(heading) for heading in headings]
    widths = [max(3, *(len(line[index]) for line in [head, *body])) for index in range(len(head))]
    right = [
        any(line[i] for line in body) and all(_NUMERIC.fullmatch(line[i]) for line in body) for i in range(len(head))
    ]

    def line(cells: Sequence[str]) -> str:
        padded = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(cells, widths, right, strict=True)]
        return "| " + " | ".join(padded) + " |"

    rule = ["-" * (width - 1) + (":" if r else "-") for width, r in zip(widths, right, strict=True)]
    return _Markdown("\n".join([line(head), line(rule), *(line(row) for row in body)]))


def code(text: str) -> _Markdown:
    """Make an inline code span that its own content cannot end."""
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return _Markdown(f"{fence}{pad}{text}{pad}{fence}")


def _run(run: Mapping[str, Any]) -> dict[str, Any]:
    import shlex
    import time

    machine, software = _table_of(run.get("machine")), _table_of(run.get("software"))
    git, libraries, environment = (_table_of(software.get(name)) for name in ("git", "libraries", "environment"))
    command = [Path(word).name if index == 0 else word for index, word in enumerate(_words(run.get("command")))]
    memory, created = machine.get("memory"), run.get("created")
    cores = f"{machine.get('cores') or '?'} cores, {machine.get('usable_processors') or '?'} processors usable"
    facts = {
        "host": machine.get("host"),
        "system": machine.get("system"),
        "processor": f"{machine.get('cpu') or 'unknown'} ({cores})",
        "memory": quantity(memory, "B") if isinstance(memory, int | float) else None,
        "frequency governor": machine.get("governor") or "not visible",
        "load at the start": machine.get("load"),
        "GPUs": "; ".join(_words(machine.get("gpus"))) or "none",
        "Python": software.get("python"),
        "libraries": ", ".join(f"{name} {version}" for name, version in libraries.items()) or None,
        "environment": ", ".join(f"{name}={value}" for name, value in environment.items()) or "nothing set",
        "hpcbench": f"{software.get('hpcbench')}"
        + (f", commit {git.get('commit')!s:.12}{' with local changes' if git.get('changed') else ''}" if git else ""),
    }
    dated = isinstance(created, int | float) and 0 <= created < 1e11  # to the year 5138
    when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(created)) if dated else "at an unknown time"
    return {
        "name": run.get("run", ""),
        "description": run.get("description") or "",
        "when": when,
        "command": code(shlex.join(command)) if command else None,
        "sweep": code(str(run.get("sweep") or "one case")),
        "cases": len(_words(run.get("cases"))),
        "facts": table(["what", "this run"], [(key, str(value)) for key, value in facts.items() if value is not None]),
    }


def _table_of(value: Any) -> Mapping[str, Any]:
    """Take what should be a table from ``run.json``, which anyone may have written."""
    return value if isinstance(value, dict) else {}


def _words(value: Any) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []


def _section(section: Section) -> dict[str, Any]:
    comparison = section.comparison
    repeats = max((len(spread.values) for row in comparison.rows for spread in row.metrics.values()), default=0)
    return {
        "title": comparison.title,
        "comparison": table(*view.comparison_table(comparison)) if comparison.metrics else None,
        "metric": COLUMNS[comparison.metrics[0]].label if comparison.metrics else "",
        "baseline": view.point_name(comparison.baseline) if comparison.baseline else "",
        "rates": any(COLUMNS[name].unit.endswith("/s") for name in comparison.metrics),
        "ratios": any(row.ratio for row in comparison.rows),
        "warmup": ranges(comparison.warmup),
        "repeated": repeats > 1,
        "pairs": view.asked(comparison),
        "fixed": table(
            ["parameter", "value"],
            [
                (view.with_unit(name, comparison.units.get(name, "")), view.axis_value(value))
                for name, value in comparison.fixed.items()
            ],
        )
        if comparison.fixed
        else None,
        "figures": [{"stem": _Markdown(stem), "caption": caption} for stem, caption in section.figures],
        "sameness": [_sameness(same) for same in section.sameness],
        "counters": _counters(section),
        "requests": table(*view.request_table(section)) if section.requests else None,
        "spread": table(*view.spread_table(section)) if section.requests else None,
        "phases": table(*view.phase_table(section)) if section.phases else None,
        "steady": any("steady" in durations for _, durations in section.phases),
        "scores": _scores(section) if section.scores else None,
        "answered": _pairs(section) if section.pairs else None,
        "findings": section.findings,
    }


def ranges(numbers: Sequence[int]) -> str:
    """Write whole numbers in order: ``0 to 2, 7``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _scores(section: Section) -> dict[str, Any]:
    headings, lines = answers.subject_table(section)
    return {
        "total": table(*answers.score_table(section)),
        "subjects": table(headings, lines[: answers.MAX_SCORES]) if lines else None,
        "left_out": max(0, len(lines) - answers.MAX_SCORES),
        "repeated": any(len(each.total.counts) > 1 for each in section.scores),
    }


def _pairs(section: Section) -> dict[str, Any]:
    count = sum(len(pair.flips) for pair in section.pairs)
    return {
        "table": table(*answers.pair_table(section)),
        "flips": table(*answers.flip_table(section)) if count else None,
        "left_out": max(0, count - answers.MAX_FLIPS),
    }


def _sameness(same: Sameness) -> dict[str, Any]:
    if same.answers is not None:
        return {"verdict": _same_answers(same, same.answers), "table": None}
    count = same.cases
    who = f"All {count} cases" if count > 1 else "The one case"
    where = f" with {view.point_name(same.point)}" if same.point else ""
    if count < 2:
        verdict = "has nothing to be compared with"
    elif math.isnan(same.difference):
        verdict = "cannot be compared: at no step do two of them have a validation loss"
    elif same.difference == 0:
        verdict = "have identical validation losses, to the last digit logged"
    elif same.difference <= TOLERANCE:
        verdict = f"have the same validation losses to rounding (largest relative difference {same.difference:.1e})"
    elif math.isinf(same.difference):
        verdict = "do NOT have the same validation losses (at some step one of them is not a number)"
    else:
        verdict = f"do NOT have the same validation losses (largest relative difference {same.difference:.1e})"
    samples = {0: "", 1: "; the generated samples are identical" if count > 1 else ""}.get(
        same.samples, f"; there are {same.samples} DIFFERENT generated samples"
    )
    columns = [view.point_name({axis: row.point[axis] for axis in same.across}) for row in same.rows]
    identical = same.difference == 0 and count > 1
    rows = []
    for step, values in same.losses.items():
        known = [value for value in values if not math.isnan(value)]
        shown = (known or values)[:1] if identical else values
        rows.append([str(step), *("–" if math.isnan(value) else f"{value:.6f}" for value in shown)])
    return {
        "verdict": f"{who}{where} {verdict}{samples}.",
        "table": table(["step", *(["validation loss, every case"] if identical else columns)], rows),
    }


def _same_answers(same: Sameness, agreement: Agreement) -> str:
    where = f" with {view.point_name(same.point)}" if same.point else ""
    cases = f"{plural(same.cases, 'case')}{where}"
    if not agreement.questions:
        return f"{cases}: no question was answered in two of them."
    beside = "" if math.isnan(agreement.scores) else f"; log-likelihoods differ by at most {agreement.scores:.1e}"
    if not agreement.different:
        return f"All {agreement.questions:,} answers are the same in {cases}{beside}."
    return f"{agreement.different:,} of {agreement.questions:,} answers are NOT the same in {cases}{beside}."


def _counters(section: Section) -> _Markdown | None:
    if not section.counters:
        return None
    names = list(dict.fromkeys(name for _, counters in section.counters for name in counters))
    headings = ["counter", *(view.point_name(row.point) for row, _ in section.counters)]
    rows = [
        [
            COLUMNS[name].label if name in COLUMNS else name,
            *(view.counter(counters[name]) if name in counters else "–" for _, counters in section.counters),
        ]
        for name in names
    ]
    return table(headings, rows)


def cautions(metrics: Metrics) -> list[tuple[str, str]]:
    """Return how far numbers can be trusted, as their programs and what ran when tell: case or run, and a sentence."""
    owner = metrics.owners()
    events = metrics.events[metrics.events["kind"].isin(CAUTIONS)]
    told = [
        (CAUTIONS.index(event.kind), owner[event.source][1], event.message)
        for event in rows(events)
        if event.source in owner
    ]
    return [*overlaps(metrics), *serialised(metrics), *((case, said) for _, case, said in dict.fromkeys(sorted(told)))]


def _failures(metrics: Metrics) -> _Markdown | None:
    """List the cases that did not complete, and what their logs say of it."""
    owner = metrics.owners()
    said: dict[tuple[str, str], str] = {}
    for event in rows(metrics.events[metrics.events["kind"].isin(FAILURE_KINDS)]):
        if event.source in owner:
            said.setdefault(owner[event.source], f"{event.message} ({event.source}:{event.line})")
    listed = []
    for case in rows(metrics.cases):
        key = (case.run, case.case)
        if case.state not in COUNTED or (key in said):
            listed.append([case.case, (case.state or "not said").replace("_", " "), case.reason, said.get(key, "")])
    return table(["case", "state", "reason", "the log says"], listed) if listed else None


def recognised(sources: pd.DataFrame) -> pd.DataFrame:
    """Return the files of a known format; of a file that could not be read `format` says why."""
    known = all_formats()
    named = [bool(words) and all(word in known for word in words.split()) for words in sources["format"]]
    return sources[(sources["records"] > 0) | np.array(named, dtype=bool)]


def damaged(sources: pd.DataFrame) -> pd.DataFrame:
    """Return the files that should have been read and could not; an image or a program is none of them."""
    rest = sources.drop(recognised(sources).index)
    return rest[~rest["format"].isin(["", "binary"])]


def _unknown(metrics: Metrics) -> str:
    """Name the files in which nothing was recognised: first those that could not be read, and why."""
    nothing = metrics.sources.drop(recognised(metrics.sources).index)
    problems = damaged(nothing)
    files = [f"{Path(each.path).name} ({shown(each.format, 100)})" for each in rows(problems)]
    files += [Path(path).name for path in nothing.drop(problems.index)["path"]]
    more = f" and {len(files) - _MAX_UNKNOWN} more" if len(files) > _MAX_UNKNOWN else ""
    return ", ".join(files[:_MAX_UNKNOWN]) + more


def _sources(metrics: Metrics) -> _Markdown:
    read = recognised(metrics.sources).head(_MAX_SOURCES)
    return table(
        ["file", "format", "records", "lines not read", "SHA-256"],
        [(row.path, row.format, str(row.records), str(row.unread), row.sha256[:12]) for row in rows(read)],
    )
