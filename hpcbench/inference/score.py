"""How good an answer is: SQuAD's exact match and F1, and whether the answer occurs in what was said."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_MARKS = str.maketrans("", "", string.punctuation)


def exact_match(text: str, answers: Sequence[str]) -> float:
    """Return 1.0 if `text` is one of the `answers` once both are normalised, else 0.0.

    Rajpurkar et al. 2016 (arXiv:1606.05250, section 6), as evaluate-v1.1.py computes it; but an empty text is wrong
    even where an answer is nothing but an article.
    """
    said = _normalised(text)
    return float(bool(text.strip()) and any(said == _normalised(answer) for answer in answers))


def f1(text: str, answers: Sequence[str]) -> float:
    """Return the harmonic mean of precision and recall of the words of `text`, against the answer nearest to it.

    Rajpurkar et al. 2016 (arXiv:1606.05250, section 6), as evaluate-v1.1.py computes it: words are counted as often
    as both have them.
    """
    said = _normalised(text).split()
    return max((_f1(said, _normalised(answer).split()) for answer in answers), default=0.0)


def contains(text: str, answers: Sequence[str]) -> float:
    """Return 1.0 if one of the `answers` occurs in `text` as whole words, both normalised, else 0.0.

    For models that answer in sentences, which exact match counts as wrong. It forgives a text that names everything.
    """
    said = f" {_normalised(text)} "
    return float(any(f" {answer} " in said for answer in map(_normalised, answers) if answer))


def _f1(said: list[str], answer: list[str]) -> float:
    common = (Counter(said) & Counter(answer)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(said), common / len(answer)
    return 2 * precision * recall / (precision + recall)


def _normalised(text: str) -> str:
    """Lower the case, drop ASCII punctuation, then articles, then superfluous white space: in this order."""
    bare = text.lower().translate(_MARKS)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())
