"""Scores of the answers to questions, and two points side by side over the questions that both answered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpcbench.analyse.confounded import counterpart
from hpcbench.analyse.measure import Key
from hpcbench.analyse.summary import Comparison, Row
from hpcbench.metrics import COUNTED, rows
from hpcbench.workloads.mmlu.scores import wilson

if TYPE_CHECKING:
    import pandas as pd

    from hpcbench.metrics import Metrics

_ACCURACY = ("acc", "accuracy")  # as evaluations of other tools call it


@dataclass(frozen=True)
class Score:
    """How many answers of a row were right: to the questions of a subject, or to all where `subject` is ''.

    `counts` and `shares` hold the questions and the accuracy of each repeat; of how many questions a score is may be
    unknown (NaN). `unparsed` is how many answers could not be read, and `duration` the time of all of them in seconds,
    both means over repeats, NaN where nothing says.
    """

    subject: str
    counts: tuple[float, ...]
    shares: tuple[float, ...]
    unparsed: float = math.nan
    duration: float = math.nan

    @property
    def count(self) -> float:
        """The questions of one repeat: repeats ask the same ones, and are no more of them."""
        return float(np.mean(self.counts)) if self.counts else math.nan

    @property
    def accuracy(self) -> float:
        """The mean over repeats."""
        return float(np.mean(self.shares)) if self.shares else math.nan

    @property
    def corrects(self) -> tuple[float, ...]:
        """The right answers of each repeat."""
        return tuple(share * count for share, count in zip(self.shares, self.counts, strict=True))

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval; of repeats that differ it reaches from the least end to the greatest."""
        if not self.counts or not all(count > 0 for count in self.counts):
            return math.nan, math.nan
        ends = [wilson(round(right), round(count)) for right, count in zip(self.corrects, self.counts, strict=True)]
        return min(low for low, _ in ends), max(high for _, high in ends)


@dataclass(frozen=True)
class Scores:
    """The scores of one row: by subject, and of all questions alike. `cut` of its prompts were shortened to fit."""

    row: Row
    subjects: tuple[Score, ...]
    total: Score
    protocols: tuple[str, ...] = ()
    cut: float = 0.0

    @property
    def macro(self) -> float:
        """The mean over subjects, which weigh the same."""
        return float(np.mean([score.accuracy for score in self.subjects])) if self.subjects else math.nan


@dataclass(frozen=True)
class Flip:
    """A question that two points answered differently: their choices ('' where none could be read), the right one."""

    subject: str
    number: float
    before: str
    after: str
    answer: str


@dataclass(frozen=True)
class Pair:
    """Two rows over the questions that both answered: how many both had right, one alone, and neither.

    `reworded` counts the questions that were put in another form. Of a row that was repeated, the first repeat counts.
    """

    base: Row
    row: Row
    both: int
    only_base: int
    only_row: int
    neither: int
    reworded: int
    protocols: tuple[tuple[str, ...], tuple[str, ...]]
    flips: tuple[Flip, ...]

    @property
    def count(self) -> int:
        """The questions that both answered."""
        return self.both + self.only_base + self.only_row + self.neither

    @property
    def p(self) -> float:
        """McNemar's test, exact and two-sided: binomial over the questions that one alone had right.

        McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
        Psychometrika 12 (1947).
        """
        if not (discordant := self.only_base + self.only_row):
            return 1.0
        from scipy.stats import binomtest

        return float(binomtest(self.only_base, discordant).pvalue)


def answers_by_case(metrics: Metrics) -> dict[Key, pd.DataFrame]:
    """Return the answers of each case that has some; of a question that was answered twice, the last.

    Questions are named by `question` and `nth`, which tells apart those of a subject that are the same in every word.
    """
    found = {}
    for key, own in metrics.by_case(metrics.answers).items():
        named = (own["question"] != "") | own["number"].notna()  # of what has no name, nothing is the same
        once = own[~named | ~own.duplicated(["subject", "number", "question"], keep="last")]
        found[key] = once.assign(nth=once.groupby("question").cumcount(), right=once["correct"] == 1)
    return found


def scores(metrics: Metrics, comparison: Comparison) -> list[Scores]:
    """Return the scores of every row with answers; where there are none, those by subject that a tool computed."""
    by_case = _counted(metrics, answers_by_case(metrics))
    told = _counted(metrics, _evaluated(metrics))
    found = []
    for row in comparison.rows:
        if own := [by_case[case] for case in row.cases if case in by_case]:
            found.append(_of_answers(row, own))
        elif evaluated := [told[case] for case in row.cases if case in told]:
            found.append(_of_evals(row, evaluated))
    return found


def _counted(metrics: Metrics, found: Mapping[Key, pd.DataFrame]) -> dict[Key, pd.DataFrame]:
    cases = metrics.cases[metrics.cases["state"].isin(COUNTED)]
    counted = set(zip(cases["run"], cases["case"], strict=True))
    return {key: table for key, table in found.items() if key in counted}


def _of_answers(row: Row, repeats: Sequence[pd.DataFrame]) -> Scores:
    subjects = sorted({subject for repeat in repeats for subject in repeat["subject"].unique()})
    by_subject = [dict(list(repeat.groupby("subject"))) for repeat in repeats]
    return Scores(
        row,
        tuple(_score(name, [each[name] for each in by_subject if name in each]) for name in subjects),
        _score("", repeats),
        _protocols(repeats),
        float(np.mean([(repeat["cut"] > 0).sum() for repeat in repeats])),
    )


def _score(subject: str, repeats: Sequence[pd.DataFrame]) -> Score:
    durations = [float(repeat["duration"].sum(min_count=1)) for repeat in repeats]
    return Score(
        subject,
        tuple(float(len(repeat)) for repeat in repeats),
        tuple(float(repeat["right"].mean()) for repeat in repeats),
        float(np.mean([(repeat["choice"] == "").sum() for repeat in repeats])),
        float(np.mean(durations)),
    )


def _protocols(repeats: Sequence[pd.DataFrame]) -> tuple[str, ...]:
    return tuple(sorted({name for repeat in repeats for name in repeat["protocol"].unique() if name}))


def _evaluated(metrics: Metrics) -> dict[Key, pd.DataFrame]:
    """Return the accuracies by subject that the logs of each case tell of, the last of each."""
    evals = metrics.evals
    evals = evals[evals["metric"].isin(_ACCURACY) & (evals["subject"] != "") & evals["value"].between(0, 1)]
    return {key: own.drop_duplicates(["task", "subject"], keep="last") for key, own in metrics.by_case(evals).items()}


def _of_evals(row: Row, repeats: Sequence[pd.DataFrame]) -> Scores:
    several = len({task for repeat in repeats for task in repeat["task"].unique()}) > 1
    found: dict[str, list[tuple[float, float]]] = {}
    for repeat in repeats:
        for each in rows(repeat):
            name = f"{each.task}: {each.subject}" if several else each.subject
            found.setdefault(name, []).append((float(each.count), float(each.value)))
    # of questions that nobody counted there is no mean
    weights = [repeat["count"].to_numpy(dtype=float) for repeat in repeats]
    sums = [float(weight.sum()) for weight in weights]
    shares = [
        float((repeat["value"].to_numpy(dtype=float) * weight).sum() / total) if total > 0 else math.nan
        for repeat, weight, total in zip(repeats, weights, sums, strict=True)
    ]
    subjects = [
        Score(name, tuple(count for count, _ in each), tuple(share for _, share in each))
        for name, each in sorted(found.items())
    ]
    return Scores(row, tuple(subjects), Score("", tuple(sums), tuple(shares)))


def pairs(metrics: Metrics, comparison: Comparison) -> list[Pair]:
    """Hold every row with answers against the baseline row that is most like it, else against the first row."""
    by_case = _counted(metrics, answers_by_case(metrics))
    first = {id(row): by_case[case] for row in comparison.rows for case in reversed(row.cases) if case in by_case}
    answered = [row for row in comparison.rows if id(row) in first]
    found = []
    for row in answered:
        base = counterpart(comparison, row) if comparison.baseline else answered[0]
        if base is not None and base is not row and id(base) in first:
            pair = _pair(base, row, first[id(base)], first[id(row)])
            found += [pair] if pair.count else []
    return found


def _pair(base: Row, row: Row, before: pd.DataFrame, after: pd.DataFrame) -> Pair:
    named = [each[each["question"] != ""] for each in (before, after)]
    both = named[0].merge(named[1], on=["question", "nth"], suffixes=("", "_after"))
    right, also = both["right"].to_numpy(dtype=bool), both["right_after"].to_numpy(dtype=bool)
    changed = both[both["choice"] != both["choice_after"]].sort_values(["subject", "number"], kind="stable")
    return Pair(
        base,
        row,
        int((right & also).sum()),
        int((right & ~also).sum()),
        int((~right & also).sum()),
        int((~right & ~also).sum()),
        int((both["prompt"] != both["prompt_after"]).sum()),
        (_protocols([before]), _protocols([after])),
        tuple(
            Flip(each.subject, float(each.number), each.choice, each.choice_after, each.answer)
            for each in rows(changed)
        ),
    )
