import pytest
import written
from said import parameters, read

from hpcbench.formats import get
from hpcbench.parse.content import read_bytes

HEAD = "[2024-02-03 09:10:11,123] [INFO] "


def test_a_real_pipeline_log_gives_every_step(corpus):
    records, unread = read("deepspeed", (corpus / "training/deepspeed/ds_pipeline_parallel_console.txt").read_bytes())
    assert (len(records), unread) == (41, 0)
    rate, loss = records[-2], records[-1]
    assert (rate.line, loss.line) == (253, 254)
    assert rate.values == {
        "step": 200, "skipped_steps": 0, "lr": 0.001, "time": pytest.approx(1690204532.649), "warmup": False,
    }  # fmt: skip
    assert loss.values == {
        "step": 200, "loss": 1.5927, "step_time": 0.332, "samples_per_second": 771.709, "warmup": False,
    }  # fmt: skip


def test_the_engine_and_the_timer_of_a_real_log_are_read(corpus):
    records, unread = written.read("deepspeed", (corpus / "excerpts/alcf_megatron_deepspeed_README.md").read_bytes())
    assert (len(records), unread) == (8, 0)
    assert records[-2].values["skipped_steps"] == 4
    assert records[-2].values["lr"] == 0.000240653265864008
    last = records[-1].values
    assert (last["step"], last["samples_per_second"], last["mean_samples_per_second"]) == (
        200, 58.75503515561452, 58.730745476291396,
    )  # fmt: skip
    assert (last["memory_allocated"], last["max_device_memory"]) == (6.01 * 2**30, 19.52 * 2**30)


def test_a_log_of_several_programs_gives_what_deepspeed_says(corpus):
    content = read_bytes((corpus / "training/deepspeed/hf_ds_gpt2_n16.out").read_bytes())
    assert "deepspeed" in content.formats
    assert content.tables["steps"]["lr"].tolist() == [5e-5] * 3


def test_the_timer_of_an_older_version_is_read():
    line = f"{HEAD}[timer.py:154:stop] 0/30, SamplesPerSec=12.5, MemAllocated=1.0GB, MaxMemAllocated=2.0GB\n"
    [record] = written.read("deepspeed", line)[0]
    assert (record.values["step"], record.values["mean_samples_per_second"]) == (30, 12.5)


@pytest.mark.parametrize("line", [
    get("deepspeed").example[:-40],
    f"{HEAD}[logging.py:96:log_dist] [Rank 0] step=10, skipped=1, lr=[0.0003, 0.00",
    f"{HEAD}[timer.py:260:stop] epoch=0/micro_step=9/global_step=9, RunningAvgSamplesPerSec=5.5, CurrSamplesPerSec=6",
    "steps: 10 loss: 2.2985 iter time (s): 0.400 samples/sec: 63",
    "steps: 10 loss: 2.2985 iter time (s): 0.400 samples/sec: 639.687steps: 20",
])  # fmt: skip
def test_a_damaged_line_is_counted_and_gives_no_number(line):
    assert written.read("deepspeed", line) == ([], 1)


def test_a_description_of_such_lines_is_not_a_log():
    text = (
        b"| last [Rank 0] step=200, skipped=0, lr=[0.001], mom=[[0.9, 0.999]] |\nsteps: 10 of 20, samples/sec: many\n"
    )
    assert read_bytes(text).formats == []


def test_the_configuration_of_a_real_run_is_its_parameters(corpus):
    assert parameters((corpus / "training/deepspeed/ds_pipeline_parallel_console.txt").read_bytes()) == {
        "batch": 256, "micro_batch": 8, "data_parallel": 1, "zero_stage": 0,
    }  # fmt: skip


def test_runs_of_several_batches_in_one_log_have_none(corpus):
    data = (corpus / "training/deepspeed/hf_ds_gpt2_n16.out").read_bytes()
    assert parameters(data) == {"data_parallel": 64, "zero_stage": 3, "precision": "FP16"}


def test_the_configuration_alone_tells_what_a_run_was():
    line = f"{HEAD}[config.py:752:print]   train_batch_size ............. 2048\n"
    assert parameters(line) == {"batch": 2048}
    assert parameters(line.replace("2048", "auto")) == {}
