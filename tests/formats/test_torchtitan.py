import pytest
import written
from said import parameters

from hpcbench.formats import get
from hpcbench.parse.content import read_bytes

LINE = get("torchtitan").example


@pytest.mark.parametrize(("file", "steps", "line", "last"), [
    ("excerpts/torchtitan_pr1287_rank0_gc_lines.txt", 6, 10,
     {"step": 250, "loss": 5.8383, "tokens_per_second_per_device": 5862, "mfu": 0.3433, "rank": 0,
      "flops_per_second_per_device": 339.48e12, "max_device_memory": 49.66 * 2**30}),
    ("excerpts/torchtitan_pr3393_rank0.txt", 8, 8,
     {"step": 21, "loss": 3.00867, "grad_norm": 0.6348, "tokens_per_second_per_device": 7304, "mfu": 0.0017,
      "rank": 0}),
])  # fmt: skip
def test_a_real_log_gives_every_step(corpus, file, steps, line, last):
    content = read_bytes((corpus / file).read_bytes())
    assert content.formats == ["torchtitan"]
    records, unread = written.read("torchtitan", (corpus / file).read_bytes())
    assert (len(records), unread, records[-1].line) == (steps, 0, line)
    assert last.items() <= records[-1].values.items()


def test_the_time_of_a_line_is_that_of_its_logger():
    [record] = written.read("torchtitan", LINE)[0]
    assert record.values["time"] == 1741064767.89


@pytest.mark.parametrize(("printed", "value"), [("1,234.56", 1234.56e12), ("0.52", 0.52e12)])
def test_large_rates_are_printed_with_separators(printed, value):
    [record] = written.read("torchtitan", LINE.replace("401.25", printed))[0]
    assert record.values["flops_per_second_per_device"] == value


def test_a_version_without_rates_of_operations_and_colours_is_read():
    line = "\x1b[31mstep:  1  \x1b[32mloss: 12.2500  \x1b[33mmemory:  5.25GiB(6.50%)  \x1b[34mtps: 512  "
    line += "\x1b[35mmfu: 1.50%\x1b[39m"
    [record] = written.read("torchtitan", line)[0]
    assert record.values == {
        "step": 1, "loss": 12.25, "max_device_memory": 5.25 * 2**30, "tokens_per_second_per_device": 512,
        "mfu": 0.015, "warmup": True,
    }  # fmt: skip


def test_a_validation_is_a_score_and_no_step():
    line = "[titan] 2025-03-04 05:06:07,890 - root - INFO - validate step: 40  loss:  5.2500  memory: 40.12GiB(50.65%)"
    [record] = written.read("torchtitan", line + "  tps: 9,123\n")[0]
    assert record.table == "evals"
    assert record.values == {
        "task": "validation", "metric": "loss", "step": 40, "value": 5.25, "time": 1741064767.89,
    }  # fmt: skip


@pytest.mark.parametrize("cut", ["%", "57%", "mfu: 40.57%"])
def test_a_line_cut_short_gives_nothing(cut):
    assert written.read("torchtitan", LINE.removesuffix(cut))[0] == []


@pytest.mark.parametrize(("text", "expected"), [
    ("[rank0]:[titan] 2025-12-14 05:53:48,651 - root - INFO - Trainer is initialized with local batch size 4, global "
     "batch size 32, gradient accumulation steps 1, sequence length 12288, total steps 3000 (warmup 600)",
     {"micro_batch": 4, "batch": 32, "sequence_length": 12288}),
    ("[rank0]:2025-02-13 11:33:29,482 - root - INFO - Training starts at step 1, with local batch size 1, global "
     "batch size 8, sequence length 8192, total steps 100 (warmup 200)",
     {"micro_batch": 1, "batch": 8, "sequence_length": 8192}),
    ("[titan] 2026-05-04 13:58:15,361 - root - INFO - Building device mesh with parallelism: pp=1, dp_replicate=1, "
     "dp_shard=2, cp=1, tp=2, ep=2", {"pipeline_parallel": 1, "tensor_parallel": 2}),
])  # fmt: skip
def test_what_it_says_before_its_first_step_is_its_parameters(text, expected):
    assert parameters(f"{text}\n{LINE}\n") == expected
    assert read_bytes(text.encode()).formats == []
