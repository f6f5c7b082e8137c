import pytest
import written
from said import parameters

from hpcbench.formats import get
from hpcbench.parse.content import read_bytes

LINE = get("megatron").example


def rows(records, table):
    return [record.values for record in records if record.table == table]


# file, steps, scores, columns of the last step, its line
REAL = [
    (
        "training/megatron/megatron_ds3d_n16_dsoff.out", 62, 0,
        {"step": 62, "samples": 63488, "step_time": 125.2478, "loss": 20.43871, "loss_scale": 12, "grad_norm": 8.017,
         "global_batch_size": 1024, "skipped_iterations": 0, "nan_iterations": 0, "warmup": False}, 983,
    ),
    (
        "training/megatron/megatron_gpt2_n8_tp4_pp8_slurmcancel.out", 20, 4,
        {"step": 200, "samples": 800, "step_time": 1.6172, "loss": 7.534106}, 1548,
    ),
    (
        "excerpts/alcf_megatron_deepspeed_README.md", 6, 0,
        {"step": 200, "tokens": 629145600, "step_time": 14.5414, "samples_per_second": 52.815, "sequence_length": 4096,
         "tokens_per_second_per_device": 1126.713, "flops_per_second_per_device": 68.63e12}, 1130,
    ),
    (
        "excerpts/bloom_176B_chronicles.md", 18, 0,
        {"step": 45000, "step_time": 111.0, "loss": 2.113567, "rank": 7, "flops_per_second_per_device": 141.26e12},
        None,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("file", "steps", "scores", "last", "line"), REAL, ids=[each[0] for each in REAL])
def test_a_real_log_gives_every_iteration_and_score(corpus, file, steps, scores, last, line):
    records, unread = written.read("megatron", (corpus / file).read_bytes())
    found = rows(records, "steps")
    assert (len(found), len(rows(records, "evals")), unread) == (steps, scores, 0)
    assert last.items() <= found[-1].items()
    if line is not None:
        assert [record.line for record in records if record.table == "steps"][-1] == line


def test_the_validations_of_a_real_log_are_scores(corpus):
    file = corpus / "training/megatron/megatron_gpt2_n8_tp4_pp8_slurmcancel.out"
    records, _ = written.read("megatron", file.read_bytes())
    assert rows(records, "evals")[-2:] == [
        {"task": "validation", "metric": "loss", "value": 7.645013, "step": 200},
        {"task": "validation", "metric": "perplexity", "value": 2090.196, "step": 200},
    ]


def test_the_fields_of_this_version_are_read():
    [record] = written.read("megatron", LINE)[0]
    assert record.values == {
        "step": 20, "samples": 5120, "step_time": 0.6115, "flops_per_second_per_device": 402.3e12, "lr": 3e-6,
        "global_batch_size": 256, "loss": 10.50012, "loss_scale": 1, "grad_norm": 6.931, "skipped_iterations": 0,
        "nan_iterations": 0, "warmup": True,
    }  # fmt: skip


def test_fields_that_nobody_knows_may_stand_between():
    line = LINE.replace("| loss scale", "| mtp_1 loss: 2.5E+00 | loss scale").replace("1.0 |", "1.0 | num zeros: 0.0 |")
    [record] = written.read("megatron", line)[0]
    assert (record.values["loss"], record.values["loss_scale"], record.values["grad_norm"]) == (10.50012, 1, 6.931)


@pytest.mark.parametrize(("line", "step", "task", "values"), [
    (" validation loss at iteration 9 | lm loss value: 2.5E+00 | lm loss PPL: 1.2E+01 | ", 9, "validation", [2.5, 12]),
    (" validation loss at iteration 7 on validation set | lm loss value: 2.5E+00 | lm loss PPL: 1.2E+01 | ", 7,
     "validation", [2.5, 12]),
    (" validation loss at iteration 7 on test set | lm loss value: 2.5E+00 | lm loss PPL: 1.2E+01 | ", 7,
     "test", [2.5, 12]),
    ("validation loss at the end of training for test data | lm loss value: 2.5E+00 | lm loss PPL: 1.2E+01 | ", None,
     "test", [2.5, 12]),
])  # fmt: skip
def test_scores_name_what_they_were_measured_on(line, step, task, values):
    found = rows(written.read("megatron", line)[0], "evals")
    assert [(row["task"], row["value"], row.get("step")) for row in found] == [(task, value, step) for value in values]


@pytest.mark.parametrize("cut", [60, 75, 100])
def test_a_line_cut_before_its_time_gives_nothing(cut):
    line = LINE[:cut]
    assert written.read("megatron", line)[0] == []


def test_a_number_cut_short_is_not_read():
    cut = LINE[: LINE.index("lm loss") + len("lm loss: 1.05")]
    [record] = written.read("megatron", cut)[0]
    assert "loss" not in record.values
    assert record.values["lr"] == 3e-6


def test_two_lines_in_one_do_not_mix_their_fields():
    line = LINE[: LINE.index("| lm loss") + 15] + LINE.replace("20/", "21/").replace("1.050012E+01", "9.000000E+00")
    records, _ = written.read("megatron", line)
    assert [(row["step"], row.get("loss")) for row in rows(records, "steps")] == [(20, None), (21, 9.0)]


def test_prose_about_iterations_is_not_a_log():
    assert read_bytes(b"After iteration 200/1000 the elapsed time per iteration (ms): was about 1500.\n").formats == []


@pytest.mark.parametrize(("file", "expected"), [
    ("training/megatron/megatron_ds3d_n16_dsoff.out",
     {"batch": 1024, "micro_batch": 4, "sequence_length": 1024, "processes": 64, "tensor_parallel": 4,
      "pipeline_parallel": 16, "zero_stage": 1, "precision": "FP16"}),
    ("training/megatron/megatron_gpt2_n8_tp4_pp8_slurmcancel.out",
     {"batch": 4, "micro_batch": 1, "sequence_length": 1024, "processes": 32, "tensor_parallel": 4,
      "pipeline_parallel": 8, "precision": "FP16"}),
])  # fmt: skip
def test_the_arguments_of_a_real_run_are_its_parameters(corpus, file, expected):
    assert parameters((corpus / file).read_bytes()) == expected


def test_arguments_alone_are_no_log_of_it():
    line = "  global_batch_size ............................... 1024\n"
    assert read_bytes(line.encode()).formats == []
    head = "using world size: 8, data-parallel size: 8, context-parallel size: 1, tensor-model-parallel size: 1\n"
    assert parameters(f"{head}[default0]:{line}") == {"processes": 8, "batch": 1024}
