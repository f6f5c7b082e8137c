"""`nvidia-smi --query-gpu=... --format=csv`: samples of GPUs, with and without header and units."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcbench.formats import Block, Each, Format, Reading, Record, in_si, stamp
from hpcbench.rows import Rows, Tables, joined

_COLUMNS = {  # where the name of a query is not that of the column with underscores for its dots
    "timestamp": "time",
    "utilization.gpu": "utilization",
    "utilization.memory": "memory_utilization",
    "power.draw": "power",
    "temperature.gpu": "temperature",
    "temperature.memory": "memory_temperature",
}
_DEVICE = {"gpu_name": "name", "gpu_uuid": "uuid", "gpu_bus_id": "pci.bus_id", "gpu_serial": "serial"}
_UNITS = {"%": "%", "MiB": "MiB", "W": "", "MHz": "M", "ms": "ms", "C": ""}
_HEADER = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*(?: \[[A-Za-z%]{1,4}\])?")
_UNKNOWN = re.compile(r"\[.*\]|N/A|-")  # [N/A], [Not Supported], [Unknown Error], [GPU requires reset]
_STAMP = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{3}")
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)(?: ([A-Za-z%]{1,4}))?")


def _cells(line: bytes) -> list[str]:
    return [cell.strip() for cell in line.decode(errors="replace").split(",")]


def _header(line: bytes) -> list[tuple[str, str]] | None:
    """Return the query and the unit of each column, or None for a line that is no header."""
    cells = _cells(line[:4000])
    if not all(_HEADER.fullmatch(cell) for cell in cells):
        return None
    found = [cell.partition(" [") for cell in cells]
    return [(_DEVICE.get(name, name), unit.rstrip("]")) for name, _, unit in found]


def _reader(anchor: str) -> Callable[[bytes], Reading]:
    """Make the reader of what follows a header; of the words that headers are found by it must hold this one first."""

    def read(data: bytes) -> Reading:
        head, _, rest = data.partition(b"\n")
        columns = _header(head)
        if columns is None or anchor != next(each for each in _ANCHORS if each.encode() in head):
            return [], 0
        records, unread, with_units = [], 0, None
        *lines, last = rest.split(b"\n")
        for number, line in enumerate([*lines, last], 2):
            cells = _cells(line) if line.count(b",") == len(columns) - 1 else []
            if not cells or not line.strip():
                unread += bool(_STAMP.match(line[:23].decode(errors="replace")))
                continue
            units = any(unit and cell.endswith(f" {unit}") for (_, unit), cell in zip(columns, cells, strict=True))
            with_units = units if with_units is None else with_units
            cut = number == len(lines) + 2  # no line break ends it: only a unit shows that it is whole
            if cut and columns[-1][1] and not cells[-1].endswith(f" {columns[-1][1]}"):
                unread += 1
                continue
            try:
                row = _row(columns, cells, with_units=with_units)
            except ValueError:  # another program's line, or one that was damaged
                unread += bool(_STAMP.match(cells[0]))
                continue
            if cut and not columns[-1][1] and _NUMBER.fullmatch(cells[-1]):
                unread += 1
                continue
            records.append(Record("samples", number, row))
        return records, unread

    return read


def _row(columns: list[tuple[str, str]], cells: list[str], *, with_units: bool) -> dict[str, Any]:
    """Read a line in SI units; raises `ValueError` where a cell is not of its column."""
    row: dict[str, Any] = {}
    of_device: dict[str, str] = {}
    for (name, unit), cell in zip(columns, cells, strict=True):
        if _UNKNOWN.fullmatch(cell):
            continue
        if name in ("name", "index", "uuid", "pci.bus_id", "serial"):
            if (name == "index" and not cell.isdigit()) or (name == "uuid" and not cell.startswith(("GPU-", "MIG-"))):
                raise ValueError(cell)
            of_device[name] = cell
            continue
        column = _COLUMNS.get(name, name.replace(".", "_"))
        if name == "timestamp":
            if not _STAMP.fullmatch(cell):
                raise ValueError(cell)
            row[column] = stamp(cell.replace("/", "-"))
            continue
        match = _NUMBER.fullmatch(cell)
        if match is not None and (match[2] or "") == (unit if with_units else ""):
            row[column] = in_si(match[1], _UNITS.get(unit, ""))
        elif match is None and not unit and name.partition(".")[0] not in _NUMBERS:
            row[column] = cell[:200]  # pstate, driver_version, compute_mode
        else:
            raise ValueError(cell)
    if not row:
        raise ValueError(cells)
    return {**row, **_device(of_device)}


def _device(found: dict[str, str]) -> dict[str, str]:
    """Name a GPU: its index, after its name where that was asked for, or whatever else tells it from others."""
    if "index" in found:
        return {"device": f"{found['name']} {found['index']}" if "name" in found else found["index"]}
    device = next((found[key] for key in ("uuid", "pci.bus_id", "serial", "name") if key in found), "")
    return {"device": device} if device else {}


# A line without a header above it: the time, and cells with units.
_BARE = re.compile(rb"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{3}, [^\n]{1,2000} (?:MiB|W|%|MHz)(?=,|[ \t]*$)")


def _read_bare(line: bytes) -> list[tuple[str, dict[str, Any]]] | None:
    """Read a line without a header: of the units only watts tell what was measured, and they only where they are one.

    Of two percentages, or two sizes, nothing says which is which.
    """
    if not _BARE.match(line):
        return []
    time, *cells = _cells(line)
    row: dict[str, Any] = {"time": stamp(time.replace("/", "-"))}
    of_device = {}
    for cell in cells:
        if cell.startswith(("GPU-", "MIG-")):
            of_device["uuid"] = cell
        elif re.match(r"(?:NVIDIA|Tesla|GeForce|Quadro|GRID) ", cell):
            of_device["name"] = cell
    watts = [cell for cell in cells if cell.endswith(" W")]
    if len(watts) == 1:
        row["power"] = in_si(watts[0][:-2])
    left = [cell for cell in cells if re.fullmatch(r"-?\d+(?:\.\d+)?(?: (?:%|MiB|MHz|W))?", cell)]
    left = left if len(watts) != 1 else [cell for cell in left if cell != watts[0]]
    return [("samples", {**row, **_device(of_device), "columns_left_out": len(left)})]


def _settle(tables: Tables) -> None:
    """Take what was read with a header; of lines without one say in an event what could not be told."""
    samples = tables.get("samples")
    if samples is None:
        return
    left = samples.numbers("columns_left_out")
    samples.columns.pop("columns_left_out", None)
    known = np.flatnonzero(np.isnan(left))
    bare = np.flatnonzero(~np.isnan(left) & ~np.isin(samples.line, samples.line[known]))
    order = np.concatenate([known, bare])
    first = np.unique(samples.line[order], return_index=True)[1]
    tables["samples"] = samples.where(order[first])
    if len(bare := bare[np.isin(bare, order[first])]):
        count = int(left[bare].max())
        said = f"without a header nothing tells what {count} of the columns are; they were left out"
        event = Rows([int(samples.line[bare[0]])], {"kind": ["columns_left_out"], "message": [said]})
        tables["events"] = joined([tables["events"], event]) if "events" in tables else event


_ANCHORS = (
    "utilization.", "memory.", "power.", "temperature.", "clocks.", "fan.speed", "encoder.stats.", "pcie.link.",
)  # fmt: skip
_NUMBERS = {each.partition(".")[0] for each in _ANCHORS}  # what such a query starts with is a number
FORMATS = (
    Format(
        name="nvidia-smi",
        kind="system",
        title="nvidia-smi --query-gpu --format=csv",
        example="2024/05/01 12:00:00.123, GPU-2f1c2d34-0000-1111-2222-333344445555, 97 %, 71402 MiB, 412.55 W",
        parts=(
            *(Block(each, _reader(each), size=1 << 26) for each in _ANCHORS),
            *(Each(unit, _read_bare) for unit in (" MiB", " MHz", *(f"{digit} W" for digit in "0123456789"))),
        ),
        finish=_settle,
    ),
)
