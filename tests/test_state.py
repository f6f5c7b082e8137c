"""What is derived of a case at a site from its journal and its files."""

import json

import pytest

from hpcbench import state

SENT = [
    {"event": "submitting", "time": 1.0, "site": "far", "group": "g0001", "kind": "single", "cases": ["001"]},
    {
        "event": "submitted",
        "time": 2.0,
        "site": "far",
        "group": "g0001",
        "kind": "single",
        "cases": ["001"],
        "job": "7",
    },
]
CANCELLED = {"event": "cancelled", "time": 3.0, "site": "far", "cases": ["001"]}


def observed(word: str, why: str = "") -> dict:
    return {"event": "observed", "time": 4.0, "site": "far", "states": {"001": [word, why]}}


def derived(tmp_path, events, record=None) -> tuple[str, str]:
    (tmp_path / "001").mkdir()
    if record is not None:
        (tmp_path / "001" / "exit.json").write_text(json.dumps(record))
    found = state.there(tmp_path / "001", "001", {}, state.by_case(events).get("001", []))
    return found.state, found.reason


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], "planned"),
        (SENT[:1], "submitting"),
        (SENT, "queued"),
        ([*SENT, observed("running")], "running"),
        ([*SENT, CANCELLED], "queued"),  # a cancel that was cut off: whether the job goes on is not known
        ([*SENT[:1], CANCELLED], "cancelled"),
        ([CANCELLED], "cancelled"),
        ([*SENT, CANCELLED, observed("running")], "running"),
        ([*SENT, CANCELLED, observed("lost")], "cancelled"),
        ([*SENT, observed("completed")], "lost"),
        ([*SENT, observed("timeout", "Slurm: TIMEOUT")], "timeout"),
        ([*SENT, {"event": "again", "cases": ["001"]}], "planned"),
        ([*SENT, observed("failed"), {"event": "again", "cases": ["001"]}, *SENT], "queued"),
        ([SENT[0], {"event": "deferred", "cases": ["001"]}], "planned"),
    ],
)
def test_a_case_without_an_exit_record(tmp_path, events, expected):
    assert derived(tmp_path, events)[0] == expected


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        (SENT, ("running", "was told to stop; its scheduler has not said why yet")),
        ([*SENT, observed("node_failure", "Slurm: NODE_FAIL")], ("node_failure", "Slurm: NODE_FAIL")),
        ([*SENT, observed("timeout", "Slurm: TIMEOUT")], ("timeout", "Slurm: TIMEOUT")),
        ([*SENT, CANCELLED, observed("cancelled")], ("cancelled", "ended on request")),
    ],
)
@pytest.mark.parametrize("told", [{"reason": "terminated", "signal": None}, {"reason": None, "signal": "TERM"}])
def test_a_job_that_was_told_to_stop_is_what_its_scheduler_says(tmp_path, events, expected, told):
    # the program may get the signal, and end, before the job script does
    record = {"status": None, "started": 1.0, "ended": 2.0, **told}
    assert derived(tmp_path, events, record) == expected


def test_a_signal_that_the_scheduler_knows_nothing_of_is_a_failure_of_the_programs_own(tmp_path):
    record = {"status": None, "signal": "TERM", "reason": None, "started": 1.0, "ended": 2.0}
    events = [*SENT, observed("failed", "Slurm: FAILED")]
    assert derived(tmp_path, events, record) == ("failed", "killed by signal TERM")
    fed = [{**event, "kind": "fed", **({"job": "g0001"} if "job" in event else {})} for event in SENT]
    found = state.there(tmp_path / "001", "001", {}, fed)
    assert (found.state, found.reason) == ("failed", "killed by signal TERM")
    (tmp_path / "001" / "stderr.log").write_text("RuntimeError: CUDA out of memory. Tried to allocate 2 GiB\n")
    found = state.there(tmp_path / "001", "001", {}, events)
    assert found.state == "out_of_memory"


def test_a_refused_job_is_a_failure_that_never_started(tmp_path):
    refused = {"event": "rejected", "time": 2.0, "cases": ["001"], "message": "sbatch: error: no"}
    (tmp_path / "001").mkdir()
    found = state.there(tmp_path / "001", "001", {}, [SENT[0], refused])
    assert (found.state, found.reason) == ("failed", "not accepted: sbatch: error: no")
    assert state.refused(found)


def test_a_failure_says_the_last_words_of_its_program(tmp_path):
    record = {"status": 127, "signal": None, "reason": None, "started": 1.0, "ended": 2.0}
    (tmp_path / "001").mkdir()
    (tmp_path / "001" / "stderr.log").write_text("warming up\n/no/python: No such file or directory\n\n")
    (tmp_path / "001" / "exit.json").write_text(json.dumps(record))
    found = state.there(tmp_path / "001", "001", {}, SENT)
    assert found.reason == "exit status 127: /no/python: No such file or directory"
