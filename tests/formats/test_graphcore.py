import pytest
import written

from hpcbench.parse.content import read_bytes

NAME = "graphcore"


def table(records, name):
    return [record.values for record in records if record.table == name]


def test_a_real_log_gives_every_step_once(corpus):
    data = (corpus / "training/other/graphcore_mnist_b8_e10_sarora.out").read_bytes()
    assert read_bytes(data).formats == [NAME]
    records, unread = written.read(NAME, data)
    steps = table(records, "steps")
    assert unread == 0
    assert [row["step"] for row in steps] == list(range(1, 1501))
    assert steps[0] == {"step": 1, "epoch": 1, "loss": 2.2961, "accuracy": 0.15, "warmup": True}
    assert steps[-1] == {"step": 1500, "epoch": 10, "loss": 1.4862, "accuracy": 0.975, "warmup": False}
    assert [row["epoch"] for row in table(records, "epochs")] == list(range(1, 11))
    assert [row["elapsed"] for row in table(records, "epochs")][-1] == 114
    assert [row["value"] for row in table(records, "counters")] == [23, 15]
    assert table(records, "evals") == [{"task": "test", "metric": "accuracy", "value": 0.9785}]


def test_what_a_homework_pasted_is_found_between_other_logs(corpus):
    data = (corpus / "training/cerebras/cerebras_sambanova_homework7_kharelb.md").read_bytes()
    records, _ = written.read(NAME, data)
    assert [record.values.get("value", record.values.get("elapsed")) for record in records] == [14, 108, 0.9872]


def bar(loss, done, of=6):
    return f"\rLoss: {loss:.4f} | Accuracy: 50.00% :  10%|#         | {done}/{of} [00:01<00:02, 17.50it/s]\n"


def test_steps_that_the_count_does_not_bear_out_have_no_number():
    log = bar(3, 0) + bar(3, 1) + bar(2.5, 1) + bar(2.4, 1) + bar(2.4, 4) + bar(2.3, 4) + bar(2.3, 5)
    steps = table(written.read(NAME, log)[0], "steps")
    assert [(row["loss"], row.get("step")) for row in steps] == [(3, 1), (2.5, None), (2.4, None), (2.3, 5)]


@pytest.mark.parametrize("line", ["Loss: 2.29", "Loss: 2.2961 | Accuracy: 15.00% :  0%| ", "Accuracy on test set: 97."])
def test_a_damaged_line_gives_no_number(line):
    assert written.read(NAME, line)[0] == []


def test_lines_that_other_programs_print_too_prove_nothing():
    text = bar(3, 0) + "Epochs:  10%|#  | 1/10 [00:33<05:03, 33.69s/it]\nAccuracy on test set: 97.85%\n"
    assert read_bytes(text.encode()).formats == []
