"""TensorBoard: the scalars of its event files, ``events.out.tfevents.*``, read by the package's own reader."""

from __future__ import annotations

import contextlib
import importlib
import re
import struct
import tempfile
from collections.abc import Iterator
from typing import Any

from hpcbench.formats import Format, Reading, Record

# Tags of common programs, without case and "train" → column, and the factor to SI.
_COLUMNS: dict[str, tuple[str, float]] = {
    "loss": ("loss", 1), "lm loss": ("loss", 1), "batch_loss": ("loss", 1), "global_avg_loss": ("loss", 1),
    "loss_metrics/global_avg_loss": ("loss", 1), "learning_rate": ("lr", 1), "learning-rate": ("lr", 1),
    "lr": ("lr", 1),    "grad_norm": ("grad_norm", 1), "grad-norm": ("grad_norm", 1), "epoch": ("epoch", 1),
    "throughput(tps)": ("tokens_per_second_per_device", 1), "tflops": ("flops_per_second_per_device", 1e12),
    "mfu(%)": ("mfu", 0.01), "time_metrics/end_to_end(s)": ("step_time", 1), "iteration-time": ("step_time", 1),
    "step_time_seconds": ("step_time", 1), "perf/step_time_seconds": ("step_time", 1),
}  # fmt: skip
_TRAIN = re.compile(r"^(?:train|training)[/_. ]|[/_. ]train(?:ing)?$")
_LEARNING_RATE = re.compile(r"(?:lr|learning_rate)(?:-[\w-]+)?(?:/pg\d+)?")
_SCORE = re.compile(
    r"(?:^|[/_. -])(val|valid|validation|test|eval|evaluation)(?:_metrics)?(?=$|[/_. -])", re.IGNORECASE
)
_TASKS = {"test": "test", "eval": "evaluation", "evaluation": "evaluation"}
# Megatron writes each scalar a second time, over samples instead of steps; Keras writes those of an epoch and an
# evaluation under names that do not say of which data they are.
_OTHER_AXIS = re.compile(r" vs (?:samples|tokens|steps|gigaflops|examples)$|_vs_iterations$|^epoch_", re.IGNORECASE)
_OTHERS = frozenset({"", "step", "rank", "time", "attempt", "warmup", "line", "source"})
_MAX_COLUMNS = 150


def _read(data: bytes, _: str) -> Reading:
    """Read an event file; one that ends within a record, as that of a killed run, is read as far as it goes."""
    places = list(_records(data))
    if not places:
        return [], 0
    try:
        loader: Any = importlib.import_module("tensorboard.backend.event_processing.event_file_loader")
        as_array: Any = importlib.import_module("tensorboard.util.tensor_util").make_ndarray
    except ImportError:
        message = (
            "TensorBoard's event files are read by its own package, which is not installed: pip install tensorboard"
        )
        return [Record("events", 1, {"kind": "unreadable", "message": message})], 0
    records: list[Record] = []
    steps: dict[float, dict[str, Any]] = {}
    columns: set[str] = set()
    read = 0
    with tempfile.NamedTemporaryFile(suffix=".tfevents") as file:  # the reader opens files only
        file.write(data)
        file.flush()
        for event in _events(loader.EventFileLoader(file.name)):
            line = places[min(read, len(places) - 1)][0]
            read += 1
            time = {"time": event.wall_time} if event.wall_time else {}
            for value in event.summary.value:
                number = _scalar(value, as_array)
                if number is None or _OTHER_AXIS.search(value.tag):
                    continue
                if match := _SCORE.search(value.tag):
                    score = {"task": _TASKS.get(match[1].lower(), "validation"), "metric": _metric(value.tag, match)}
                    records.append(Record("evals", line, {"step": event.step, **time, **score, "value": number}))
                    continue
                column, factor = _column(value.tag)
                if column not in columns and len(columns) >= _MAX_COLUMNS:
                    continue
                columns.add(column)
                row = steps.get(event.step)
                if row is None or column in row:  # a run that started again writes its steps a second time
                    row = steps[event.step] = {"step": event.step, **time}
                    records.append(Record("steps", line, row))
                row[column] = number * factor
    last = places[-1][1] if places else 0
    damaged = read < len(places) or data[last:].strip(b"\n") != b""
    return records, int(damaged)


def _records(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the line that each whole record begins in, and where it ends; nothing if `data` is no event file.

    A record is its length in eight bytes and their checksum in four, that many bytes, and four of their checksum.
    """
    at, line = 0, 1
    while at + 16 <= len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        end = at + 16 + length
        if end > len(data) or (at == 0 and b"brain.Event:" not in data[12 : end - 4]):
            return
        yield line, end
        line += data.count(b"\n", at, end)
        at = end


def _events(loader: Any) -> Iterator[Any]:
    """Yield the events up to the first that cannot be read."""
    damaged: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError
    with contextlib.suppress(damaged):
        yield from loader.Load()


def _scalar(value: Any, as_array: Any) -> float | None:
    """Return the number of a scalar; None for images, histograms and texts."""
    if value.metadata.plugin_data.plugin_name != "scalars" or not value.HasField("tensor"):
        return None
    array = as_array(value.tensor)
    # of 32 bits the shortest decimal that names them: 2.9, not 2.9000000953674316
    return float(str(array.reshape(())[()])) if array.size == 1 and array.dtype.kind in "fiu" else None


def _metric(tag: str, match: re.Match[str]) -> str:
    rest = f"{tag[: match.start()]}/{tag[match.end() :]}".strip("/_. -")
    return re.sub(r"[^\w@.]+", "_", rest).strip("_") or "value"


def _column(tag: str) -> tuple[str, float]:
    plain = _TRAIN.sub("", tag.strip().lower())
    if plain in _COLUMNS:
        return _COLUMNS[plain]
    if _LEARNING_RATE.fullmatch(plain):
        return "lr", 1
    name = re.sub(r"\W+", "_", plain).strip("_")[:80]
    return (name if name not in _OTHERS else f"logged_{name}"), 1


FORMATS = (
    Format(
        name="tensorboard",
        kind="training",
        title="TensorBoard event files",
        # a whole file of two records, whose checksums happen to be letters
        example="\x14\0\0\0\0\0\0\0^=)\x15\x1a\rbrain.Event:2B\x03\n\x01W+}5O"
        "\x14\0\0\0\0\0\0\0^=)\x15\x10\x02*\x10\n\x0e\n\x07lm loss\x15\0\x005@_\x04\x11\x0b",
        sniff=("brain.Event:",),
        document=_read,
        untried="written from TensorBoard 2.21; files that it wrote itself are read in the tests",
    ),
)
