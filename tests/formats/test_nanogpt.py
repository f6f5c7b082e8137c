import math

import numpy as np
import pytest
import written
from said import parameters

from hpcbench.parse.content import read_bytes

NANO, MODDED = "nanogpt", "modded-nanogpt"


def table(records, name):
    return [record.values for record in records if record.table == name]


def test_a_real_log_gives_steps_scores_and_where_the_loss_was_lost(corpus):
    data = (corpus / "training/nanogpt/nanogpt_char_cpu_nan.log").read_bytes()
    assert read_bytes(data).formats == [NANO]
    records, unread = written.read(NANO, data)
    steps, evals = table(records, "steps"), table(records, "evals")
    assert (len(steps), unread) == (91, 0)
    assert "mfu" not in steps[0]
    finite = [row for row in steps if not math.isnan(row.get("loss", math.nan))]
    assert (finite[-1]["step"], finite[-1]["loss"]) == (420, 3.5023)
    assert steps[1] == {
        "step": 5, "loss": 4.2082, "step_time": 1.43127, "mfu": 0.0001, "evaluates": False, "warmup": False
    }  # fmt: skip
    assert evals[-1] == {"task": "validation", "metric": "loss", "step": 400, "value": 3.3687}
    assert [row["message"] for row in table(records, "events")] == ["the loss of step 425 is not a finite number"]


def test_iterations_that_evaluate_do_not_count_as_steady(corpus):
    records, _ = written.read(NANO, (corpus / "training/nanogpt/nanogpt_char_cpu_nan.log").read_bytes())
    steps = table(records, "steps")
    assert [row["step"] for row in steps if row["warmup"]] == [0, 100, 200, 300, 400]
    assert [row["step"] for row in steps if row["evaluates"]] == [0, 100, 200, 300, 400]
    assert max(row["step_time"] for row in steps if not row["warmup"]) < 1.6
    assert np.mean([row["step_time"] for row in steps if row["warmup"]]) > 10


def test_the_first_iteration_after_a_restart_is_warm_up():
    log = "".join(f"iter {step}: loss 4.0000, time 10.00ms, mfu 5.00%\n" for step in (0, 10, 20, 10, 20))
    steps = table(written.read(NANO, log)[0], "steps")
    assert [row["warmup"] for row in steps] == [True, False, False, True, False]
    assert not any(row["evaluates"] for row in steps)


def test_a_real_record_is_found_below_its_source(corpus):
    data = (corpus / "training/modded_nanogpt/modded_flexattention.txt").read_bytes()
    assert read_bytes(data).formats == [MODDED]
    records, unread = written.read(MODDED, data)
    steps, evals = table(records, "steps"), table(records, "evals")
    assert (len(steps), len(evals), unread) == (1875, 16, 0)
    assert steps[-1] == {
        "step": 1875, "loss": 3.3139, "elapsed": 301.784, "mean_step_time": 0.16181, "warmup": False
    }  # fmt: skip
    assert "mean_step_time" not in steps[0]
    assert evals[-1] == {
        "task": "validation", "metric": "loss", "step": 1875, "value": 3.2783, "elapsed": 301.825,
        "mean_step_time": 0.16184,
    }  # fmt: skip


def test_newer_records_have_no_training_loss():
    records, _ = written.read(MODDED, "step:126/1750 train_time:12432ms step_avg:98.67ms\n")
    assert table(records, "steps")[0]["mean_step_time"] == 0.09867


@pytest.mark.parametrize(("name", "line", "damaged"), [
    (NANO, "iter 5: loss 4.20", 0),
    (NANO, "iter 5: loss 4.2082, time 1431.27ms, mfu 0.0", 1),
    (NANO, "step 5: train loss 4.2367, val loss 4.24", 1),
    (MODDED, "step:12/1750 train_loss:4.4112 train_time:17602ms step_avg:160.0", 0),
    (MODDED, "step:12/1750 val_loss:4.4", 0),
])  # fmt: skip
def test_a_damaged_line_gives_no_number(name, line, damaged):
    assert written.read(name, line) == ([], damaged)


@pytest.mark.parametrize("text", [
    b"at step 5: train loss 4.2367, val loss 4.2475 was seen\n",
    b"step 5: train loss 4.2367 (took 10.000000 ms)\n",
    b"print(f'step:{step}/{n} val_loss:{val_loss:.4f} train_time:{t:.0f}ms step_avg:{a:.2f}ms')\n",
])  # fmt: skip
def test_neighbours_are_not_taken(text):
    assert not {NANO, MODDED} & set(read_bytes(text).formats)


def test_what_nanogpt_was_told_is_its_parameters(corpus):
    data = (corpus / "training/nanogpt/nanogpt_char_cpu_nan.log").read_bytes()
    assert parameters(data) == {"total_batch": 512}
    told = {"device": "cpu", "block_size": 64, "batch_size": 12, "dtype": "float32", "n_layer": 4}
    head = "".join(f"Overriding: {name} = {value}\n" for name, value in told.items()).encode()
    assert parameters(head + data.replace(b"be: 512", b"be: 491,520")) == {
        "device": "cpu", "sequence_length": 64, "micro_batch": 12, "precision": "FP32", "total_batch": 491520,
    }  # fmt: skip


def test_the_program_that_a_log_begins_with_says_its_parameters(corpus):
    data = (corpus / "training/modded_nanogpt/modded_flexattention.txt").read_bytes()
    assert parameters(data) == {"batch": 8, "micro_batch": 1, "sequence_length": 64 * 1024}
    assert parameters(data.replace(b" batch_size : int = 8 ", b" batch_size : int = 8*n ")).keys() == {
        "micro_batch", "sequence_length",
    }  # fmt: skip
