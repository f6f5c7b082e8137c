"""llama.cpp: llama-bench in each of its output formats, and the times that its programs print at their end."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Mapping
from typing import Any

from hpcbench.formats import PARAMETERS, Block, Each, Format, Reading, Record, in_si
from hpcbench.formats.measurements import Text, counters, number, number_parts, parameters, unit_of
from hpcbench.rows import Tables, column

_TEST = re.compile(r"(pp|tg) ?(\d+)(?:\+tg ?(\d+))?(?: @ d(\d+))?")
_SPEED = re.compile(r"(\d+\.\d\d) ± (\d+\.\d\d)")
_SIZE = re.compile(r"\d+\.\d\d [KMGT]iB")
_LONGEST = 4000  # a row, or a line of times

# A test is named as the table does, pp512 or tg128: prefill and decode of so many tokens; d is the depth, the tokens
# that stand in the context before. What it has is a speed over several runs. A log has a row a test.


def _row(line: bytes) -> list[tuple[str, dict[str, Any]]] | None:
    """Read a row of the Markdown table; it says all by itself, whatever columns there are between."""
    cells = [cell.strip() for cell in line[:_LONGEST].decode(errors="replace").split("|")]
    if len(line) > _LONGEST or len(cells) < 7 or not any(_SIZE.fullmatch(cell) for cell in cells[2:5]):
        return []
    test = next((match for cell in cells if (match := _TEST.fullmatch(cell))), None)
    if test is None:
        return []
    speed = _SPEED.fullmatch(cells[-2])
    if speed is None or cells[-1]:
        return None
    at = next(index for index, cell in enumerate(cells) if _SIZE.fullmatch(cell))
    own = {"model": cells[at - 1], "backend": cells[at + 2]}
    name = _name(int(test[2]) if test[1] == "pp" else 0, int(test[3] or (test[2] if test[1] == "tg" else 0)), test[4])
    return [
        ("counters", {"name": f"tokens_per_second{end}", "value": float(each), "unit": "tokens/s", "test": name, **own})
        for end, each in (("", speed[1]), ("_std", speed[2]))
    ]


# a column of the table, and the name in CSV and JSON → parameter; `batch` would be samples, these are tokens
_SETUP = {
    "model": "model", "model_type": "model", "backend": "backend", "backends": "backend", "threads": "threads",
    "n_threads": "threads", "n_batch": "prompt_batch", "ngl": "gpu_layers", "n_gpu_layers": "gpu_layers",
    "fa": "flash_attention", "flash_attn": "flash_attention", "gpu_info": "device",
}  # fmt: skip


def _setup(row: Mapping[str, Any]) -> dict[str, object]:
    """Return the parameters in a row; a switch that is off says so."""
    found: dict[str, object] = {name: row[key] for key, name in _SETUP.items() if key in row}
    switch = str(found.get("flash_attention", "")).lower()
    if switch:
        found["flash_attention"] = {"0": "off", "false": "off", "1": "on", "true": "on"}.get(switch, switch)
    return found


def _table(data: bytes) -> Reading:
    """Read how each row of a table was run; its speed is read without the header."""
    lines = data.decode(errors="replace").split("\n")
    head = [cell.strip() for cell in lines[0].split("|")]
    records: list[Record] = []
    for line, text in enumerate(lines[1:400], 2):
        cells = [cell.strip() for cell in text[:_LONGEST].split("|")]
        if len(cells) < 3:
            break
        if len(cells) == len(head) and _SPEED.fullmatch(cells[-2]):
            records += parameters(line, _setup(dict(zip(head, cells, strict=True))))
    return records, 0


def _tell_apart(tables: Tables) -> None:
    """Give each speed what it was measured with, where that differs among the rows of a table."""
    speeds, said = tables.get("counters"), tables.get(PARAMETERS)
    if speeds is not None and said is not None:
        places = {line: index for index, line in enumerate(said.line.tolist())}
        for name in ("threads", "gpu_layers", "prompt_batch"):
            values = said[name].tolist()
            if len({str(value) for value in values}) > 1:
                speeds[name] = column(
                    [values[places[line]] if line in places else None for line in speeds.line.tolist()]
                )
    number_parts(tables)


def _name(prompt: float, generated: float, depth: str | float | None) -> str:
    parts = [f"{kind}{count:.0f}" for kind, count in (("pp", prompt), ("tg", generated)) if count]
    return "+".join(parts) + (f"_d{float(depth):.0f}" if depth and float(depth) else "")


def _result(line: int, row: Mapping[str, Any]) -> list[Record]:
    """Read one result, as CSV or JSON have it."""
    prompt, generated = number(row.get("n_prompt")), number(row.get("n_gen"))
    if math.isnan(prompt) or math.isnan(generated) or not prompt + generated:
        return []
    name = _name(prompt, generated, number(row.get("n_depth") or 0))
    found = (
        (line, "tokens_per_second", number(row.get("avg_ts"))),
        (line, "tokens_per_second_std", number(row.get("stddev_ts"))),
        (line, "test_time", number(row.get("avg_ns"), "ns")),
        (line, "test_time_std", number(row.get("stddev_ns"), "ns")),
    )
    texts = {"test": name, "model": row.get("model_type"), "backend": row.get("backends")}
    known = {key: value for key, value in texts.items() if isinstance(value, str)}
    return counters(found, **known) + parameters(line, _setup(row))


def _document(data: bytes, _name: str) -> Reading:
    text = Text(data)
    records: list[Record] = []
    for value, at in text.objects("avg_ts", "n_prompt", "n_gen"):
        records += _result(text.line(at), value)
    return records, 0 if records else 1


def _csv(data: bytes) -> Reading:
    lines = data.decode(errors="replace").split("\n")
    header = lines[0].strip().split(",")
    if not {"n_prompt", "n_gen", "avg_ts"} <= set(header):
        return [], 0
    records: list[Record] = []
    unread = 0
    for line, text in enumerate(lines[1:], 2):
        if "," not in text:
            break
        cells = next(csv.reader([text.strip().replace("\0", " ")])) if len(text) < _LONGEST else []
        whole = line < len(lines) or text.rstrip().endswith('"')  # else it may be cut within its last number
        found = _result(line, dict(zip(header, cells, strict=True))) if len(cells) == len(header) and whole else []
        records += found
        unread += not found
    return records, unread


# --- the end of a run ---

_RATED = re.compile(
    rb"(?P<what>prompt eval|eval|sampling|sample) time = *(?P<time>\d+\.\d\d) ms / *(?P<count>\d+) (?:tokens|runs) *"
    rb"\( *\d+\.\d\d ms per token, *(?P<rate>\d+\.\d\d|inf) tokens per second\)"
)
_PLAIN = re.compile(
    rb"(?:llama_\w+|common_perf_print): +(?P<what>load|total) time = *(?P<time>\d+\.\d\d) ms"
    rb"(?: / *(?P<count>\d+) tokens)?\s*$"
)
_NAMES = {  # time, number, speed
    b"prompt eval": ("prefill_time", "input_tokens", "prefill_tokens_per_second"),
    # without the first token, which the prompt's evaluation gives
    b"eval": ("decode_time", "decoded_tokens", "decode_tokens_per_second"),
    b"sampling": ("sampling_time", "", ""),
    b"sample": ("sampling_time", "", ""),
    b"load": ("load_time", "", ""),
    b"total": ("duration", "total_tokens", ""),
}


def _times(line: bytes) -> list[tuple[str, dict[str, Any]]] | None:
    match = _RATED.search(line, 0, _LONGEST) or (_PLAIN.search(line) if len(line) < _LONGEST else None)
    if match is None:
        return None
    groups = match.groupdict()
    time, count, rate = _NAMES[match["what"]]
    values = {time: in_si(match["time"], "ms")}
    if count and groups.get("count"):
        values[count] = float(groups["count"])
    if groups.get("rate") == b"inf":  # it did not measure: all its times are 0
        del values[time]
    elif rate:
        values[rate] = float(groups["rate"])
    return [("counters", {"name": name, "value": value, "unit": unit_of(name)}) for name, value in values.items()]


FORMATS = (
    Format(
        name="llama-bench",
        kind="inference",
        title="llama-bench, Markdown",
        example="| llama 7B Q4_0                  |   3.56 GiB |     6.74 B | CUDA       |  99 |           pp512 |"
        "       1200.50 ± 2.25 |",
        parts=(Each(" ± ", _row), Block(" params | backend ", _table)),
        finish=_tell_apart,
    ),
    Format(
        name="llama-bench-csv",
        kind="inference",
        title="llama-bench, CSV",
        example="build_commit,model_type,backends,n_prompt,n_gen,avg_ns,stddev_ns,avg_ts,stddev_ts\n"
        '"abc","llama 7B Q4_0","CUDA","512","0","256000000","1000000","2000.5","8.25"',
        parts=(Block("avg_ts,stddev_ts", _csv),),
        finish=_tell_apart,
        untried="written from llama.cpp's tools/llama-bench/README.md",
    ),
    Format(
        name="llama-bench-json",
        kind="inference",
        title="llama-bench, JSON and JSON lines",
        example='{"model_type": "llama 7B Q4_0", "backends": "CUDA", "n_prompt": 512, "n_gen": 0, '
        '"avg_ns": 256000000, "stddev_ns": 1000000, "avg_ts": 2000.5, "stddev_ts": 8.25}',
        sniff=('"avg_ts"', '"n_prompt"', '"n_gen"'),
        document=_document,
        finish=_tell_apart,
        untried="written from llama.cpp's tools/llama-bench/README.md",
    ),
    Format(
        name="llama-cpp",
        kind="inference",
        title="llama.cpp, the times at the end of a run",
        example="llama_perf_context_print:        eval time =    2000.50 ms /    99 runs   (   20.21 ms per token,"
        "    49.49 tokens per second)",
        parts=(
            Each(" ms per token,", _times),
            Each("load time = ", lambda line: _times(line) if b"llama_" in line or b"common_perf" in line else []),
            Each("total time = ", lambda line: _times(line) if b"llama_" in line or b"common_perf" in line else []),
        ),
        finish=_tell_apart,
    ),
)
