import pytest
import written
from said import parameters

from hpcbench.parse.content import read_bytes

BERT, APPS, GENERATION = "sambanova-bert", "sambanova", "sambanova-generation"


def table(records, name):
    return [record.values for record in records if record.table == name]


@pytest.mark.parametrize(("file", "formats"), [
    ("training/sambanova/sambanova_bertlarge_logs4_sarora.out", [APPS, BERT]),
    ("training/sambanova/sambanova_bertlarge_compile_base.out", [APPS]),
    ("training/sambanova/sambanova_starter_slurm.out", [APPS]),
    ("sites/sambanova_sn30_epoch_lines.txt", [APPS]),
    ("sites/sambanova_sn30_inner_train_loop.txt", [APPS]),
    ("sites/sambanova_sn30_modelzoo_epoch.txt", [APPS]),
    ("sites/sambanova_modelzoo_latency_throughputs.txt", [GENERATION]),
])  # fmt: skip
def test_a_real_log_is_recognised_and_read_whole(corpus, file, formats):
    content = read_bytes((corpus / file).read_bytes())
    assert (content.formats, content.unread) == (formats, 0)


def test_the_bert_application_gives_steps_with_times_and_its_summary(corpus):
    records, unread = written.read(
        BERT, (corpus / "training/sambanova/sambanova_bertlarge_logs4_sarora.out").read_bytes()
    )
    steps = table(records, "steps")
    assert (len(steps), unread) == (505, 0)
    assert [row["step"] for row in steps] == list(range(1, 506))
    assert {key: steps[112][key] for key in ("step", "epoch", "loss", "average_loss", "masked_lm_loss", "lr")} == {
        "step": 113, "epoch": 0, "loss": 10.05339, "average_loss": 10.05339, "masked_lm_loss": 9.37866, "lr": 1.57e-6,
    }  # fmt: skip
    assert steps[-1]["time"] - steps[0]["time"] == pytest.approx(424.689)
    assert {row["name"]: row["value"] for row in table(records, "counters")} == {
        "end_to_end_train_time": 431.60756158828735,
        "training_sequences_per_second": 153360.05642815933,
        "training_samples_per_second": 1198.1254408449947,
        "final_loss": 8.350910186767578,
    }


def test_a_compile_log_has_its_duration(corpus):
    records, _ = written.read(APPS, (corpus / "training/sambanova/sambanova_bertlarge_compile_base.out").read_bytes())
    assert table(records, "counters") == [{"name": "wall_time", "unit": "s", "value": 781}]
    assert [row["kind"] for row in table(records, "events")] == ["session_start", "compile_end"]


def test_each_process_of_the_starter_has_its_scores(corpus):
    records, _ = written.read(APPS, (corpus / "training/sambanova/sambanova_starter_slurm.out").read_bytes())
    evals = table(records, "evals")
    assert len(evals) == 16
    assert evals[0] == {"task": "test", "metric": "accuracy", "value": 0.8986}
    assert evals[1] == {"task": "test", "metric": "loss", "value": 0.3443}


def test_the_throughput_of_each_instance_is_read(corpus):
    records, _ = written.read(APPS, (corpus / "sites/sambanova_sn30_inner_train_loop.txt").read_bytes())
    counters = table(records, "counters")
    assert len(counters) == 16
    assert counters[:2] == [
        {"name": "train_time", "unit": "s", "value": 36.314290046691895},
        {"name": "end_to_end_samples_per_second", "unit": "samples/s", "value": 563.9653143065},
    ]


def test_one_generation_is_one_request(corpus):
    data = (corpus / "sites/sambanova_modelzoo_latency_throughputs.txt").read_bytes()
    records, unread = written.read(GENERATION, data)
    assert [(each.line, each.table, each.values) for each in records] == [
        (7, "requests", {"ttft": 1.1981, "tpot": 0.3330, "latency": 1.5310})
    ]
    assert unread == 0


SESSION = "Log ID initialized to: [me][python][7] at /var/log/sambaflow/runtime/sn.log\n"


def test_steps_count_on_through_the_epochs():
    log = "".join(f"Epoch [{e}/2], Step [{s}/3], Loss: 0.5000\n" for e in (1, 2) for s in (1, 2, 3))
    records, _ = written.read(APPS, SESSION + log)
    steps = table(records, "steps")
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    assert not any("attempt" in row for row in steps)


@pytest.mark.parametrize(("name", "line"), [
    (BERT, "epoch:0|local_step:3|global_step:3|average_loss:10.05339|step_loss:10.0"),
    (BERT, "epoch:0|local_step:3|glob"),
    (APPS, "Epoch [1/2], Step [3/10], Loss: 0.50"),
    (APPS, "Epoch [1/2], Step [3/1"),
    (APPS, "Test Accuracy: 91.40  Loss: 0.30"),
    (GENERATION, "    time to first token 1.1981s\n    tokens,  excluding first token 0.33"),
])  # fmt: skip
def test_a_damaged_line_is_counted_and_gives_no_number(name, line):
    assert written.read(name, line) == ([], 1)


@pytest.mark.parametrize("text", [
    "Epoch [1/2], Step [3/10], Loss: 0.5000\n",  # of any PyTorch tutorial
    "Test Accuracy: 91.40  Loss: 0.3014\n",
    "Duration: 781\n",
    "the time to first token 1.1981s was high\n",
])  # fmt: skip
def test_lines_of_other_programs_are_not_taken(text):
    assert read_bytes(text.encode()).formats == []


@pytest.mark.parametrize(("file", "expected"), [
    ("training/sambanova/sambanova_bertlarge_compile_base.out", {"sequence_length": 128, "micro_batch": 256}),
    ("training/sambanova/sambanova_bertlarge_logs4_sarora.out", {"sequence_length": 128, "micro_batch": 256}),
    ("training/sambanova/sambanova_starter_slurm.out", {"micro_batch": 1}),
    ("sites/sambanova_sn30_modelzoo_epoch.txt", {"batch": 8}),
    ("sites/sambanova_sn30_epoch_lines.txt", {}),
])  # fmt: skip
def test_what_a_real_run_says_of_itself_is_its_parameters(corpus, file, expected):
    assert parameters((corpus / file).read_bytes()) == expected
