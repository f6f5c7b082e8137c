"""`nvidia-smi --query-gpu=... --format=csv`: samples of GPUs, with and without header and units."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from hpcbench.formats import Block, Each, Format, Reading, Record, in_si, stamp
from hpcbench.rows import Array, Rows, Tables, joined

_COLUMNS = {  # where the name of a query is not that of the column with underscores for its dots
    "timestamp": "time",
    "utilization.gpu": "utilization",
    "utilization.memory": "memory_utilization",
    "power.draw": "power",
    "temperature.gpu": "temperature",
    "temperature.memory": "memory_temperature",
}
_DEVICE = {"gpu_name": "name", "gpu_uuid": "uuid", "gpu_bus_id": "pci.bus_id", "gpu_serial": "serial"}
_LONGEST = 2000  # bytes of a line without a header
_UNITS = {"%": "%", "MiB": "MiB", "W": "", "MHz": "M", "ms": "ms", "C": ""}
_HEADER = re.compile(r"[a-z][a-z0-9_]*(?:\.[a-z0-9_]+)*(?: \[[A-Za-z%]{1,4}\])?")
_UNKNOWN = re.compile(r"\[[^\[\]]*\]|N/A|-")  # [N/A], [Not Supported], [Unknown Error], [GPU requires reset]
_STAMP = re.compile(r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{3}")
_NUMBER = re.compile(r"(-?\d+(?:\.\d+)?)(?: ([A-Za-z%]{1,4}))?")
_UUID = re.compile(r"(?:GPU|MIG)-[\w/-]{1,80}", re.ASCII)
_BUS = re.compile(r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.[0-9A-Fa-f]")
_PRODUCT = re.compile(r"(?:NVIDIA|Tesla|GeForce|Quadro|GRID) [\w .()+/-]{1,80}", re.ASCII)
# a word, a version or a number in hexadecimal: what is neither has parts of two cells
_TEXT = re.compile(r"[A-Za-z][\w .()+/-]{0,80}|\d+(?:\.\w+)+|0x[0-9A-Fa-f]{1,32}", re.ASCII)
_FORMS = {"index": re.compile(r"\d{1,4}"), "uuid": _UUID, "pci.bus_id": _BUS, "pstate": re.compile(r"P\d{1,2}"),
          "serial": re.compile(r"[A-Za-z]\w{1,40}|\d{1,40}", re.ASCII)}  # fmt: skip


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
        # what was asked for without units has none anywhere
        with_units = any(
            re.search(rb"\d " + re.escape(unit.encode()) + rb"[ \t]*(?:,|\n|$)", rest) for _, unit in columns if unit
        )
        records, unread, is_header = [], 0, False
        lines = rest.split(b"\n")
        for number, line in enumerate(lines, 2):
            cells = _cells(line)
            # no line break ends the last one: only a unit shows that it is whole
            whole = number <= len(lines) or (with_units and columns[-1][1] and cells[-1].endswith(f" {columns[-1][1]}"))
            try:
                if len(cells) != len(columns) or not whole:
                    raise ValueError(line)  # noqa: TRY301
                row = _row(columns, cells, with_units=with_units)
            except ValueError:
                if _header(line) is not None and any(each.encode() in line for each in _ANCHORS):
                    break
                if _is_damaged(cells, columns):
                    is_header = True
                    # one that is damaged also as a line without a header is counted there
                    unread += not (_word(line) and _read_bare(line) is None)
                continue
            is_header = True
            records.append(Record("samples", number, row))
        if is_header:  # not prose that names some queries
            records.append(Record("samples", 1, {"header": 1}))
        return records, unread

    return read


def _is_damaged(cells: list[str], columns: list[tuple[str, str]]) -> bool:
    """Tell a damaged row from another program's line: it begins with a time, or half of its cells are of a row."""
    if _STAMP.match(cells[0]):
        return True
    units = {"", *(unit for _, unit in columns)}
    numbers = [match for cell in cells if (match := _NUMBER.fullmatch(cell)) and (match[2] or "") in units]
    good = len(numbers) + sum(bool(_UUID.fullmatch(cell) or _BUS.fullmatch(cell)) for cell in cells)
    return 2 * good >= len(cells) > 1 or (len(cells) == len(columns) == 1 and cells[0][:1].isdigit())


def _row(columns: list[tuple[str, str]], cells: list[str], *, with_units: bool) -> dict[str, Any]:
    """Read a line in SI units; raises `ValueError` where a cell is not of its column."""
    row: dict[str, Any] = {}
    of_device: dict[str, str] = {}
    for (name, unit), cell in zip(columns, cells, strict=True):
        if _UNKNOWN.fullmatch(cell):
            continue
        match = _NUMBER.fullmatch(cell)
        column = _COLUMNS.get(name, name.replace(".", "_"))
        if name == "timestamp":
            if not _STAMP.fullmatch(cell):
                raise ValueError(cell)
            row[column] = stamp(cell.replace("/", "-"))
        elif name in ("name", "index", "uuid", "pci.bus_id", "serial"):
            if not _FORMS.get(name, _TEXT).fullmatch(cell):
                raise ValueError(cell)
            of_device[name] = cell
        elif match is not None and (match[2] or "") == (unit if with_units else ""):
            row[column] = in_si(match[1], _UNITS.get(unit, ""))
            if name.startswith("utilization.") and not 0 <= row[column] <= 1:
                raise ValueError(cell)
        elif not unit and name.partition(".")[0] not in _NUMBERS and _FORMS.get(name, _TEXT).fullmatch(cell):
            row[column] = cell  # pstate, driver_version, compute_mode
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


# Lines without a header: the time, and cells of which each is whole. Of their numbers only watts tell what was
# measured, and they only where they are one: of two percentages, or two sizes, nothing says which is which.
_WORDS = (" MiB", " MHz", *(f"{digit} W" for digit in "0123456789"), ", GPU-", ", NVIDIA ", ", Tesla ")
_BARE = re.compile(rb"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{3}, ")


def _word(line: bytes) -> str:
    """Return the first of the words of such lines that a line holds."""
    return next((word for word in _WORDS if word.encode() in line), "")


def _bare(word: str) -> Each:
    """Make the part for the lines of a word: one that holds several is read by the first."""
    return Each(word, lambda line: _read_bare(line) if word == _word(line) else [])


def _read_bare(line: bytes) -> list[tuple[str, dict[str, Any]]] | None:
    """Read a line without a header, with or without units; None for one that is damaged."""
    if not _BARE.match(line) or len(line) > _LONGEST:
        return []
    time, *cells = _cells(line)
    if not all(any(form.fullmatch(cell) for form in (_NUMBER, _UNKNOWN, _UUID, _BUS, _TEXT)) for cell in cells):
        return None
    numbers = [match for cell in cells if (match := _NUMBER.fullmatch(cell))]
    with_units = any(match[2] for match in numbers)
    of_device = {}
    for name, form in (("uuid", _UUID), ("name", _PRODUCT)):
        if found := next(filter(form.fullmatch, cells), None):
            of_device[name] = found
    row: dict[str, Any] = {"time": stamp(time.replace("/", "-")), **_device(of_device)}
    # without units, they alone have two decimals, but for some versions of a driver, which stay the same
    watts = [match for match in numbers if (match[2] == "W" if with_units else re.search(r"\.\d\d$", match[0]))]
    if len(watts) == 1:
        row["power"] = in_si(watts[0][1])
    left = len(numbers) - (len(watts) == 1)
    return [("samples", {**row, "columns_left_out": left, **({} if with_units else {"plain": 1})})]


def _settle(tables: Tables) -> None:
    """Take what was read with a header; of lines without one say in an event what could not be told."""
    samples = tables.get("samples")
    if samples is None:
        return
    headers, left, plain = (samples.numbers(name) for name in ("header", "columns_left_out", "plain"))
    for name in ("header", "columns_left_out", "plain"):
        samples.columns.pop(name, None)
    # below a header a line that was not read by it is damaged
    first_header = samples.line[headers == 1].min(initial=np.iinfo(np.int64).max)
    bare = ~np.isnan(left) & (samples.line < first_header) & ((plain != 1) | _vary(samples))
    kept = np.flatnonzero(bare | (np.isnan(left) & (headers != 1)))
    if not len(kept):
        del tables["samples"]
        return
    tables["samples"], left = samples.where(kept), left[kept]
    if np.isfinite(left).any():
        said = f"without a header nothing tells what {np.nanmax(left):.0f} of the columns are; they were left out"
        line = int(tables["samples"].line[np.isfinite(left)][0])
        event = Rows([line], {"kind": ["columns_left_out"], "message": [said]})
        tables["events"] = joined([tables["events"], event]) if "events" in tables else event


def _vary(samples: Rows) -> Array:
    """Tell of each row whether the power of its device changes, which a limit or a version does not."""
    devices, power = [str(each) for each in samples["device"].tolist()], samples.numbers("power")
    found: dict[str, set[float]] = {}
    for device, watts in zip(devices, power.tolist(), strict=True):
        if np.isfinite(watts):
            found.setdefault(device, set()).add(watts)
    return np.array([len(found.get(device, ())) > 1 for device in devices])


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
            *(_bare(word) for word in _WORDS),
        ),
        finish=_settle,
    ),
)
