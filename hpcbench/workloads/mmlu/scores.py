"""What answers add up to: accuracy by subject and overall."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_Z = 1.959963984540054  # the 97.5th percentile of the normal distribution


def wilson(correct: float, count: float) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    if not count:
        return 0.0, 1.0
    share = correct / count
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def scores(answers: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table ``evals``: each subject, then all questions alike and all subjects alike.

    `answers` hold ``subject`` and ``correct``, 1 or 0; one that could not be read counts as wrong. The mean over
    questions (micro) has Wilson's interval, that over subjects (macro) has none.
    """
    subjects: dict[str, list[int]] = {}
    for answer in answers:
        subjects.setdefault(str(answer["subject"]), []).append(int(answer["correct"]))
    for subject, marks in sorted(subjects.items()):
        yield _row("acc", sum(marks), len(marks), subject=subject)
    if subjects:
        everything = [mark for marks in subjects.values() for mark in marks]
        yield _row("acc", sum(everything), len(everything), subject="")
        macro = sum(sum(marks) / len(marks) for marks in subjects.values()) / len(subjects)
        yield {"task": "mmlu", "subject": "", "metric": "acc_macro", "value": macro, "count": len(subjects)}


def _row(metric: str, correct: int, count: int, *, subject: str) -> dict[str, Any]:
    low, high = wilson(correct, count)
    return {
        "task": "mmlu", "subject": subject, "metric": metric, "value": correct / count, "count": count,
        "correct": correct, "low": low, "high": high,
    }  # fmt: skip
