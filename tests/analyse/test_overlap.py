"""Cases of a run that ran on one machine at the same time are told of."""

import json

import hpcbench
from hpcbench.analyse.overlap import overlaps


def told(tmp_path, *spans, **about):
    """Return what is told of cases that ran from when to when, on which machine."""
    names = [f"{number:03d}" for number in range(len(spans))]
    run = tmp_path / "r"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"run": "r", "benchmark": "toy", "cases": names}))
    for name, (started, ended, host) in zip(names, spans, strict=True):
        (run / name).mkdir()
        (run / name / "case.json").write_text(json.dumps({"run": "r", "case": name, "parameters": {}, **about}))
        record = {"status": 0, "signal": None, "started": started, "ended": ended, "host": host}
        (run / name / "exit.json").write_text(json.dumps(record))
    return overlaps(hpcbench.parse(run))


def test_one_after_another_is_nothing(tmp_path):
    assert told(tmp_path, (1, 5, "a"), (5, 9, "a"), (9, 12, "a")) == []


def test_other_machines_disturb_nobody(tmp_path):
    assert told(tmp_path, (1, 5, "a"), (1, 5, "b")) == []


def test_those_that_overlap_are_counted(tmp_path):
    ((run, said),) = told(tmp_path, (1, 5, "a"), (4, 9, "a"), (9, 12, "a"), (20, 21, "a"))
    assert run == "r"
    assert said.startswith("2 cases of 4 ran at the same time on a: ")


def test_one_inside_another(tmp_path):
    ((_, said),) = told(tmp_path, (1, 50, "a"), (4, 9, "a"))
    assert said.startswith("2 cases of 2 ")


def test_those_that_took_turns_did_not_disturb_each_other(tmp_path):
    assert told(tmp_path, (1, 5, "a"), (1, 5, "a"), beside={"group": "1", "position": 0, "count": 2}) == []
