"""Cerebras CS-2 and CS-3: what the Model Zoo and its appliance client log (`cszoo fit`, and `run.py` before it)."""

from __future__ import annotations

import numpy as np

from hpcbench.formats import Format, Line
from hpcbench.rows import Rows, Tables, objects

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


FORMATS = (
    Format(
        name="cerebras",
        kind="training",
        title="Cerebras Model Zoo training and validation",
        example="2025-11-03 10:15:20,417 INFO:   | Train Device=CSX, Step=50, Loss=7.10211, Rate=33.12 samples/sec, "
        "GlobalRate=33.05 samples/sec, LoopTimeRemaining=0:12:01, TimeRemaining=0:12:01",
        parts=(
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
)
