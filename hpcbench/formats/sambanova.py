"""SambaNova SN30 (SambaFlow): training by its BERT application, its starter and Model Zoo examples, and generation."""

from __future__ import annotations

import re

from hpcbench.formats import PARAMETERS, Block, Format, Line, Reading, Record
from hpcbench.rows import Tables


def _counter(name: str, unit: str, pattern: str, *, weak: bool = False, anchor: str = "") -> Line:
    return Line("counters", pattern, constants={"name": name, "unit": unit}, weak=weak, loose=weak, anchor=anchor)


# What SambaFlow itself prints, whatever it runs.
_SESSION = Line(
    "events", r"^Log ID initialized to: \[.{1,200} at /var/log/sambaflow/", constants={"kind": "session_start"}
)
_COMPILED = Line(
    "events", r"^\[info {0,8}\] ?:? ?PEF file [^ ]{1,1000} created\b", constants={"kind": "compile_end"}, loose=True
)


def _option(name: str, value: str) -> Line:
    """Read an option of the command that ALCF's scripts print before they run it."""
    return Line(
        PARAMETERS, rf"^(?:COMPILE|RUN) COMMAND: .{{1,3000}}? {name} {{1,4}}{value}(?: |$)", weak=True, loose=True,
        anchor=f" {name} ",
    )  # fmt: skip


_OPTIONS = (
    _option("--max_seq_length", "<sequence_length:int>"),
    _option("--per_device_train_batch_size", "<micro_batch:int>"),
)
# of the scripts around it: the shell's seconds
_DURATION = _counter("wall_time", "s", r"^Duration: {1,4}<value:int>$", weak=True)


def _count_on(tables: Tables) -> None:
    """Count steps through all epochs: the log counts them in each."""
    steps = tables.get("steps")
    if steps is not None:
        steps["step"] = (steps.numbers("epoch") - 1) * steps.numbers("of") + steps.numbers("step")
        del steps.columns["of"]


_GENERATION = (
    ("ttft", re.compile(rb"[ \t]*time to first token (\d+\.\d{4})s[ \t\r]*")),
    ("tpot", re.compile(rb"[ \t]*tokens, +excluding first token (\d+\.\d{4})s[ \t\r]*")),
    ("", re.compile(rb"[ \t]*tokens, +overall \d+\.\d{4}s[ \t\r]*")),
    ("latency", re.compile(rb"[ \t]*Total Latency (\d+\.\d{4})s[ \t\r]*")),
)


def _generation(data: bytes) -> Reading:
    """Read the lines of ``latencies`` as one request. The throughputs below them are one divided by these."""
    row: dict[str, float] = {}
    lines = data.split(b"\n")
    for (name, pattern), line in zip(_GENERATION, lines, strict=False):
        match = pattern.fullmatch(line)
        if match is None:
            break
        if name:
            row[name] = float(match[1])
    if not row:
        return [], 0
    return ([Record("requests", 1, row)], 0) if "latency" in row else ([], 1)


def _tests() -> tuple[Line, ...]:
    task = {"task": "test"}
    return (
        Line(
            "evals",
            r"^Test Accuracy: <value %>  Loss: -?\d{1,9}\.\d{4}$",
            constants={**task, "metric": "accuracy"},
            weak=True,
        ),
        Line(
            "evals",
            r"^Test Accuracy: \d{1,3}\.\d\d  Loss: <value:.4>$",
            constants={**task, "metric": "loss"},
            weak=True,
            loose=True,  # one line, counted once
        ),
    )


FORMATS = (
    Format(
        name="sambanova-bert",
        kind="training",
        title="SambaNova SN30: BERT (transformers_hook)",
        example="2024-05-02 11:20:37,938 - apps.nlp.transformers_on_rdu.tasks.lm_tasks.bert_mlperf_trainer - Process ID"
        " 7 - info     - epoch:0|local_step:3|global_step:3|average_loss:10.05339|step_loss:10.05339|step_ns_loss:0.67"
        "473|step_mlm_loss:9.37866|learning_rate:1.57e-06|eval_step:0.00000",
        parts=(
            *_OPTIONS,
            Line(
                "steps",
                r"(?:<time:stamp> - [\w.]{1,200} - Process ID \d{1,10} - \w{1,10} {1,9}- )?"
                r"epoch:<epoch:int>\|local_step:\d{1,12}\|global_step:<step:int>"
                r"\|average_loss:<average_loss:.5>\|step_loss:<loss:.5>"
                r"(?:\|step_ns_loss:<next_sentence_loss:.5>\|step_mlm_loss:<masked_lm_loss:.5>)?"
                r"(?:\|learning_rate:<lr>(?=\|))?",
                anchor="|local_step:",
            ),
            # both rates have samples in them; the program's sequences are of tokens
            _counter("end_to_end_train_time", "s", r"'e2e_train_time': <value>[,}]"),
            _counter("training_sequences_per_second", "sequences/s", r"'training_sequences_per_second': <value>[,}]"),
            _counter("training_samples_per_second", "samples/s", r"'training_samples_per_second': <value>[,}]"),
            _counter("final_loss", "", r", 'final_loss': <value>[,}]", weak=True),
            _DURATION,
        ),
        warmup=1,
    ),
    Format(
        name="sambanova",
        kind="training",
        title="SambaNova SN30: SambaFlow's applications and Model Zoo examples",
        example="inner train loop time : 36.31429 for 10 epochs, number of global steps: 9, e2e samples_per_sec: 563.9",
        parts=(
            *_OPTIONS,
            Line(PARAMETERS, r"^Batch size: <batch:int>$", weak=True, loose=True),  # of the Model Zoo, on one device
            Line(  # of the starter example
                PARAMETERS,
                r"^args: Namespace\(.{0,2000}?\bbatch_size=<micro_batch:int>,",
                weak=True,
                loose=True,
                anchor=" batch_size=",
            ),
            _SESSION,
            _COMPILED,
            Line(
                "steps",
                r"^Epoch \[<epoch:int>/\d{1,9}\], Step \[<step:int>/<of:int>\], Loss: <loss:.4>$",
                weak=True,
                anchor="], Step [",
            ),
            *_tests(),
            _counter(
                "train_time",
                "s",
                r"\binner train loop time : <value> for \d{1,9} epochs, number of global steps: \d{1,12}, e2e ",
            ),
            Line(
                "counters",
                r", number of global steps: \d{1,12}, e2e samples_per_sec: <value>$",
                constants={"name": "end_to_end_samples_per_second", "unit": "samples/s"},
            ),
            _DURATION,
        ),
        finish=_count_on,
    ),
    Format(
        name="sambanova-generation",
        kind="inference",
        title="SambaNova Model Zoo: latencies of one generation",
        example="    time to first token 1.2034s\n    tokens,  excluding first token 0.3120s\n"
        "    tokens,  overall 0.3400s\n    Total Latency 1.5154s",
        parts=(Block("time to first token ", _generation, size=400),),
    ),
)
