"""Which training steps are steady: after warm-up, of one rank, not disturbed by a checkpoint or a validation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

Mask = NDArray[np.bool_]

_FEWEST = 8  # steps; of fewer nothing can be said about where they become steady
_LEAST = 0.01  # of a logarithm: 1 %, below which nobody would speak of warm-up
SPEEDS = ("step_time", "tokens_per_second", "samples_per_second")  # the first that a log has tells how fast it was
# what makes the first rate that is logged after it wrong: the clock ran on while no step was taken
_PAUSES = ("checkpoint", "checkpoint_end", "validation", "validation_end")


def first_steady(values: NDArray[np.float64]) -> int:
    """Return the position from which a series of step times (or rates, above 0) is steady; 0 where it always is.

    The marginal standard error rule (White, "An effective truncation heuristic for bias reduction in simulation
    output", Simulation 69, 1997): leave out as many values as make the standard error of the mean of the others least,
    at most half. Values are compared on a logarithmic scale; single outliers are drawn in first, so that one slow step
    in the middle does not look like the end of warm-up.
    """
    known = values[np.isfinite(values) & (values > 0)]
    if len(known) < _FEWEST:
        return 0
    logs = np.log(known)
    late = logs[len(logs) // 2 :]
    middle = np.median(late)
    reach = 5 * max(float(np.median(np.abs(late - middle))) * 1.4826, 1e-3)  # of a normal spread: 5 sigma
    clipped = np.clip(logs, middle - reach, middle + reach)
    # sums over the end of the series, from each position on
    count = np.arange(len(clipped), 0, -1)
    total, squares = clipped[::-1].cumsum()[::-1], (clipped**2)[::-1].cumsum()[::-1]
    error = (squares - total**2 / count) / count**2
    best = int(np.argmin(error[: len(clipped) // 2 + 1]))
    # the part left out must differ, not only be left out by chance
    if best and abs(clipped[:best].mean() - clipped[best:].mean()) < max(2 * clipped[best:].std(), _LEAST):
        return 0
    return int(np.flatnonzero(np.isfinite(values) & (values > 0))[best])


def mark(steps: pd.DataFrame, events: pd.DataFrame) -> Mask:
    """Tell of each row of the steps of all logs whether it is steady.

    Where several ranks log a step, the first rank speaks for all; where a log holds several attempts, the last, since
    they may be runs of different things. Warm-up is what the log or its format says, else what `first_steady` finds:
    the column ``warmup`` is 1, 0 or, where nothing is said, NaN. Rows of one log stand together, in the order of their
    lines.
    """
    if steps.empty:
        return np.zeros(0, dtype=bool)
    warmup = steps["warmup"].to_numpy(dtype=float)
    good: Mask = warmup != 1
    source = steps["source"].to_numpy()
    begins = np.flatnonzero(np.concatenate([[True], source[1:] != source[:-1]]))
    lengths = np.diff(np.append(begins, len(steps)))
    line, rank, attempt = (steps[name].to_numpy(dtype=float) for name in ("line", "rank", "attempt"))
    # of each log: its first rank (infinite where no line has one), and its last attempt
    first = np.minimum.reduceat(np.nan_to_num(rank, nan=np.inf), begins)
    good &= np.repeat(np.isinf(first), lengths) | (rank == np.repeat(first, lengths))
    attempt = np.nan_to_num(attempt, nan=1)
    stopped = events[events["kind"].isin(_PAUSES)]
    positions = dict(zip(source[begins].tolist(), begins.tolist(), strict=True))
    for path, of_source in stopped.groupby("source"):
        if (start := positions.get(str(path))) is not None:
            stop = start + int(lengths[np.searchsorted(begins, start)])
            after = start + np.searchsorted(line[start:stop], of_source["line"].to_numpy())
            good[after[(start < after) & (after < stop)]] = False
    good &= attempt == np.repeat(np.maximum.reduceat(attempt, begins), lengths)
    said = np.logical_or.reduceat(np.isfinite(warmup), begins)
    speeds = [steps[name].to_numpy(dtype=float) for name in SPEEDS]
    for index in np.flatnonzero(~said & (lengths >= _FEWEST)).tolist():
        here = slice(int(begins[index]), int(begins[index] + lengths[index]))
        speed = next((each[here] for each in speeds if np.isfinite(each[here]).any()), None)
        if speed is not None:
            left = np.flatnonzero(good[here])
            good[here.start + left[: first_steady(speed[left])]] = False
    return good
