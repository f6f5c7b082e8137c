"""The figures of a report: a metric over an axis, step time over steps. PNG at 300 dpi and SVG."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.analyse.summary import SCALING, Row
from hpcbench.metrics import COLUMNS, scale, significant
from hpcbench.report.view import Section, axis_value, point_name, with_unit

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from hpcbench.metrics import Metrics

# Okabe and Ito's palette (2008), which people with any colour vision can tell apart; yellow left out: too pale on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*X"
DPI = 300
_MAX_CURVES = 24
_MAX_TICKS = 12  # values written on an axis, and along it beside their points
_MAX_LABELS = 36
_LINE = 88  # letters of the legend's size that fit into a figure's width

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
    "figure.figsize": (7.0, 4.2),
    "font.size": 10,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "svg.hashsalt": "hpcbench",  # the same figure gives the same bytes
    "text.parse_math": False,  # a parameter's value may hold dollar signs
}


def draw(metrics: Metrics, section: Section, folder: Path, number: int | None) -> list[tuple[str, str]]:
    """Draw the figures of one benchmark into `folder`; returns file stem and caption of each."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    prefix = "" if number is None else f"{number + 1}-"
    drawn: list[tuple[str, str]] = []

    def save(figure: Figure, stem: str, caption: str) -> None:
        figure.savefig(folder / f"{prefix}{stem}.png", dpi=DPI, metadata={"Software": None})
        figure.savefig(folder / f"{prefix}{stem}.svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
        drawn.append((f"{prefix}{stem}", caption))

    with plt.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a value in another script is drawn as boxes
        comparison = section.comparison
        axis = _main_axis(section)
        for place, name in enumerate(comparison.metrics if axis is not None else ()):
            if _worth_drawing(comparison.rows, name, place):
                figure, caption = _metric_over_axis(section, name, str(axis))
                save(figure, f"{name}-over-{axis}", caption)
        compared = sum(row.ratio is not None for row in comparison.rows)
        if axis in SCALING and compared > 1 and _numeric(comparison.rows, str(axis)):
            save(*_scaling(section, str(axis)))
        if comparison.metrics and (figure_and_caption := _over_steps(metrics, section)) is not None:
            save(*figure_and_caption)
    return drawn


def _main_axis(section: Section) -> str | None:
    axes = section.comparison.axes
    return next((axis for axis in axes if axis in section.comparison.baseline), axes[0] if axes else None)


def _numeric(rows: Sequence[Row], axis: str) -> bool:
    return all(isinstance(row.point[axis], int | float) and not isinstance(row.point[axis], bool) for row in rows)


def _series(rows: Sequence[Row], axis: str) -> dict[str, list[Row]]:
    """Split rows into one curve for each combination of the other axes."""
    series: dict[str, list[Row]] = {}
    for row in rows:
        others = ", ".join(f"{name} {axis_value(value)}" for name, value in row.point.items() if name != axis)
        series.setdefault(others, []).append(row)
    return series


def _worth_drawing(rows: Sequence[Row], name: str, place: int) -> bool:
    """Tell whether a picture says more than the table: the first two metrics, and others that vary by more than 2 %."""
    means = [row.metrics[name].mean for row in rows if math.isfinite(row.metrics[name].mean)]
    return len(means) > 1 and (place < 2 or min(means) <= 0 or max(means) / min(means) > 1.02)


def _metric_over_axis(section: Section, name: str, axis: str) -> tuple[Figure, str]:
    """Numbers on the axis: lines; words: bars. Error bars are one standard deviation."""
    import matplotlib.pyplot as plt

    comparison, column = section.comparison, COLUMNS[name]
    rows = [row for row in comparison.rows if math.isfinite(row.metrics[name].mean)]
    factor, unit = scale([row.metrics[name].mean for row in rows], column.unit)
    repeated = any(not math.isnan(row.metrics[name].over_repeats) for row in rows)
    errors = {id(row): row.metrics[name].over_repeats if repeated else row.metrics[name].over_steps for row in rows}
    figure, axes = plt.subplots()
    series = _series(rows, axis)
    lines = _numeric(rows, axis)
    words = list(dict.fromkeys(axis_value(row.point[axis]) for row in rows))
    labels: list[_Label] = []
    for index, (label, members) in enumerate(list(series.items())[:_MAX_CURVES]):
        colour = COLOURS[index % len(COLOURS)]
        means = [row.metrics[name].mean / factor for row in members]
        spreads = [errors[id(row)] / factor for row in members]  # NaN, for which nothing is drawn, is no spread of 0
        bars = [0.0 if math.isnan(spread) else spread for spread in spreads]
        if lines:
            x = [float(row.point[axis]) for row in members]
            axes.errorbar(
                x, means, yerr=spreads, color=colour, marker=MARKERS[index % len(MARKERS)], capsize=3, label=label
            )
        else:
            width = 0.8 / len(series)
            x = [words.index(axis_value(row.point[axis])) + (index - (len(series) - 1) / 2) * width for row in members]
            axes.bar(x, means, width * 0.92, yerr=spreads, color=colour, capsize=3, label=label)
        labels += [
            _Label(at, mean, bar, bar, significant(mean, 3), colour)
            for at, mean, bar in zip(x, means, bars, strict=True)
        ]
    _write_labels(axes, labels)
    if lines:
        _number_axis(axes, [float(row.point[axis]) for row in rows])
    else:
        _word_axis(axes, words)
    _from_zero(axes)
    axes.set_xlabel(with_unit(axis, comparison.units.get(axis, "")))
    axes.set_ylabel(with_unit(column.label, unit))
    if len(series) > 1:
        _legend(figure)
    kind = "repeats" if repeated else "steady steps"
    bars_text = (
        f"error bars: one standard deviation over {kind}"
        if not all(map(math.isnan, errors.values()))
        else "one value each"
    )
    notes = [f"{column.better} is better"] if column.better else []
    notes += [bars_text, *_left_out(len(series))]
    return figure, f"{column.label.capitalize()} over {axis} ({'; '.join(notes)})"


def _scaling(section: Section, axis: str) -> tuple[Figure, str, str]:
    import matplotlib.pyplot as plt

    comparison = section.comparison
    figure, axes = plt.subplots()
    every = [float(row.point[axis]) for row in comparison.rows]
    first = float(comparison.baseline.get(axis, min(every)))
    ideal = np.linspace(min(every), max(every), 200)  # a curve where the axis is logarithmic
    axes.plot(ideal, ideal / first, "--", color="0.5", label="proportional")
    series = _series([row for row in comparison.rows if row.ratio], axis)
    labels: list[_Label] = []
    hollow = False
    for index, (label, rows) in enumerate(list(series.items())[:_MAX_CURVES]):
        colour = COLOURS[index % len(COLOURS)]
        pairs = [(float(row.point[axis]), row.ratio) for row in rows if row.ratio is not None]
        bounded = [math.isfinite(r.high) for _, r in pairs]
        down = [max(0.0, r.speedup - r.low) if bar else 0.0 for (_, r), bar in zip(pairs, bounded, strict=True)]
        up = [max(0.0, r.high - r.speedup) if bar else 0.0 for (_, r), bar in zip(pairs, bounded, strict=True)]
        x, y = [at for at, _ in pairs], [ratio.speedup for _, ratio in pairs]
        marker = MARKERS[index % len(MARKERS)]
        axes.errorbar(x, y, yerr=[down, up], color=colour, marker=marker, capsize=3, label=label or "measured")
        # without a bar the least certain point would look like the most certain one
        unsure = [(at, ratio.speedup) for at, ratio in pairs if math.isinf(ratio.high)]
        for at, speedup in unsure:
            axes.plot(at, speedup, marker, markerfacecolor="white", markeredgecolor=colour, zorder=3)
        hollow |= bool(unsure)
        labels += [
            _Label(*each, f"{each[1]:.2f}×", colour) for each in zip(x, y, down, up, strict=True) if each[1] != 1
        ]
    _write_labels(axes, labels)
    _number_axis(axes, every)
    _from_zero(axes)
    axes.set_xlabel(with_unit(axis, comparison.units.get(axis, "")))
    axes.set_ylabel(f"speed-up against {axis} {axis_value(comparison.baseline.get(axis))}")
    _legend(figure)
    interval = any(row.ratio and math.isfinite(row.ratio.high) for row in comparison.rows)
    notes = [
        *(["error bars: 95 % interval"] if interval else []),
        *(["hollow: an interval without bounds"] if hollow else []),
        *_left_out(len(series)),
    ]
    return figure, f"speedup-over-{axis}", f"Speed-up over {axis}" + (f" ({'; '.join(notes)})" if notes else "")


def _left_out(series: int) -> list[str]:
    return [f"the first {_MAX_CURVES} of {series} lines"] if series > _MAX_CURVES else []


def _over_steps(metrics: Metrics, section: Section) -> tuple[Figure, str, str] | None:
    """Step time of every case over its steps, in the colour of its point; warm-up steps are hollow."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

    steps = metrics.steps
    if steps.empty or steps["step_time"].isna().all():
        return None
    rows = section.comparison.rows
    owner = {case: index for index, row in enumerate(rows) for case in row.cases}
    case_of = metrics.owners()
    curves = [
        (owner[case_of[str(source)]], group)
        for source, group in steps.groupby("source", sort=False)
        if case_of.get(str(source)) in owner and not group["step_time"].isna().all()
    ]
    if not curves:
        return None
    shown = curves[:_MAX_CURVES]
    times = [float(time) for _, group in shown for time in group["step_time"] if time > 0]
    factor, unit = scale(times, "s")
    figure, axes = plt.subplots()
    labelled: set[int] = set()
    for index, group in shown:
        colour = COLOURS[index % len(COLOURS)]
        label = point_name(rows[index].point) if index not in labelled and rows[index].point else None
        labelled.add(index)
        style = "-" if index < len(COLOURS) else "--"
        axes.plot(
            group["step"], group["step_time"] / factor, style, color=colour, linewidth=1.2, alpha=0.85, label=label
        )
        warm = group[~group["steady"]]
        axes.plot(warm["step"], warm["step_time"] / factor, "o", mfc="white", mec=colour, ms=5)
    logarithmic = bool(times) and max(times) > 20 * min(times)
    if logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(_plainly)
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        _from_zero(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("step")
    axes.set_ylabel(with_unit("step time", unit))
    if any(row.point for row in rows):
        _legend(figure)
    notes = ["hollow: warm-up, in no mean"]
    notes += ["logarithmic"] if logarithmic else []
    notes += [f"the first {_MAX_CURVES} of {len(curves)} cases"] if len(curves) > _MAX_CURVES else []
    return figure, "step-time-over-steps", f"Step time over steps, one line a case ({'; '.join(notes)})"


def _from_zero(axes: Axes) -> None:
    """Start at zero, so that heights compare as the values do, with room for labels above."""
    axes.set_ylim(0, axes.get_ylim()[1] * 1.08)
    axes.yaxis.set_major_formatter(_plainly)


def _plainly(value: float, _: object) -> str:
    return f"{value:,.10g}"


def _legend(figure: Figure) -> None:
    """Put the legend below, in as many columns as its longest entry leaves room for; the figure grows with it."""
    entries = [str(label) for axes in figure.axes for label in axes.get_legend_handles_labels()[1]]
    columns = min(3, len(entries), max(1, _LINE // (max(map(len, entries)) + 8)))
    figure.set_figheight(figure.get_figheight() + 0.2 * (math.ceil(len(entries) / columns) - 1))
    figure.legend(loc="outside lower center", ncols=columns, fontsize=9)


def _word_axis(axes: Axes, words: Sequence[str]) -> None:
    """Put a word at every bar, slanted where they would run into each other."""
    axes.set_xticks(range(len(words)), words)
    if sum(len(word) + 2 for word in words) > _LINE:
        axes.tick_params("x", labelrotation=30, labelsize=8)
        for label in axes.get_xticklabels():
            label.set(horizontalalignment="right", rotation_mode="anchor")


def _number_axis(axes: Axes, values: Sequence[float]) -> None:
    """Put a tick at every value; doublings evenly spaced."""
    distinct = sorted(set(values))
    ratios = [b / a for a, b in pairwise(distinct) if a > 0]
    if len(distinct) > 2 and min(distinct) > 0 and max(ratios) / min(ratios) < 1.5 and min(ratios) >= 1.5:
        axes.set_xscale("log", base=2)
    if len(distinct) <= _MAX_TICKS:
        axes.set_xticks(distinct, [f"{value:g}" for value in distinct])
    axes.minorticks_off()
    axes.margins(x=0.1)


@dataclass(frozen=True)
class _Label:
    """The value written at a point, clear of its error bar."""

    x: float
    y: float
    down: float
    up: float
    text: str
    colour: str


def _write_labels(axes: Axes, labels: Sequence[_Label]) -> None:
    """Write values at their points: where curves share an x the highest above, the lowest below, others beside.

    More than anyone can read are left to the table.
    """
    if len(labels) > _MAX_LABELS or len({label.x for label in labels}) > 2 * _MAX_TICKS:
        return
    top = max((label.y for label in labels), default=0.0)
    for label in labels:
        here = sorted(other.y for other in labels if other.x == label.x)
        if label.y == here[-1]:
            y, offset, across, up = label.y + label.up, (0, 4), "center", "bottom"
        elif label.y == here[0] and label.y > top / 12:  # lower, it would run into the axis
            y, offset, across, up = label.y - label.down, (0, -4), "center", "top"
        else:
            y, offset, across, up = label.y, (6, 0), "left", "center"
        axes.annotate(
            label.text,
            (label.x, y),
            xytext=offset,
            textcoords="offset points",
            ha=across,
            va=up,
            fontsize=8,
            color=label.colour,
        )
