"""Graphcore IPU (PopTorch): compiling, the progress bars of the training tutorials, and their test accuracy."""

from __future__ import annotations

import numpy as np

from hpcbench.formats import Format, Line
from hpcbench.rows import Tables

_BAR = r"[ \t]{0,4}\d{1,3}%\|[^|]{0,400}\|[ \t]{0,12}"


def _complete(tables: Tables) -> None:
    epochs = tables.get("epochs")
    if epochs is not None:  # the bar is also written before the first and again after the last
        number = epochs.numbers("epoch")
        tables["epochs"] = epochs.where((number > 0) & (np.diff(number, prepend=0) != 0))
    _number_steps(tables)


def _number_steps(tables: Tables) -> None:
    """Give the steps numbers: the bar is written once a batch with its loss, and again when the count goes on.

    The count is behind on the first of these, and one writing of it may tell of several batches. So it only numbers
    the batches before it where there are as many as it says.
    """
    steps = tables.get("steps")
    if steps is None:
        return
    done, total = steps.numbers("done").tolist(), steps.numbers("of").tolist()
    shown = list(zip(steps["loss"].tolist(), steps["accuracy"].tolist(), strict=True))
    number, epochs = np.full(len(steps), np.nan), np.ones(len(steps))
    keep = np.ones(len(steps), dtype=bool)
    epoch, counted, waiting = 1, 0.0, list[int]()

    def give_numbers(count: float, size: float) -> None:
        if waiting and len(waiting) == count - counted:
            number[waiting] = (epoch - 1) * size + counted + 1 + np.arange(len(waiting))

    for index, (count, size) in enumerate(zip(done, total, strict=True)):
        before = done[index - 1] if index else 0.0
        if count < before:  # the bar of the next epoch; that of the last may have gone before it was full
            give_numbers(size, size)
            epoch, counted, waiting = epoch + 1, 0.0, []
        epochs[index] = epoch
        if index and count > before and shown[index] == shown[index - 1]:
            keep[index] = False
            give_numbers(count, size)
            counted, waiting = count, []
        else:
            waiting.append(index)
    if total:
        give_numbers(total[-1], total[-1])
    steps["step"], steps["epoch"] = number, epochs
    del steps.columns["done"], steps.columns["of"]
    tables["steps"] = steps.where(keep)


FORMATS = (
    Format(
        name="graphcore",
        kind="training",
        title="Graphcore IPU: PopTorch training tutorials",
        example="Graph compilation: 100%|##########| 100/100 [00:21<00:00]",
        parts=(
            Line(
                "counters",
                r"\bGraph compilation: 100%\|[^|]{1,400}\| 100/100 \[<value:clock><00:00\]",
                constants={"name": "compile_time", "unit": "s"},
                loose=True,  # the bar on its way
            ),
            Line(
                "steps",
                rf"^Loss: <loss:.4> \| Accuracy: <accuracy %>% :{_BAR}<done:int>/<of:int> \[",
                weak=True,
                anchor="% :",
            ),
            Line(
                "epochs",
                rf"\bEpochs:{_BAR}<epoch:int>/\d{{1,9}} \[<elapsed:clock><[^\]]{{1,40}}\]",
                weak=True,
                loose=True,
            ),
            Line(
                "evals",
                r"^Accuracy on test set: <value %>%",
                constants={"task": "test", "metric": "accuracy"},
                weak=True,
            ),
        ),
        warmup=1,
        finish=_complete,
    ),
)
