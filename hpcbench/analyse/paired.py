"""Ratios of endpoints from the requests themselves: the same questions put to both, so that each is its own control."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hpcbench.analyse.measure import Key

if TYPE_CHECKING:
    import pandas as pd

    from hpcbench.metrics import Metrics

_DRAWS = 4000
_CONFIDENCE = 95.0
LEAST = 5  # pairs: below that a percentile of resampled means says nothing


def questions(metrics: Metrics, cases: Collection[Key], metric: str) -> pd.Series[float] | None:
    """Return question → mean of a time such as ``latency_mean`` over the requests of some cases that asked it.

    None where the metric is no mean of requests, or requests do not say what they asked.
    """
    column = metric.removesuffix("_mean")
    requests = metrics.requests
    if column == metric or not {column, "question"} <= set(requests.columns):
        return None
    owners = metrics.owners()
    own = {source for source in requests["source"].unique() if owners.get(str(source)) in cases}
    counted = requests[
        requests["source"].isin(own)
        & (requests["error"] == "")
        & (requests["phase"] != "warm-up")
        & requests[column].notna()
        & (requests["question"].fillna("") != "")
    ]
    return None if counted.empty else counted.groupby("question")[column].mean()


def paired(side: pd.Series[float], base: pd.Series[float]) -> tuple[float, float, float, int] | None:
    """Return base / side over the questions that both were asked, its 95 % interval, and how many these are.

    The interval is the percentile bootstrap of the ratio of means, pairs drawn together (Efron and Tibshirani 1993,
    chapter 13), always from the same random numbers; below five pairs it is NaN. None where there is no pair.
    """
    both = side.to_frame("side").join(base.to_frame("base"), how="inner")
    values: NDArray[np.float64] = both[["side", "base"]].to_numpy(dtype=float)
    means = values.mean(axis=0) if len(values) else np.zeros(2)
    if not (means > 0).all():
        return None
    ratio = float(means[1] / means[0])
    if len(values) < LEAST:
        return ratio, math.nan, math.nan, len(values)
    draw = np.random.default_rng(0)
    ratios = np.empty(_DRAWS)
    for start in range(0, _DRAWS, 100):  # not all at once: 4000 times a hundred thousand pairs would not fit
        chosen = values[draw.integers(0, len(values), (100, len(values)))].mean(axis=1)
        ratios[start : start + 100] = chosen[:, 1] / chosen[:, 0]
    low, high = np.percentile(ratios, ((100 - _CONFIDENCE) / 2, (100 + _CONFIDENCE) / 2))
    return ratio, float(low), float(high), len(values)
