import answered
import pytest
import toy
import written

import hpcbench
from hpcbench.analyse.phases import PHASES, phases
from hpcbench.parse import parse


def durations(path, **options):
    table = phases(parse(path, cache=False, **options))
    return dict(zip(table.phase, table.duration, strict=True))


def test_a_real_run_on_a_wafer_adds_up_to_its_wall_time(corpus):
    found = durations(corpus / "sites/cerebras_llama2_7b_bs128_fresh_compile.log")
    assert found["compile"] == pytest.approx(3421.353)  # 57 minutes, of which 30 s in the queue are not counted
    assert found["programming"] == pytest.approx(235.938)
    assert found["checkpoint"] == pytest.approx(8.431 + 644.089)
    assert found.get("warm-up", 0) + found["steady"] == pytest.approx(789.168)
    # from the first stamp to the last; "Processed ... in 5389.3 seconds" says the same
    assert sum(found.values()) == pytest.approx(5388.7, abs=1)


def test_where_steps_have_no_stamps_their_own_times_are_summed(tmp_path):
    written.case(tmp_path / "r" / "a", written.records(*written.steps([9, 1, 1, 1])))
    found = durations(written.run(tmp_path / "r"))
    assert found == {"warm-up": 9, "steady": 3, "other": 48.5}  # the exit record says 60.5


def event(kind, time):
    return {"record": "event", "kind": kind, "time": time}


def test_of_phases_that_are_open_at_once_the_last_has_the_time(tmp_path):
    events = [
        event("compile_start", 0), event("queue_start", 10), event("queue_end", 30), event("compile_end", 100),
        event("checkpoint_start", 150), event("finished", 200),
    ]  # fmt: skip
    (tmp_path / "a.log").write_text(written.records(*events))
    assert durations(tmp_path / "a.log") == {"queue": 20, "compile": 80, "other": 100}


def test_processes_at_once_share_the_time_equally(tmp_path):
    """Two processes import and load a model together; the first scores alone, then a third loads."""
    rows = answered.phases(0, 0.0, [("import", 4.0), ("model", 6.0), ("score", 10.0)])
    rows += answered.phases(1, 0.0, [("import", 6.0), ("model", 4.0)])
    rows += answered.phases(2, 20.0, [("import", 5.0)])
    (tmp_path / "a.log").write_text(written.records(*rows, event("finished", 30)))
    assert durations(tmp_path / "a.log") == {"import": 4 + 1 + 5, "load model": 1 + 4, "score": 10, "other": 5}


def test_the_phases_of_a_process_among_others_do_not_end_theirs(tmp_path):
    """Both open a phase of the same name, and each closes its own."""
    events = [
        {**event(kind, time), "process": process}
        for kind, time, process in (
            ("score_start", 0, 0),
            ("score_start", 0, 1),
            ("score_end", 10, 1),
            ("score_end", 40, 0),
        )
    ]
    (tmp_path / "a.log").write_text(written.records(*events))
    assert durations(tmp_path / "a.log") == {"score": 40}


@pytest.mark.parametrize("process", ["first", None, [1], 1e300, "NaN", True])
def test_a_process_may_be_called_anything(tmp_path, process):
    rows = [{**row, "process": process} for row in answered.phases(0, 0.0, [("import", 4.0)])]
    (tmp_path / "a.log").write_text(written.records(*rows, *answered.phases(1, 0.0, [("import", 4.0)])))
    assert durations(tmp_path / "a.log")["import"] == 4


def test_a_checkpoint_between_steps_is_not_training(tmp_path):
    rows = [event("run_start", 0)]
    rows += [{"record": "step", "step": step, "time": 10.0 * step, "step_time": 10.0} for step in (1, 2, 3)]
    rows += [event("checkpoint_start", 30), event("checkpoint_end", 70)]
    rows += [{"record": "step", "step": step, "time": 40 + 10.0 * step, "step_time": 10.0} for step in (4, 5)]
    (tmp_path / "a.log").write_text(written.records(*rows))
    assert durations(tmp_path / "a.log") == {"steady": 50, "checkpoint": 40}


def test_a_log_that_tells_no_time_has_no_phases(tmp_path):
    (tmp_path / "a.log").write_text("s:0 trl:11.0116 lr:0.000001 norm:14.96\n")
    assert durations(tmp_path / "a.log") == {}


def test_phases_are_known_words():
    assert set(durations_of_the_example()) <= set(PHASES)


def durations_of_the_example():
    from pathlib import Path

    table = phases(hpcbench.parse(Path(__file__).parents[2] / "logs" / "example"))
    assert len(table.case.unique()) == 12
    return table.phase


def stamped(step, time):
    return {"record": "step", "step": step, "time": time, "warmup": False}


def test_days_between_two_runs_in_one_log_are_no_steps(tmp_path):
    week = 7 * 86400
    steps = [stamped(step, 10 * step + (week if step > 5 else 0)) for step in range(1, 11)]
    (tmp_path / "a.log").write_text(written.records(*steps))
    found = durations(tmp_path / "a.log")
    assert found["steady"] == 80
    assert found["other"] == week + 10


def test_the_first_step_after_a_start_lasts_from_there(tmp_path):
    again = [event("run_start", 100), stamped(1, 110), stamped(2, 120), event("run_start", 500), stamped(3, 530)]
    (tmp_path / "a.log").write_text(written.records(*again))
    assert durations(tmp_path / "a.log") == {"steady": 10 + 10 + 30, "other": 380}


def test_parse_and_report_show_where_the_time_went(corpus, tmp_path):
    sites = corpus / "sites"
    paths = [sites / "cerebras_llama2_7b_bs128_fresh_compile.log", sites / "llmc_cpu_train_gpt2_readme.txt"]
    done = toy.hpcbench("parse", *map(str, paths), cwd=tmp_path)
    lines = done.stdout.partition("Where the time went")[2].splitlines()
    [line] = [line for line in lines if "bs128" in line]
    assert "3,421 s, 63%" in line  # compile
    assert "789 s, 15%" in line  # steady
    assert not any("llmc" in line for line in lines)  # of which nothing but its steps is known
    toy.hpcbench("report", *map(str, paths), "-o", str(tmp_path / "out"), cwd=tmp_path)
    text = (tmp_path / "out" / "report.md").read_text()
    assert "3,421 s, 63%" in text.split("## Where the time went")[1]
