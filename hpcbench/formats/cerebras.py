"""Cerebras CS-2 and CS-3: what the Model Zoo and its appliance client log (`cszoo fit`, and `run.py` before it).

And the table of jobs that the cluster's `csctl get jobs` prints.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import numpy as np

from hpcbench.formats import PARAMETERS, Block, Format, Line, Reading, Record, duration
from hpcbench.metrics import shown
from hpcbench.rows import Rows, Tables, joined, objects

_RATES = (
    r"(?:, Rate=<samples_per_second> samples/sec)?(?:, GlobalRate=<mean_samples_per_second> samples/sec)?"
    # what follows may be cut or left out; a number that is cut has no unit, and a damaged one is not left out
    r"(?=,|[ \t]*$)(?!, (?:Loss|Rate|GlobalRate)=[^, ]*(?: samples/sec)?,)"
)
_PROCESSED = r"\bProcessed {} (?:training )?sample\(s\) in {} seconds\b"
# of a job that was cancelled from outside, the message says so
_BY_HAND = "canceled-by-csctl"


def _event(kind: str, text: str, *, weak: bool = False) -> Line:
    """Make the event of a line that the client's logger wrote: a progress bar may stand before it."""
    return Line("events", rf"\bINFO: {{1,8}}{text}", constants={"kind": kind}, weak=weak, loose=True)


def _error(kind: str, name: str, anchor: str) -> Line:
    """Make the event of the last line of a traceback."""
    pattern = rf"^(?:[\w.]{{1,80}}\.)?{name}(?::|$)"
    return Line("events", pattern, constants={"kind": kind}, loose=True, anchor=anchor)


def _complete(tables: Tables) -> None:
    _batches(tables)
    if "evals" in tables:
        _eval_steps(tables["evals"])
    if "events" in tables:
        _say_cached(tables["events"])
        if "jobs" in tables:
            _name_jobs(tables["jobs"], tables["events"])


def _eval_steps(evals: Rows) -> None:
    """Give the results of a validation the step that its progress names: they stand below it."""
    step = evals.numbers("step").copy()
    named = np.flatnonzero(np.isfinite(step))
    if len(named):
        before = np.searchsorted(named, np.arange(len(step)), side="right") - 1
        step = np.where(before < 0, np.nan, step[named[before]])
    evals["step"] = step


def _batches(tables: Tables) -> None:
    """Add the batch of each run that says how many samples it trained on: newer clients do not name it.

    Only where every step of the run is known: its log begins with the first one and ends with the last, whose
    checkpoint is saved. A run that goes on from a checkpoint counts its steps from there.
    """
    steps, counters, events = tables.get("steps"), tables.get("counters"), tables.get("events")
    if steps is None or counters is None or events is None:
        return
    scores = tables["evals"].line if "evals" in tables else np.empty(0, np.int64)
    found: list[tuple[int, int]] = []
    after = 0
    for line, row in counters.records():
        if row["name"] != "samples":
            continue
        inside = (steps.line > after) & (steps.line < line)
        number = steps.numbers("step")[inside]
        saved = events.numbers("step")[(events.line > after) & (events.line < line)]
        saved = saved[np.isfinite(saved)]
        whole = len(number) > 1 and len(saved) and saved[-1] == number[-1] and number[0] in (1, number[1] - number[0])
        if whole and not ((scores > after) & (scores < line)).any() and not row["value"] % number[-1]:
            found.append((line, int(row["value"] / number[-1])))
        after = line
    if found:
        rows = Rows([line for line, _ in found], {"batch": [batch for _, batch in found]})
        tables[PARAMETERS] = joined([tables[PARAMETERS], rows]).ordered() if PARAMETERS in tables else rows


def _say_cached(events: Rows) -> None:
    """Say of each compile whether its result was there already; where a log begins later, nothing is said."""
    messages, seen = events["message"].copy(), ""
    for index, kind in enumerate(events["kind"].tolist()):
        if kind == "compile_start":
            seen = "not cached"
        elif kind == "compile_cached":
            seen = "cached"
        elif kind == "compile_end":
            messages[index] = f"{messages[index]} ({seen})" if seen else messages[index]
            seen = ""
    events["message"] = messages


def _name_jobs(jobs: Rows, events: Rows) -> None:
    """Name each job after the line that started it: newer clients do not say it in the line of its id."""
    begun = events.where(np.array([kind == "queue_start" for kind in events["kind"]], dtype=bool))
    before = np.searchsorted(begun.line, jobs.line) - 1
    names, times = jobs["name"].tolist(), begun.numbers("time")
    submitted = np.full(len(jobs), np.nan)
    for index, (name, at) in enumerate(zip(names, before.tolist(), strict=True)):
        if isinstance(name, str):
            names[index] = name.lower()
        if at >= 0 and jobs.line[index] - begun.line[at] <= 3:
            submitted[index] = times[at]
            names[index] = "compile" if " compile " in str(begun["message"][at]) else "execute"
    jobs["name"] = objects(names)
    jobs["submitted"] = submitted


_JOB = re.compile(r"wsjob-\w{1,64}", re.ASCII)
_PHASE = re.compile(r"[A-Z][A-Z_]{2,30}")
_FAILURES = {"FAILED": "failed", "CANCELLED": "cancelled"}
_TEXTS = {"TYPE": "name", "SYSTEMS": "systems", "LABELS": "labels"}  # header → column


def _jobs(data: bytes) -> Reading:
    """Read the table of ``csctl get jobs``: each column begins below its name; what is not known is left empty."""
    head, *lines = data.decode(errors="replace").split("\n")
    starts = {match[0]: match.start() for match in re.finditer(r"\S+", head[:1000])}
    if not {"NAME", "AGE", "PHASE", "USER"} <= starts.keys():
        return [], 0
    ends = [*list(starts.values())[1:], None]
    records: list[Record] = []
    unread = 0
    for number, line in enumerate(lines, 2):
        if "wsjob-" not in line[:200]:
            break
        cells = {name: line[start:end].strip() for (name, start), end in zip(starts.items(), ends, strict=True)}
        aligned = all(line[start - 1 : start] in ("", " ") for start in starts.values() if start)
        job, state = _JOB.fullmatch(cells["NAME"]), _PHASE.fullmatch(cells["PHASE"])
        if number > len(lines) or not aligned or job is None or state is None:  # cut, or not below its header
            unread += 1
            continue
        row: dict[str, Any] = {"job": job[0], "state": state[0]}
        row |= {column: cells[name] for name, column in _TEXTS.items() if cells.get(name)}
        with suppress(ValueError):  # whole minutes, or hours, of a long one
            row["elapsed"] = _days(cells.get("DURATION", ""))
        records.append(Record("jobs", number, row))
        if kind := _FAILURES.get(state[0]):
            message = f"job {job[0]} ({row.get('labels') or row.get('name', 'no name')}): {state[0]}"
            records.append(Record("events", number, {"kind": kind, "message": shown(message, 500)}))
    return records, unread


def _days(text: str) -> float:
    """Read ``2d3h``, ``12m`` or ``1m30s`` in seconds; raises `ValueError` for anything else."""
    days, _, rest = text.rpartition("d")
    return 86400 * int(days or 0) + (duration(rest) if rest or not days else 0)


FORMATS = (
    Format(
        name="cerebras",
        kind="training",
        title="Cerebras Model Zoo training and validation",
        example="2025-11-03 10:15:20,417 INFO:   | Train Device=CSX, Step=50, Loss=7.10211, Rate=33.12 samples/sec, "
        "GlobalRate=33.05 samples/sec, LoopTimeRemaining=0:12:01, TimeRemaining=0:12:01",
        parts=(
            Line(PARAMETERS, r"\bINFO: {1,8}Effective batch size is <batch:thousands>\.$", weak=True, loose=True),
            Line(PARAMETERS, r"\bINFO: {1,8}Preparing to execute using <devices:int> CSX", weak=True, loose=True),
            Line("steps", rf"\| Train Device=\w{{1,20}}, Step=<step:int>(?:, Loss=<loss:.5>)?{_RATES}"),
            Line(  # the mean over the batches so far
                "evals",
                rf"\| Eval Device=\w{{1,20}}, (?:GlobalStep=<step:int>, Batch|Step)=<batch:int>"
                rf"(?:, Loss=<value:.5>)?{_RATES}",
                constants={"task": "validation", "metric": "running_loss"},
            ),
            Line(
                "evals",
                r"\bINFO: {1,8}Avg Eval Loss: <value>$",
                constants={"task": "validation", "metric": "loss"},
                weak=True,
            ),
            Line("evals", r"\bINFO: {1,8}- eval/<metric:word> = <value>$", constants={"task": "validation"}, weak=True),
            Line(
                "counters",
                _PROCESSED.format("<value:int>", r"[\d.e+]{1,40}"),
                constants={"name": "samples", "unit": ""},
            ),
            # with compiling, queueing, programming and saving: no time to divide the samples by
            Line(
                "counters",
                _PROCESSED.format(r"\d{1,20}", "<value>"),
                constants={"name": "processed_time", "unit": "s"},
                loose=True,
            ),
            Line(
                "counters",
                r"\bCompile estimated performance: <value> samples/sec \(",
                constants={"name": "estimated_samples_per_second", "unit": "samples/s"},
            ),
            Line(
                "jobs",
                r"\b(?:(?P<name>[Cc]ompile|[Ee]xecute) )?[Jj]ob id: (?P<job>wsjob-\w{1,64}), ",
                loose=True,
                anchor="ob id: wsjob-",
            ),
            _event("queue_start", r"Initiating a new (?:compile|execute) wsjob "),
            _event(
                "queueing", r"Poll ingress status: Waiting for job running, current job status: (?:Queueing|Queued)\b"
            ),
            _event("queue_end", r"Poll ingress success: "),
            _event("queue_end", r"Ingress is ready: "),
            _event("compile_start", r"Compiling the model\. This may take"),
            _event("compile_cached", r"Found existing cached compile "),
            _event("compile_end", r"Compile was successful!"),
            _event("weights_start", r"About to send initial weights"),
            _event("weights_end", r"Finished sending initial weights"),
            _event("programming_start", r"Waiting for device programming to complete"),
            _event("programming_end", r"Device programming is complete"),
            _event("input_start", r"Waiting for input workers to prime "),
            _event("input_end", r"Input workers have begun streaming"),
            _event("run_start", r"Beginning appliance run"),
            _event("checkpoint_start", r"Saving checkpoint at step <step:int>", weak=True),
            _event("checkpoint_end", r"Saved checkpoint [^ ]", weak=True),
            _event("evaluation_end", r"Evaluation completed successfully!", weak=True),
            _event("completed", r"Training completed successfully!", weak=True),
            # failures are as the client's public source writes them: no log of one was at hand
            Line(
                "events",
                rf"\bJob wsjob-\w{{1,64}} failed (?:during initialization|due to): (?!.{{0,500}}{_BY_HAND})",
                constants={"kind": "appliance_error"},
                loose=True,
            ),
            Line(
                "events",
                rf"\bJob wsjob-\w{{1,64}} failed due to: .{{0,500}}{_BY_HAND}",
                constants={"kind": "cancelled"},
                loose=True,
            ),
            Line(
                "events",
                r"\bJob wsjob-\w{1,64} was cancelled due to ",
                constants={"kind": "cancelled"},
            ),
            _error(
                "appliance_error",
                r"Appliance\w{0,60}(?:Error|Exception|Interrupted|Exhausted|Cancelled|Dropped)",
                "Appliance",
            ),
            _error("appliance_error", r"ClusterJob(?:Init|Schedule)Error", "ClusterJob"),
            _error("cancelled", r"ClusterJobCancelledByCsctl", "ClusterJobCancelledByCsctl"),
        ),
        finish=_complete,
    ),
    Format(
        name="cerebras-jobs",
        kind="system",
        title="csctl get jobs of a Cerebras cluster",
        example="NAME           TYPE     AGE  DURATION  PHASE    SYSTEMS     USER  LABELS\n"
        "wsjob-ab12cd3  execute  13m  12m       RUNNING  cer-cs3-02  me    name=train",
        parts=(Block(" PHASE ", _jobs),),
    ),
)
