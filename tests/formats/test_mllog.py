import json

import pytest
import written
from said import parameters

from hpcbench.formats import get
from hpcbench.parse.content import read_bytes


def line(key, value=None, time_ms=1700000000000, **metadata):
    row = {"namespace": "", "time_ms": time_ms, "event_type": "x", "key": key, "value": value, "metadata": metadata}
    return f":::MLLOG {json.dumps(row)}\n"


def rows(records, table):
    return [record.values for record in records if record.table == table]


def test_a_real_log_judged_by_its_loss(corpus):
    data = (corpus / "training/mllog/mllog_amd_mi350x_llama31_8b_result2.txt").read_bytes()
    assert read_bytes(data).formats == ["mllog"]
    records, unread = written.read("mllog", data)
    assert unread == 0
    assert (len(rows(records, "steps")), len(rows(records, "evals"))) == (16, 16)
    last = rows(records, "evals")[-1]
    assert (last["metric"], last["value"], last["samples"]) == ("eval_accuracy", 3.2730205059051514, 196576)
    assert "epoch" not in last
    assert rows(records, "counters") == [{"name": "time_to_train", "value": 8087.535, "unit": "s"}]
    assert [(row["kind"], row["message"]) for row in rows(records, "events")] == [
        ("started", "run_start"), ("finished", "run_stop success"),
    ]  # fmt: skip
    assert [record.line for record in records if record.table == "counters"] == [140]


def test_a_real_run_that_succeeded_before_its_step_was_cancelled(corpus):
    data = (corpus / "training/mllog/mllog_supermicro_retinanet_step_timelimit.txt").read_bytes()
    assert read_bytes(data).formats == ["mllog"]
    records, unread = written.read("mllog", data)
    assert unread == 0
    assert [row["samples_per_second"] for row in rows(records, "steps")][-1] == 3903.0091620997932
    assert rows(records, "epochs")[0] == {"epoch": 0, "duration": 303.772, "rank": 0}
    assert [(row["epoch"], row["value"]) for row in rows(records, "evals")][-1] == (4, 0.3452189127798534)
    assert rows(records, "counters") == [{"name": "time_to_train", "value": 1338.049, "unit": "s"}]


def test_inference_is_another_formats(corpus):
    folder = corpus / "inference/mlperf_inference"
    data = (folder / "mlperf_log_detail_resnet50_tf220_offline.txt").read_bytes()
    assert "mllog" not in read_bytes(data).formats
    assert written.read("mllog", data)[0] == []


@pytest.mark.parametrize("status", ["aborted", None])
def test_a_run_that_did_not_succeed_has_no_time_to_train(status):
    records, _ = written.read("mllog", line("run_start") + line("run_stop", time_ms=1700000001000, status=status))
    assert rows(records, "counters") == []
    assert [row["kind"] for row in rows(records, "events")] == ["started", "finished"]


def test_an_epoch_without_an_end_has_no_duration():
    log = line("epoch_start", 1, epoch_num=1) + line("epoch_start", 2, epoch_num=2)
    records, _ = written.read("mllog", log + line("epoch_stop", 2, 1700000002500, epoch_num=2))
    assert rows(records, "epochs") == [{"epoch": 2, "duration": 2.5}]


@pytest.mark.parametrize("text", [
    get("mllog").example[:-3],
    ':::MLLOG {"key": "eval_accuracy", "value": "high", "time_ms": 1, "metadata": {}}',
    ':::MLLOG {"key": "eval_accuracy", "value": true, "time_ms": 1, "metadata": {}}',
    ':::MLLOG {"key": "eval_accuracy", "value": 0.5, "time_ms": null, "metadata": {}}',
    ':::MLLOG {"key": "eval_accuracy", "value": 0.5, "time_ms": 1, "metadata": null}',
    ':::MLLOG {"key": "eval_accuracy", "value": 0.5, "time_ms": 1, "metadata": "x"}',
    ':::MLLOG {"key": "run_start", "value": null, "time_ms": NaN, "metadata": {}}',
    ':::MLLOG {"key": "tracked_stats", "value": [3], "time_ms": 1, "metadata": {}}',
    ":::MLLOG {" + '"a": {' * 100000,
])  # fmt: skip
def test_a_damaged_line_is_counted_and_gives_no_number(text):
    assert written.read("mllog", text) == ([], 1)


@pytest.mark.parametrize(("file", "expected"), [
    ("mllog_amd_mi350x_llama31_8b_result2.txt",
     {"batch": 32, "sequence_length": 8192, "model": "llama31_8b", "device": "MI350X"}),
    ("mllog_supermicro_retinanet_step_timelimit.txt", {"batch": 256, "micro_batch": 32, "model": "retinanet"}),
])  # fmt: skip
def test_what_a_real_run_says_of_itself_is_its_parameters(corpus, file, expected):
    assert parameters((corpus / "training/mllog" / file).read_bytes()) == expected


def test_a_batch_that_is_no_number_is_counted():
    _, unread = written.read("mllog", line("global_batch_size", [1]) + line("run_start"))
    assert unread == 1
