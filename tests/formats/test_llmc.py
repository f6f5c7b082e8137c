import math

import pytest
import written
from said import parameters

from hpcbench.parse.content import read_bytes

CPU, CUDA, MAIN = "llmc-cpu", "llmc-cuda", "llmc-main-log"


def read(name, data):
    return written.read(name, data)


def table(records, name):
    return [record.values for record in records if record.table == name]


# file, format, training steps, the last one's values, scores, the last one's values, damaged lines
REAL = [
    (
        "sites/llmc_cpu_train_gpt2_readme.txt", CPU, 5,
        {"step": 39, "loss": 3.970751, "step_time": 1.323779, "warmup": False},
        2, {"task": "validation", "metric": "loss", "value": 4.107781, "step": 40}, 0,
    ),
    (
        "sites/llmc_cpu_train_gpt2_run_tiny.txt", CPU, 41,
        {"step": 40, "loss": 5.525311, "step_time": 0.051307461},
        5, {"value": 5.519736, "step": 40}, 0,
    ),
    ("excerpts/llmc_README_cpu_output.md", CPU, 5, {"step": 39, "step_time": 1.323779}, 2, {"value": 4.107781}, 0),
    (
        "sites/llmc_cuda_train_gpt2cu_a800.txt", CUDA, 5,
        {"step": 5, "loss": 10.107232, "grad_norm": 5.9631, "lr": 1.43e-5, "step_time": 2.39687,
         "tokens_per_second": 191497},
        1, {"value": 11.006021, "step": 0}, 0,
    ),
    (
        "sites/llmc_cuda_a100_slurm_steps.txt", CUDA, 2,
        {"step": 80, "loss": 7.512386, "step_time": 4.18758, "mfu": 0.322, "tokens_per_second": 125356}, 0, None, 0,
    ),
    (
        "training/llmc_cuda/llmc_cuda_124M_full_19560.log", CUDA, 13043,
        {"step": 19560, "loss": 3.253402, "grad_norm": 0.2241, "lr": 0, "step_time": 4.36824, "mfu": 0.309,
         "tokens_per_second": 122878},
        107,
        {"task": "hellaswag", "metric": "accuracy", "correct": 3059, "count": 10042, "value": 0.304621, "step": 19560},
        1,
    ),
    (
        "training/llmc_cuda/llmc_cuda_nan_timelimit.log", CUDA, 99,
        {"step": 99, "loss": math.nan, "grad_norm": math.nan, "step_time": 3.61367, "tokens_per_second": 144865},
        1, {"value": math.nan, "step": 0}, 1,
    ),
    (
        "training/llmc_mainlog/llmc_main_siddanth.log", MAIN, 19552,
        {"step": 19551, "loss": 3.2813, "lr": 0, "grad_norm": 0.23},
        159, {"task": "hellaswag", "value": 0.3054, "step": 19552}, 0,
    ),
    (
        "training/llmc_mainlog/s_tel_only_medium.log", MAIN, 0, None,
        241, {"task": "validation", "value": 2.9282, "step": 60000}, 0,
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "name", "steps", "last_step", "scores", "last_score", "damaged"), REAL, ids=[each[0] for each in REAL]
)
def test_a_real_log_gives_every_step_and_score(corpus, file, name, steps, last_step, scores, last_score, damaged):
    data = (corpus / file).read_bytes()
    records, unread = read(name, data)
    found, evals = table(records, "steps"), table(records, "evals")
    assert (len(found), len(evals), unread) == (steps, scores, damaged)
    for rows, last in ((found, last_step), (evals, last_score)):
        for key, value in (last or {}).items():  # to the last digit printed; nan is nan
            assert rows[-1].get(key) == value or (math.isnan(value) and key not in rows[-1]), key


def test_a_record_names_its_line(corpus):
    file = corpus / "training/llmc_cuda/llmc_cuda_124M_full_19560.log"
    records, _ = read(CUDA, file.read_bytes())
    lines = file.read_bytes().split(b"\n")
    assert records[-1].table == "evals"
    words = {"evals": ("val loss", "HellaSwag"), "parameters": ("|",)}
    for record in [*records[:20], *records[::500]]:
        line = lines[record.line - 1].decode()
        step = f"step {record.values.get('step', 0):4.0f}/19560"
        assert any(word in line for word in words.get(record.table, (step,)))


def test_each_validation_of_the_cpu_program_has_the_step_it_came_before(corpus):
    records, _ = read(CPU, (corpus / "sites/llmc_cpu_train_gpt2_run_tiny.txt").read_bytes())
    assert [row["step"] for row in table(records, "evals")] == [0, 10, 20, 30, 40]


def test_scores_between_steps_of_the_gpu_program_have_the_number_of_steps_done():
    log = "val loss 11.000000\n"
    log += "step    1/2 | loss 10.0 (+nanz)| norm 1.0 (+nanz)| lr 1.00e-06 | 10.00 ms | 30.0% bf16 MFU | 100 tok/s\n"
    log += "val loss 9.000000\n"
    records, unread = read(CUDA, log)
    assert [(row["value"], row["step"]) for row in table(records, "evals")] == [(11, 0), (9, 1)]
    assert unread == 0


def test_a_resumed_run_of_the_gpu_program_goes_on_counting():
    log = "val loss 4.000000\n"
    log += (
        "step 5001/9000 | loss 4.1 (+0.10z)| norm 1.0 (-0.20z)| lr 1.00e-04 | 10.00 ms | 30.0% bf16 MFU | 100 tok/s\n"
    )
    records, _ = read(CUDA, log)
    assert [row["step"] for row in table(records, "evals")] == [5000]


def test_the_fp32_program_and_the_average_at_the_end_are_read():
    log = "step    1/74: train loss 4.367631 (80.639749 ms, 50794 tok/s)\n"
    log += "total average iteration time: 2545.383811 ms\n"
    records, _ = read(CUDA, log)
    assert table(records, "steps") == [
        {"step": 1, "loss": 4.367631, "step_time": 0.080639749, "tokens_per_second": 50794, "warmup": True}
    ]
    assert table(records, "counters") == [{"name": "mean_step_time", "unit": "s", "value": 2.545383811}]


def test_an_unknown_gpu_has_no_share_of_peak(corpus):
    records, _ = read(CUDA, (corpus / "sites/llmc_cuda_train_gpt2cu_a800.txt").read_bytes())
    assert all(math.isnan(row.get("mfu", math.nan)) for row in table(records, "steps"))


def test_only_the_first_step_is_warm_up():
    records, _ = read(CPU, "".join(f"step {step}: train loss 5.000000 (took 10.000000 ms)\n" for step in range(4)))
    assert [row["warmup"] for row in table(records, "steps")] == [True, False, False, False]


def test_the_first_step_of_a_second_run_in_the_same_file_is_warm_up_too():
    run = "".join(f"step {step}: train loss 5.000000 (took 10.000000 ms)\n" for step in range(3))
    records, _ = read(CPU, run + run)
    assert [row["warmup"] for row in table(records, "steps")] == [True, False, False] * 2


@pytest.mark.parametrize("ending", ["\r\n", " \n", "\t\r\n"])
def test_line_endings_of_other_systems_are_read(ending):
    records, unread = read(CPU, f"val loss 5.252026{ending}step 0: train loss 5.356189 (took 1452.121000 ms){ending}")
    assert [record.values.get("value", record.values.get("step_time")) for record in records] == [5.252026, 1.452121]
    assert unread == 0


LINE = "step 3: train loss 4.600470 (took 1290.761000 ms)\n"


# what a kill, a full disk or a second writer leaves of a line
@pytest.mark.parametrize(("name", "line"), [
    (CPU, "step 4: train loss 4.3"),
    (CPU, "step 4: train loss 4.300000 (took 12"),
    (CPU, "step 4: train loss 4.300000 (took 1290.761000 ms"),
    (CPU, "val loss 5.25"),
    (CPU, "val loss 5."),
    (CPU, "step 4: train loss \0\0\0\0 (took 1290.761000 ms)"),
    (CPU, "step 4: train loss 4,300000 (took 1290,761000 ms)"),
    (CUDA, "step  100/19560 | loss     nan (+nanz)| norm    nan (+nanz)| lr 8.57e-05 | 3616."),
    (CUDA, "val loss 3.26"),
    (MAIN, "s:100 trl:3."),
    (MAIN, "s:100 trl:3.2345 lr:0.00"),
    (MAIN, "s:100 trl:3.2345 lr:0.000123 norm:0.2"),
    (MAIN, "s:250 tel:6.3"),
])  # fmt: skip
def test_a_damaged_line_is_counted_and_gives_no_number(name, line):
    records, unread = read(name, line)
    assert (records, unread) == ([], 1)


def test_bytes_that_are_no_text_do_not_hide_the_lines_between_them():
    records, unread = read(CPU, b"\xff\xfe\0" + bytes(range(128, 256)) + b"\n" + LINE.encode() + b"caf\xe9 \0\n")
    assert [record.values["step"] for record in records] == [3]
    assert unread == 0


def test_prose_about_a_run_is_not_read_as_one():
    assert read(CPU, "At step 3: train loss 4.600470 (took 1290.761000 ms) was seen.\n  val loss 5.252026\n")[0] == []


@pytest.mark.parametrize("loss", ["nan", "-nan"])
def test_a_loss_that_stops_being_a_number_is_an_event_at_its_first_step(loss):
    log = LINE + "".join(f"step {step}: train loss {loss} (took 1290.761000 ms)\n" for step in (4, 5))
    records, _ = read(CPU, log)
    assert [math.isnan(row.get("loss", math.nan)) for row in table(records, "steps")] == [False, True, True]
    events = [record for record in records if record.table == "events"]
    assert [(event.line, event.values) for event in events] == [
        (2, {"kind": "nan_loss", "message": "the loss of step 4 is not a finite number"})
    ]


def test_a_run_that_found_no_memory_says_how_it_was_set_up(corpus):
    assert parameters((corpus / "failures/llmc_cuda_oom.log").read_bytes()) == {
        "micro_batch": 64, "sequence_length": 1024, "total_batch": 524288, "precision": "BF16", "model": "d12",
        "device": "NVIDIA A100-PCIE-40GB", "processes": 1,
    }  # fmt: skip


def test_a_row_of_its_table_is_no_other_programs_log():
    row = b"| total batch size      | 524288                                             |\n"
    assert read_bytes(row).formats == []
