"""Did every case compute the same? Losses, samples and answers over the axes that must not change them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcbench.analyse.answers import answers_by_case
from hpcbench.analyse.summary import Comparison, Row
from hpcbench.metrics import rows as rows_of

if TYPE_CHECKING:
    import pandas as pd

    from hpcbench.metrics import Metrics

_SCORES = ["score_a", "score_b", "score_c", "score_d"]
TOLERANCE = 1e-5  # relative: rounding differs with the order of summation, a different computation differs by far more


@dataclass(frozen=True)
class Agreement:
    """How far cases give the same answers, over the `questions` that several of them answered.

    `different` of these have more than one choice; `scores` is the largest difference of a log-likelihood in nats, NaN
    where there are none.
    """

    questions: int
    different: int
    scores: float


@dataclass(frozen=True)
class Sameness:
    """Cases that should have computed the same: equal in everything but `across`.

    `losses` maps a step to the validation loss of each row, NaN where a row has none. `difference` is the largest
    relative difference at any step, NaN where no step has two numbers to compare. `samples` counts the different
    generated texts, 0 when none was logged. Of cases that answered questions there are `answers` instead of losses.
    """

    point: Mapping[str, Any]
    across: tuple[str, ...]
    rows: tuple[Row, ...]
    losses: Mapping[int, tuple[float, ...]]
    cases: int
    difference: float
    samples: int
    answers: Agreement | None = None

    @property
    def same(self) -> bool:
        """Whether all losses agree to rounding and there is at most one sample, or all answers are the same."""
        if self.answers is not None:
            return self.answers.questions > 0 and not self.answers.different
        return self.difference <= TOLERANCE and self.samples <= 1


def sameness(metrics: Metrics, comparison: Comparison, across: Sequence[str]) -> list[Sameness]:
    """Compare validation losses step by step, or answers, among the rows that differ only in `across`."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    rest = [axis for axis in comparison.axes if axis not in across]
    for row in comparison.rows:
        groups.setdefault(tuple(row.point[axis] for axis in rest), []).append(row)
    case_of = metrics.owners()
    evals = metrics.evals
    losses: dict[tuple[str, str], dict[int, float]] = {}
    for each in rows_of(evals[(evals["task"] == "validation") & (evals["metric"] == "loss")]):
        if each.source in case_of and math.isfinite(each.step):
            losses.setdefault(case_of[each.source], {})[int(each.step)] = float(each.value)
    samples: dict[tuple[str, str], str] = {}
    for each in rows_of(metrics.events[metrics.events["kind"] == "sample"]):
        if each.source in case_of:
            samples[case_of[each.source]] = each.message
    answers = answers_by_case(metrics)
    results = []
    for values, rows in groups.items():
        members = [case for row in rows for case in row.cases if case in losses]
        answered = [case for row in rows for case in row.cases if case in answers]
        if not members and len(answered) < 2:
            continue
        steps = sorted({step for case in members for step in losses[case]})
        table = {step: tuple(_shown(row, losses, step) for row in rows) for step in steps}
        spread = [_difference([losses[case][step] for case in members if step in losses[case]]) for step in steps]
        texts = {samples[case] for case in members if case in samples}
        results.append(
            Sameness(
                dict(zip(rest, values, strict=True)),
                tuple(axis for axis in comparison.axes if axis in across),
                tuple(rows),
                table,
                len(members or answered),
                max((each for each in spread if not math.isnan(each)), default=math.nan),
                len(texts),
                None if members else _agreement([answers[case] for case in answered]),
            )
        )
    return results


def _agreement(cases: Sequence[pd.DataFrame]) -> Agreement:
    import pandas as pd

    together = pd.concat(cases)
    by_question = together[together["question"] != ""].groupby(["question", "nth"])
    several = by_question.size() > 1
    spread = by_question[_SCORES].max() - by_question[_SCORES].min()
    differences = spread[several].to_numpy(dtype=float)
    known = differences[~np.isnan(differences)]
    return Agreement(
        int(several.sum()),
        int((by_question["choice"].nunique()[several] > 1).sum()),
        float(known.max()) if len(known) else math.nan,
    )


def _shown(row: Row, losses: Mapping[tuple[str, str], Mapping[int, float]], step: int) -> float:
    found = [losses[case][step] for case in row.cases if case in losses and step in losses[case]]
    return found[0] if found else math.nan


def _difference(values: Sequence[float]) -> float:
    """Return the largest relative difference; a NaN among numbers is infinitely far, nothing but NaN says nothing."""
    finite = [value for value in values if math.isfinite(value)]
    if len(values) < 2 or not finite:
        return math.nan
    if len(finite) < len(values):
        return math.inf
    return (max(values) - min(values)) / max(*(abs(value) for value in values), 1e-300)
