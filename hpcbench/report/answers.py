"""What a report shows of answers to questions: scores, two points answer by answer, the questions that flipped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hpcbench.analyse.answers import Flip, Pair, Score, Scores
from hpcbench.metrics import scale, shown, significant
from hpcbench.report.view import axis_value, point_name, with_unit

if TYPE_CHECKING:
    from hpcbench.report.view import Section

MAX_FLIPS = 20  # in the text; all are in tables/flips.csv
MAX_SCORES = 120  # lines of subjects in the text; all are in tables/scores.csv


def score_table(section: Section) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows of the scores over all questions, at each point."""
    lines = []
    for each in section.scores:
        total = each.total
        cells = [*_accuracy(total), _percent(each.macro), _number(total.unparsed), " and ".join(each.protocols) or "–"]
        lines.append([*_point(section, each), str(len(total.counts)), *cells])
    titles = ["runs", *_ACCURACY, "mean of subjects (%)", "no answer", "protocol"]
    return [*_axes(section), *titles], lines


def subject_table(section: Section) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows of the scores by subject, with the time that its answers took."""
    subjects = [(each, score) for each in section.scores for score in each.subjects]
    factor, unit = scale([_mean_time(score) for _, score in subjects], "s")
    lines = []
    for each, score in subjects:
        times = [significant(score.duration), significant(_mean_time(score) / factor)]
        lines.append([*_point(section, each), shown(score.subject), *_accuracy(score), *times])
    titles = ["subject", *_ACCURACY, "time of its answers (s)", f"of one ({unit})"]
    return [*_axes(section), *titles], lines


def pair_table(section: Section) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows of pairs of points, over the questions that both answered."""
    titles = [
        "first", "second", "questions of both", "both right", "only the first", "only the second", "neither",
        "another choice", "p",
    ]  # fmt: skip
    lines = []
    for pair in section.pairs:
        counts = (pair.count, pair.both, pair.only_base, pair.only_row, pair.neither, len(pair.flips))
        lines.append([*_names(pair), *(f"{count:,}" for count in counts), f"{pair.p:.2g}"])
    return titles, lines


def flip_table(section: Section) -> tuple[list[str], list[list[str]]]:
    """Column titles and rows of the first questions that two points answered differently."""
    lines = []
    for pair, flip in list(_flips([section]))[:MAX_FLIPS]:
        choices = [shown(choice, 20) or "none" for choice in (flip.before, flip.after, flip.answer)]
        lines.append([*_names(pair), shown(flip.subject), _number(flip.number), *choices])
    return ["first", "second", "subject", "number", "the first's choice", "the second's choice", "right"], lines


def score_rows(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Return the lines of tables/scores.csv: each point by subject, then over all its questions ('')."""
    lines = []
    for section in sections:
        for each in section.scores:
            point = {"benchmark": section.comparison.benchmark, **each.row.point}
            lines += [{**point, **_score(score)} for score in (*each.subjects, each.total)]
    return lines


def flip_rows(sections: Sequence[Section]) -> list[dict[str, Any]]:
    """Return the lines of tables/flips.csv: the questions that two points answered differently."""
    names = ("first", "second")
    return [{**dict(zip(names, _names(pair), strict=True)), **_flip(flip)} for pair, flip in _flips(sections)]


def scores_json(section: Section) -> dict[str, Any]:
    """Describe scores and pairs as plain data."""
    return {
        "scores": [
            {
                "point": dict(each.row.point),
                **_score(each.total),
                "macro": each.macro,
                "protocols": list(each.protocols),
                "cut": each.cut,
                "subjects": [_score(score) for score in each.subjects],
            }
            for each in section.scores
        ],
        "pairs": [
            {
                "points": [dict(pair.base.point), dict(pair.row.point)],
                "questions": pair.count,
                "both_right": pair.both,
                "only_first": pair.only_base,
                "only_second": pair.only_row,
                "neither": pair.neither,
                "p": pair.p,
                "reworded": pair.reworded,
                "flips": [_flip(flip) for flip in pair.flips],
            }
            for pair in section.pairs
        ],
    }


_ACCURACY = ("questions", "right", "accuracy (%)", "95 % interval (%)")


def _accuracy(score: Score) -> list[str]:
    low, high = score.interval
    bounds = "–" if math.isnan(low) else f"{low:.2%} to {high:.2%}".replace("%", "")
    rights = [right for right in score.corrects if not math.isnan(right)]
    right = _number(sum(rights) / len(rights)) if rights else "–"
    if rights and round(min(rights)) != round(max(rights)):
        right += f" ({min(rights):,.0f} to {max(rights):,.0f})"
    return [_number(score.count), right, _percent(score.accuracy), bounds]


def _score(score: Score) -> dict[str, Any]:
    low, high = score.interval
    return {
        "subject": score.subject,
        "questions": _whole(score.count),
        "correct": list(map(round, score.corrects)) if not math.isnan(sum(score.corrects)) else None,
        "accuracy": score.accuracy,
        "low": low,
        "high": high,
        "unparsed": score.unparsed,
        "duration": score.duration,
    }


def _flip(flip: Flip) -> dict[str, Any]:
    return {**vars(flip), "number": _whole(flip.number)}


def _whole(value: float) -> float:
    return int(value) if value.is_integer() else value


def _flips(sections: Sequence[Section]) -> Iterator[tuple[Pair, Flip]]:
    return ((pair, flip) for section in sections for pair in section.pairs for flip in pair.flips)


def _names(pair: Pair) -> tuple[str, str]:
    return point_name(pair.base.point), point_name(pair.row.point)


def _axes(section: Section) -> list[str]:
    units = section.comparison.units
    return [with_unit(axis, units.get(axis, "")) for axis in section.comparison.axes]


def _point(section: Section, each: Scores) -> list[str]:
    return [axis_value(each.row.point[axis]) for axis in section.comparison.axes]


def _mean_time(score: Score) -> float:
    return score.duration / score.count if score.count > 0 else math.nan


def _percent(share: float) -> str:
    return "–" if math.isnan(share) else f"{share:.2%}".removesuffix("%")


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:,.0f}" if value.is_integer() else f"{value:,.1f}"
