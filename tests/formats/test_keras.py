import math

import pytest
import written

from hpcbench.formats import get
from hpcbench.parse.content import read_bytes


def rows(records, table):
    return [record.values for record in records if record.table == table]


@pytest.mark.parametrize(("file", "epochs", "scores", "runs", "line", "last"), [
    ("training/keras/keras_kanji_model_log.txt", 66, 99, 4, 138, {"epoch": 14, "loss": 0.0455, "duration": 274}),
    ("training/keras/keras_verbose2_0508_results.txt", 329, 658, 22, 789,
     {"epoch": 14, "loss": 0.7125, "validation_loss": 1.7588, "duration": 141}),
])  # fmt: skip
def test_a_real_log_gives_every_epoch_of_every_run(corpus, file, epochs, scores, runs, line, last):
    data = (corpus / file).read_bytes()
    assert read_bytes(data).formats == ["keras"]
    records, unread = written.read("keras", data)
    found = rows(records, "epochs")
    assert (len(found), len(rows(records, "evals")), unread) == (epochs, scores, 0)
    assert found[-1] == {**last, "attempt": runs}
    assert [record.line for record in records if record.table == "epochs"][-1] == line


def test_scores_of_a_real_log_belong_to_their_epoch(corpus):
    records, _ = written.read("keras", (corpus / "training/keras/keras_verbose2_0508_results.txt").read_bytes())
    assert rows(records, "evals")[-2:] == [
        {"task": "training", "metric": "accuracy", "value": 0.7906, "epoch": 14, "attempt": 22},
        {"task": "validation", "metric": "accuracy", "value": 0.5495, "epoch": 14, "attempt": 22},
    ]


def test_early_stopping_is_an_event(corpus):
    records, _ = written.read("keras", (corpus / "training/keras/keras_kanji_model_log.txt").read_bytes())
    assert [row["kind"] for row in rows(records, "events")] == ["early_stopping", "early_stopping"]


BAR = "[==============================]"


@pytest.mark.parametrize("line", [
    "14/14 - 3s - 213ms/step - accuracy: 0.8125 - loss: 0.5432",  # Keras 3
    "14/14 - 3s - loss: 0.5432 - accuracy: 0.8125 - 3s/epoch - 213ms/step",  # 2.6 and later
    f"14/14 {BAR} - 3s 213ms/step - loss: 0.5432 - accuracy: 0.8125",
    "\x1b[1m14/14\x1b[0m \x1b[32m━━━━━━━━━━━━━━━━━━━━\x1b[0m\x1b[37m\x1b[0m \x1b[1m3s\x1b[0m 213ms/step"
    " - accuracy: 0.8125 - loss: 0.5432",
])  # fmt: skip
def test_all_versions_say_the_same(line):
    records, unread = written.read("keras", f"Epoch 2/3\n{line}\n")
    assert unread == 0
    assert rows(records, "epochs") == [{"epoch": 2, "duration": 3, "step_time": 0.213, "loss": 0.5432}]
    assert rows(records, "evals") == [{"epoch": 2, "task": "training", "metric": "accuracy", "value": 0.8125}]


@pytest.mark.parametrize("line", ["5s - loss: 0.5432 - acc: 0.8125", " - 5s - loss: 0.5432 - acc: 0.8125"])
def test_old_versions_do_not_say_how_long_a_step_took(line):
    records, _ = written.read("keras", f"Epoch 2/3\n{line}\n")
    assert rows(records, "epochs") == [{"epoch": 2, "duration": 5, "loss": 0.5432}]


def test_of_a_progress_bar_the_last_state_of_an_epoch_counts():
    log = (
        "Epoch 1/2\n"
        " 10/100 [==>...........................] - ETA: 5s - loss: 0.9000 - accuracy: 0.5000\r"
        f"100/100 {BAR} - 5s 52ms/step - loss: 0.5000 - accuracy: 0.7500\r"
        f"100/100 {BAR} - 6s 60ms/step - loss: 0.5000 - accuracy: 0.7500 - val_loss: 0.6000 - val_accuracy: 0.6250\n"
    )
    records, unread = written.read("keras", log)
    assert unread == 0
    assert [(record.line, record.values) for record in records if record.table == "epochs"] == [
        (2, {"epoch": 1, "duration": 6, "step_time": 0.06, "loss": 0.5, "validation_loss": 0.6})
    ]
    assert [(row["task"], row["value"]) for row in rows(records, "evals")] == [
        ("training", 0.75),
        ("validation", 0.625),
    ]


def test_what_follows_the_last_epoch_is_an_evaluation():
    log = "Epoch 1/1\n14/14 - 3s - loss: 0.5000 - accuracy: 0.7500\n5/5 - 0s - loss: 0.6000 - accuracy: 0.6250\n"
    records, _ = written.read("keras", log)
    assert [row["loss"] for row in rows(records, "epochs")] == [0.5]
    assert rows(records, "evals")[1:] == [
        {"task": "evaluation", "metric": "loss", "value": 0.6},
        {"task": "evaluation", "metric": "accuracy", "value": 0.625},
    ]


def test_an_epoch_whose_header_is_gone_has_no_number():
    records, _ = written.read("keras", get("keras").example)
    [row] = rows(records, "epochs")
    assert (row["loss"], row["validation_loss"], math.isnan(row.get("epoch", math.nan))) == (0.5432, 0.6012, True)


def test_small_values_have_an_exponent():
    [row] = rows(written.read("keras", "Epoch 1/1\n9/9 - 3s - loss: 4.2500e-04 - lr: 1.0000e-03\n")[0], "epochs")
    assert (row["loss"], row["lr"]) == (4.25e-4, 1e-3)


@pytest.mark.parametrize("line", [
    "14/14 - 3s - loss: 0.54",
    "14/14 - 3s - loss: 0.5432 - accuracy: 0.8",
    "14/14 - 3s - loss: 0.5432 - accuracy: 0.8125Epoch 3/3",
    "224s - loss: 0.5432 - val_lo",
    "14/14 - 3s - loss: ",
])  # fmt: skip
def test_a_damaged_line_is_counted_and_gives_no_number(line):
    records, unread = written.read("keras", f"Epoch 2/3\n{line}\n")
    assert (records, unread) == ([], 1)


@pytest.mark.parametrize("text", [
    "Epoch 1/10\nstep 10/14 - loss: 0.5432 - acc: 0.8125\n",
    "Epoch 1/10\n",
    "The best run took 12s - loss: 0.5432 was its last line.\n",
])  # fmt: skip
def test_words_that_look_alike_are_not_a_log(text):
    assert read_bytes(text.encode()).formats == []


def test_ranks_that_write_between_each_other_keep_their_epochs():
    log = "0: Epoch 1/2\n1: Epoch 1/2\n0: 9/9 - 3s - loss: 0.5000\n0: Epoch 2/2\n1: 9/9 - 4s - loss: 0.6000\n"
    records, _ = written.read("keras", log)
    assert [(row["rank"], row["epoch"], row["loss"]) for row in rows(records, "epochs")] == [(0, 1, 0.5), (1, 1, 0.6)]
