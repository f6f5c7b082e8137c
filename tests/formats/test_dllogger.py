import json

import pytest
import written
from said import parameters

from hpcbench.formats import get
from hpcbench.parse.content import read_bytes

HEAD = "DLL 2022-04-15 05:20:00.250000 - "
TIME = 1650000000.25


def line(step, data, kind="LOG"):
    row = {"timestamp": str(TIME), "elapsedtime": "1.5", "datetime": "x", "type": kind, "step": step, "data": data}
    return f"DLLL {json.dumps(row)}\n"


def unit(metric, name):
    row = {"timestamp": str(TIME), "type": "METADATA", "metric": metric, "metadata": {"unit": name, "format": ":.3f"}}
    return f"DLLL {json.dumps(row)}\n"


def found(records):
    return [(record.table, record.values) for record in records]


def test_a_file_with_nothing_but_units_is_no_log(corpus):
    content = read_bytes((corpus / "training/tf_bert/a100_bert_dllogger.json").read_bytes())
    assert (content.formats, content.tables, content.unread) == ([], {}, 0)


def test_a_run_that_fails_before_its_first_line_gives_nothing(corpus):
    content = read_bytes((corpus / "training/tf_bert/a100_bert_out.stdout").read_bytes())
    assert not {"dllogger", "dllogger-json", "keras"} & set(content.formats)


def test_json_lines_are_steps_epochs_scores_and_numbers_of_the_run():
    log = unit("train_time", "ms") + unit("throughput_train", "seq/s") + line("PARAMETER", {"seed": 3})
    log += line([1, 20], {"train.loss": 2.5, "train.total_ips": 100.5, "train.lr": 0.125, "note": "x", "flag": True})
    log += line([1], {"train.loss": 2.25, "val.top1": 62.5})
    log += line([], {"train_time": 1500, "throughput_train": 99.5})
    records, unread = written.read("dllogger-json", log)
    assert unread == 0
    assert found(records) == [
        ("steps", {"epoch": 1, "step": 20, "time": TIME, "loss": 2.5, "samples_per_second": 100.5, "lr": 0.125}),
        ("epochs", {"epoch": 1, "time": TIME, "loss": 2.25}),
        ("evals", {"epoch": 1, "time": TIME, "task": "validation", "metric": "top1", "value": 62.5}),
        ("counters", {"name": "train_time", "value": 1.5, "unit": "s"}),
        ("counters", {"name": "throughput_train", "value": 99.5, "unit": "samples/s"}),
    ]


def test_steps_that_begin_again_with_each_epoch_are_no_attempts():
    log = "".join(line([epoch, step], {"train.loss": 2.5}) for epoch in (0, 1) for step in (0, 1))
    records, _ = written.read("dllogger-json", log)
    assert [record.values for record in records] == [
        {"epoch": epoch, "iteration": step, "time": TIME, "loss": 2.5} for epoch in (0, 1) for step in (0, 1)
    ]


@pytest.mark.parametrize(("text", "expected"), [
    ("Iteration: 16  throughput_train : 145.250 seq/s mlm_loss : 9.5  total_loss : 10.5 ",
     [("steps", {"step": 16, "time": TIME, "samples_per_second": 145.25, "mlm_loss": 9.5, "loss": 10.5})]),
    ("(3, 129) train_loss : 0.25 ", [("steps", {"epoch": 3, "step": 129, "time": TIME, "loss": 0.25})]),
    ("(3,) train_epoch_time : 436.5 ", [("epochs", {"epoch": 3, "time": TIME, "duration": 436.5})]),
    ("Epoch: 2 Iteration: 7  loss : nan  lr : 5e-06 ",
     [("steps", {"epoch": 2, "step": 7, "time": TIME, "lr": 5e-6})]),
    ("() throughput_train : 99.5 seq/s ",
     [("counters", {"name": "throughput_train", "value": 99.5, "unit": "samples/s"})]),
    ("PARAMETER seed : 3 ", []),
])  # fmt: skip
def test_lines_for_people_say_the_same(text, expected):
    records, unread = written.read("dllogger", HEAD + text + "\n")
    assert unread == 0
    assert [each for each in found(records) if each[0] != "events"] == expected


def test_a_value_at_the_very_end_may_be_cut_and_is_not_read():
    [record] = written.read("dllogger", f"{HEAD}(3, 129) train_loss : 0.25  train_lr : 0.12")[0]
    assert "lr" not in record.values


@pytest.mark.parametrize("text", [
    get("dllogger-json").example[:-9],
    'DLLL {"type": "LOG", "step": [1], "data": 3, "timestamp": "1"}',
    'DLLL {"type": "METADATA", "metric": "loss", "metadata": 3}',
    'DLLL {"type": "LOG", "step": {"a": 1}, "data": {}, "timestamp": "1"}',
    'DLLL {"type": "LOG", "step": [1], "data": {"loss": 1.5}, "timestamp": null}',
    "DLLL {" + '"a": [' * 100000,
])  # fmt: skip
def test_a_damaged_line_is_counted_and_gives_no_number(text):
    assert written.read("dllogger-json", text) == ([], 1)


@pytest.mark.parametrize("text", ["KERNEL32.DLL 2020-04-20 22:44:38 - loaded\n", "DLL 2022-04-15 - size : 12 MB\n"])
def test_libraries_of_windows_are_no_log(text):
    assert read_bytes(text.encode()).formats == []


def test_what_a_program_was_told_is_its_parameters():
    step = line([1, 20], {"train.loss": 2.5})
    assert parameters(line("PARAMETER", {"batch_size": 32, "seed": 3, "amp": True}) + step) == {"micro_batch": 32}
    plain = (
        f"{HEAD}PARAMETER SEED : 12439 \n{HEAD}PARAMETER train_start : True \n{HEAD}PARAMETER batch_size_per_pu : 64 \n"
    )
    assert parameters(plain) == {"micro_batch": 64}
