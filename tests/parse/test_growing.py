import sys

import pytest
import written

from hpcbench.parse.engine import Choice
from hpcbench.parse.growing import Growing

CPU = Choice(("llmc-cpu",))


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
