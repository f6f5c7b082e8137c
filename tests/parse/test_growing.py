import gzip
import json
import sys
import tarfile
from itertools import islice

import pytest
import written

from hpcbench.parse import follow
from hpcbench.parse.engine import Choice
from hpcbench.parse.growing import Growing

CPU = Choice(("llmc-cpu",))
RESULT = {"backend": "vllm", "model_id": "m", "completed": 2, "request_throughput": 1.5, "mean_ttft_ms": 20.5}


def step(number, time=30.0):
    return f"step {number}: train loss 4.000000 (took {time:f} ms)\n"


def test_the_last_step_of_a_log_that_is_being_written(tmp_path):
    file = tmp_path / "stdout.log"
    file.write_text(written.llmc([30] * 5000) + "step 5000: train loss 4.0")
    log = Growing(file, CPU)
    assert log.update()
    assert (log.last_step()["step"], log.last_step()["step_time"]) == (4999, 0.03)
    assert not log.update()
    with file.open("a") as stream:
        stream.write("00000 (took 31.000000 ms)\n" + step(5001))
    assert log.update()
    assert log.last_step()["step"] == 5001
    steps = log.content().tables["steps"]
    assert list(steps["step"]) == list(range(5002))
    assert steps.line[-1] == written.llmc([30] * 5002).count("\n")


def test_a_log_that_was_written_anew_is_read_from_its_beginning(tmp_path):
    file = tmp_path / "stdout.log"
    file.write_text(step(7) * 3)
    log = Growing(file, CPU)
    log.update()
    file.write_text(step(1))
    assert log.update()
    assert log.last_step()["step"] == 1
    assert len(log.content().tables["steps"]) == 1


def test_lines_longer_than_a_stretch_do_not_stop_it(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules["hpcbench.parse.growing"], "STRETCH", 1000)
    file = tmp_path / "stdout.log"
    file.write_text("x" * 5000 + "\n" + step(1))
    log = Growing(file, CPU)
    log.update()
    assert log.last_step()["step"] == 1


@pytest.mark.parametrize("content", [b"", b"\n", b"no step here\n", b"\0" * 200_000])
def test_a_log_without_a_step_has_no_last_one(tmp_path, content):
    (tmp_path / "stdout.log").write_bytes(content)
    for name in ("stdout.log", "nowhere.log"):
        log = Growing(tmp_path / name, CPU)
        log.update()
        assert log.last_step() is None


def test_the_last_step_has_numbers_only(tmp_path):
    (tmp_path / "stdout.log").write_text('{"record": "step", "step": "x", "loss": null, "step_time": 0.5}\n')
    log = Growing(tmp_path / "stdout.log", Choice(("hpcbench-records",)))
    log.update()
    assert log.last_step() == {"step_time": 0.5}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_document_is_read_when_it_is_whole_and_again_when_it_changed(tmp_path, indent, end, mark):
    file = tmp_path / "result.json"
    text = mark + json.dumps(RESULT, indent=indent) + end
    file.write_text(text[:-20])
    log = Growing(file, Choice())
    log.update()
    assert log.content().formats == []
    file.write_text(text)
    assert log.update()
    content = log.content()
    assert (content.formats, content.unread) == (["vllm-bench-json"], 0)
    assert not log.update()
    file.write_text(text.replace("20.5", "40.50"))
    assert log.update()
    counters = log.content().tables["counters"]
    assert dict(zip(counters["name"], counters["value"], strict=True))["ttft_mean"] == 0.0405


def test_a_document_that_is_too_large_is_not_read_whole(tmp_path, monkeypatch):
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    log = Growing(tmp_path / "result.json", Choice())
    monkeypatch.setattr(sys.modules["hpcbench.parse.growing"], "_WHOLE", 10)
    assert log.update()
    assert log.content().formats == []


def test_the_end_of_a_line_that_is_not_written_yet_gives_no_row(tmp_path):
    (tmp_path / "stdout.log").write_text(step(1) + "step 2: train loss 4.000000 (took 30.0")
    log = Growing(tmp_path / "stdout.log", Choice())
    log.update()
    content = log.content()
    assert (list(content.tables["steps"]["step"]), content.unread) == ([1], 0)


def test_a_packed_log_is_read_again_when_it_changed(tmp_path):
    file = tmp_path / "train.log.gz"
    log = Growing(file, CPU)
    for count in (3, 5):
        file.write_bytes(gzip.compress(written.llmc([30] * count).encode()))
        assert log.update()
        assert not log.update()
        for _ in range(2):
            content = log.content()
            content.tables["steps"]["added"] = 1.0
            assert len(content.tables["steps"]) == count
        assert "added" not in log.content().tables["steps"]


@pytest.mark.parametrize("data", [b"\x1f\x8bx", b"\x89PNG" + b"step 1: train loss 4.000000 (took 30.0 ms)\n" * 9])
def test_what_cannot_be_read_is_empty(tmp_path, data):
    (tmp_path / "train.log").write_bytes(data)
    log = Growing(tmp_path / "train.log", CPU)
    log.update()
    assert log.content().tables == {}
    assert log.last_step() is None


def test_following_shows_documents_and_packed_logs_and_leaves_archives_out(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps(RESULT))
    (tmp_path / "train.log.gz").write_bytes(gzip.compress(written.llmc([30] * 3).encode()))
    with tarfile.open(tmp_path / "z.tar", "w") as archive:
        archive.add(tmp_path / "train.log.gz", "train.log.gz")
    (metrics,) = islice(follow(tmp_path), 1)
    assert list(metrics.sources["format"]) == ["vllm-bench-json", "llmc-cpu", ""]
    assert len(metrics.steps) == 3
