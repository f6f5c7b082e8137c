"""From metrics to a folder that a reader can check: report.md, figures, tables and report.json."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcbench.analyse.answers import pairs, scores
from hpcbench.analyse.counters import Counter, perf_counters
from hpcbench.analyse.phases import by_point
from hpcbench.analyse.relayed import without_relayed
from hpcbench.analyse.sameness import sameness
from hpcbench.analyse.serving import request_counters
from hpcbench.analyse.summary import Comparison, Row, compare
from hpcbench.errors import HpcbenchError, RunError
from hpcbench.metrics import COLUMNS, Metrics
from hpcbench.report import figures, markdown
from hpcbench.report.answers import flip_rows, score_rows, scores_json
from hpcbench.report.findings import tell
from hpcbench.report.view import Section

SCHEMA = "hpcbench/report/1"
_MAX_DEPTH = 50
# what a report consists of; a folder that holds anything else is somebody's, and is not replaced
_OURS = re.compile(r"report\.(?:md|json)|figures(?:/[^/]+\.(?:png|svg))?|tables(?:/[^/]+\.csv)?")


def report(metrics: Metrics, folder: Path | str, baseline: Mapping[str, str] | None = None) -> Path:
    """Write the report of `metrics` into `folder` (replaced when it holds a report) and return ``report.md``.

    The same metrics give the same bytes. Raises `HpcbenchError` when there is nothing to report, `RunError` when the
    folder cannot be written; then nothing is left behind.
    """
    target = Path(folder)
    place = target.resolve()  # `.` can be replaced too, and what a link points to
    metrics = without_relayed(metrics)
    sections = [section(metrics, comparison) for comparison in compare(metrics, baseline)]
    if not sections:
        raise HpcbenchError("there is nothing to report: no log of a known format was found")
    aside: Path | None = None
    try:
        if place.exists() and (other := _not_ours(place)):
            raise RunError(f"{target} holds other files than a report ({other}): name another folder with -o")
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
        aside.chmod(0o755)
        for index, each in enumerate(sections):
            each.figures.extend(figures.draw(metrics, each, aside / "figures", index if len(sections) > 1 else None))
        _tables(metrics, sections, aside / "tables")
        data = json.dumps(plain(_json(metrics, sections)), indent=1, allow_nan=False)
        (aside / "report.json").write_text(data + "\n")
        (aside / "report.md").write_text(markdown.write(metrics, sections), encoding="utf-8")
        if place.exists():  # the old one stays until the new one is in its place
            old = place.rename(aside.with_name(f"{aside.name}.old"))
            aside.rename(place)
            shutil.rmtree(old)
        else:
            aside.rename(place)
    except OSError as error:
        raise RunError(f"cannot write the report in {target}/: {error.strerror or error}") from None
    finally:
        if aside is not None and aside.exists():
            shutil.rmtree(aside, ignore_errors=True)
    return target / "report.md"


def _not_ours(folder: Path) -> str | None:
    """Return the name of something in `folder` that no report has."""
    names = (file.relative_to(folder).as_posix() for file in sorted(folder.rglob("*")))
    found = [name for name in names if not _OURS.fullmatch(name)]
    if found:
        return found[0]
    return None if (folder / "report.json").exists() or not any(folder.iterdir()) else "files"


def section(metrics: Metrics, comparison: Comparison) -> Section:
    """Gather what the report says about one benchmark."""
    # logs that hpcbench did not launch do not say what must not change the result: every axis is looked at, unless
    # nothing but their names tells them apart, and they may be of anything
    invariant = metrics.invariant.get(comparison.benchmark)
    across = comparison.axes if invariant is None else (*invariant, "run", "site")
    unrelated = invariant is None and "log" in comparison.axes
    phases = by_point(metrics, comparison)
    of_rows, of_pairs = scores(metrics, comparison), pairs(metrics, comparison)
    return Section(
        comparison,
        [] if unrelated else sameness(metrics, comparison, [axis for axis in comparison.axes if axis in across]),
        perf_counters(metrics, comparison),
        request_counters(metrics, comparison),
        phases,
        of_rows,
        of_pairs,
        tell(metrics, comparison, phases, of_rows, of_pairs),
    )


def _counters(counted: Sequence[tuple[Row, Mapping[str, Counter]]]) -> list[dict[str, Any]]:
    """Write counters as JSON, by point."""
    return [
        {
            "point": dict(row.point),
            "counters": {
                name: {"values": [plain(value) for value in counter.values], "unit": counter.unit}
                for name, counter in counters.items()
            },
        }
        for row, counters in counted
    ]


def _tables(metrics: Metrics, sections: list[Section], folder: Path) -> None:
    import pandas as pd

    metrics.write(folder, csv=True)
    rows = []
    for each in sections:
        for row in each.comparison.rows:
            line: dict[str, Any] = {"benchmark": each.comparison.benchmark, **row.point, "cases": len(row.cases)}
            for name, spread in row.metrics.items():
                line |= {
                    f"{name}_mean": spread.mean,
                    f"{name}_std_over_steps": spread.over_steps,
                    f"{name}_std_over_repeats": spread.over_repeats,
                    f"{name}_steps": spread.steps,
                    f"{name}_repeats": len(spread.values),
                }
            if row.ratio is not None:
                line |= {
                    "speedup": row.ratio.speedup,
                    "speedup_low": row.ratio.low,
                    "speedup_high": row.ratio.high,
                    "slowdown": row.ratio.slowdown,
                    "efficiency": row.ratio.efficiency,
                }
            rows.append(line)
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in (("comparison", rows), ("scores", score_rows(sections)), ("flips", flip_rows(sections))):
        if lines or name == "comparison":
            pd.DataFrame(lines, dtype=object).to_csv(folder / f"{name}.csv", index=False)


def _json(metrics: Metrics, sections: list[Section]) -> dict[str, Any]:
    """Describe the report for programs; ``docs/json.md`` documents the schema."""
    return {
        "schema": SCHEMA,
        "runs": {name: dict(run) for name, run in metrics.runs.items()},
        "sections": [section_json(each) for each in sections],
        "cases": _records(metrics.cases),
        "sources": _records(metrics.sources),
    }


def section_json(each: Section) -> dict[str, Any]:
    """Describe one benchmark of the report as plain data."""
    comparison = each.comparison
    return {
        "benchmark": comparison.benchmark,
        "title": comparison.title,
        "axes": list(comparison.axes),
        "fixed": {name: plain(value) for name, value in comparison.fixed.items()},
        "baseline": dict(comparison.baseline),
        "warmup_steps": list(comparison.warmup),
        "metrics": {
            name: {"label": COLUMNS[name].label, "unit": COLUMNS[name].unit, "better": COLUMNS[name].better}
            for name in comparison.metrics
        },
        "rows": [
            {
                "point": dict(row.point),
                "cases": [{"run": run, "case": case} for run, case in row.cases],
                "completed": row.completed,
                "metrics": {
                    name: {
                        "mean": plain(spread.mean),
                        "std_over_steps": plain(spread.over_steps),
                        "std_over_repeats": plain(spread.over_repeats),
                        "steps": spread.steps,
                        "repeats": [plain(value) for value in spread.values],
                        "sources": list(spread.sources),
                    }
                    for name, spread in row.metrics.items()
                },
                "speedup": None
                if row.ratio is None
                else {
                    "value": plain(row.ratio.speedup),
                    "interval_95": None if math.isnan(row.ratio.low) else [plain(row.ratio.low), plain(row.ratio.high)],
                    "slowdown": plain(row.ratio.slowdown),
                    "efficiency": plain(row.ratio.efficiency),
                },
            }
            for row in comparison.rows
        ],
        "sameness": [
            {
                "point": dict(same.point),
                "across": list(same.across),
                "cases": same.cases,
                "largest_relative_difference": plain(same.difference),
                "different_samples": same.samples,
                "same": same.same,
                "answers": None if same.answers is None else plain(vars(same.answers)),
                "validation_loss": {
                    str(step): [plain(value) for value in values] for step, values in same.losses.items()
                },
            }
            for same in each.sameness
        ],
        "counters": _counters(each.counters),
        "requests": _counters(each.requests),
        "phases": [
            {"point": dict(row.point), "seconds": {phase: plain(seconds) for phase, seconds in durations.items()}}
            for row, durations in each.phases
        ],
        **plain(scores_json(each)),
        "findings": list(each.findings),
        "figures": [name for name, _ in each.figures],
    }


def plain(value: Any, depth: int = 0) -> Any:
    """Make a value fit for JSON: NaN and infinities become None, and so does what is nested beyond all sense."""
    if depth > _MAX_DEPTH:
        return None
    if isinstance(value, dict):
        return {key: plain(each, depth + 1) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each, depth + 1) for each in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _records(table: Any) -> list[dict[str, Any]]:
    return [{name: plain(value) for name, value in row.items() if value == value} for row in table.to_dict("records")]  # noqa: PLR0124


__all__ = ["SCHEMA", "plain", "report", "section", "section_json"]
