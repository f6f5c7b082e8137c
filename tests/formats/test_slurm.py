from collections import Counter

import pytest
import written

from hpcbench.parse.content import read_bytes

SACCT, SCONTROL = "slurm-sacct", "slurm-scontrol"


def read(name, text):
    records, unread = written.read(name, text)
    jobs = [(each.line, each.values) for each in records if each.table == "jobs"]
    events = [(each.line, each.values) for each in records if each.table == "events"]
    return jobs, events, unread


def test_the_default_table_of_a_real_user_is_read(corpus):
    data = (corpus / "system/slurm/sacct_hyak.txt").read_bytes()
    assert read_bytes(data).formats == [SACCT]
    jobs, events, unread = read(SACCT, data)
    assert (len(jobs), unread) == (data.count(b"\n") - 2, 0)
    by_id = {(row["job"], row.get("step", "")): row for _, row in jobs}
    assert by_id["16290213", ""] == {
        "job": "16290213", "name": "seq_cmaes", "queue": "compute", "cores": 30, "state": "TIMEOUT", "exit_status": 0,
    }  # fmt: skip
    assert by_id["16290213", "batch"] | {"name": ""} == {
        "job": "16290213", "step": "batch", "name": "", "cores": 30, "state": "CANCELLED", "exit_status": 0,
        "signal": 15,
    }  # fmt: skip
    assert (by_id["16312549", ""]["state"], by_id["16312549", ""]["exit_status"]) == ("FAILED", 1)
    assert (by_id["16312613", ""]["state"], by_id["16312613", ""]["exit_status"]) == ("COMPLETED", 0)
    assert by_id["16321582", ""]["state"] == "CANCELLED"
    assert "exit_status" not in by_id["16261988", ""]  # it runs
    assert Counter(row["kind"] for _, row in events) == {"failed": 51, "cancelled": 17, "time_limit": 15}
    assert (6, {"kind": "time_limit", "message": "job 16290213 (seq_cmaes): TIMEOUT"}) in events


PARSABLE = """JobID|JobName|Partition|NNodes|NCPUS|State|ExitCode|Submit|Start|End|Elapsed|MaxRSS
7|train|gpu|2|64|OUT_OF_MEMORY|0:125|2026-01-02T03:04:05|2026-01-02T03:05:05|2026-01-02T04:05:06|1-01:00:01|
7.batch|batch||1|32|OUT_OF_MEMORY|0:125|2026-01-02T03:05:05|2026-01-02T03:05:05|2026-01-02T04:05:06|1-01:00:01|3500K
7.0|python||2|64|FAILED|1:0|2026-01-02T03:05:05|2026-01-02T03:05:05|2026-01-02T04:05:06|1-01:00:01|1.5G
8_[3-9]|sweep|gpu|1|1|PENDING|0:0|2026-01-02T03:04:05|Unknown|Unknown|00:00:00|
9|x|gpu|1|1|CANCELLED by 1000|0:0|2026-01-02T03:04:05|None|2026-01-02T03:04:06|00:00:00|
10|y|gpu|1|1|NODE_FAIL|1:0|2026-01-02T03:04:05|None|2026-01-02T03:04:06|00:00:00|
"""


@pytest.mark.parametrize("text", [PARSABLE, PARSABLE.replace("\n", "|\n")], ids=["-P", "-p"])
def test_fields_with_bars_are_read_in_si_units(text):
    assert read_bytes(text.encode()).formats == [SACCT]
    jobs, events, unread = read(SACCT, text)
    assert jobs[0] == (2, {
        "job": "7", "name": "train", "queue": "gpu", "nodes": 2, "cores": 64, "state": "OUT_OF_MEMORY",
        "exit_status": 0, "signal": 125, "submitted": 1767323045, "started": 1767323105, "ended": 1767326706,
        "elapsed": 90001, "max_memory": 1.5 * 2**30,
    })  # fmt: skip
    assert [(row["job"], row.get("step")) for _, row in jobs] == [
        ("7", None), ("7", "batch"), ("7", "0"), ("8_[3-9]", None), ("9", None), ("10", None),
    ]  # fmt: skip
    assert (jobs[1][1]["max_memory"], jobs[2][1]["exit_status"]) == (3500 * 1024, 1)
    assert jobs[3][1].keys().isdisjoint({"exit_status", "started", "ended", "max_memory"})
    assert [(line, row["kind"]) for line, row in events] == [
        (2, "out_of_memory"),
        (6, "cancelled"),
        (7, "node_failure"),
    ]
    assert (events[0][1]["time"], events[2][1]["message"]) == (1767326706, "job 10 (y): NODE_FAIL, exit status 1")
    assert unread == 0


def test_a_name_that_was_cut_short_is_completed_where_it_is_a_state():
    text = "       JobID      State ExitCode \n------------ ---------- -------- \n5            OUT_OF_ME+    0:125 \n"
    assert read(SACCT, text)[0] == [(3, {"job": "5", "state": "OUT_OF_MEMORY", "exit_status": 0, "signal": 125})]


@pytest.mark.parametrize(
    "line", ["16|train|gpu|1|", "16|train|gpu|1|1|COMP", "16|t|g|1|1|TIMEOUT|0:0|a|b|c|00:00:01|35"]
)
def test_a_line_that_was_cut_is_counted(line):
    jobs, _, unread = read(SACCT, PARSABLE + line)
    assert (len(jobs), unread) == (6, 1)


COLUMNS = "JobID             State ExitCode \n------------ ---------- -------- \n5                FAILED     0:15 \n"
BARS = "JobID|State|ExitCode\n5|FAILED|0:15\n"


@pytest.mark.parametrize("text", [COLUMNS, BARS, BARS.replace("\n", "|\n")], ids=["columns", "-P", "-p"])
def test_a_last_line_without_a_line_break_is_read_where_it_is_whole_for_certain(text):
    whole, _, unread = read(SACCT, text)
    assert (whole[0][1]["signal"], unread) == (15, 0)
    begin = text.rindex("\n5") + 2
    for at in range(begin, len(text)):
        jobs, _, unread = read(SACCT, text[:at])
        assert (jobs, unread) in (([], 1), (whole, 0))
    assert (read(SACCT, text[:-1])[0] == whole) is (text is not BARS)


@pytest.mark.parametrize("text", ["JobID is a number\n", "JobID State\n12 TIMEOUT\n", "JobID|x\n", "export JobID=7\n"])
def test_the_word_alone_is_no_table(text):
    content = read_bytes(text.encode())
    assert (content.formats, content.tables) == ([], {})


def test_a_real_job_in_a_page_with_bold_letters_is_read(corpus):
    data = (corpus / "excerpts/scontrol_show_job_failed.txt").read_bytes()
    assert read_bytes(data).formats == [SCONTROL]
    row = {
        "state": "FAILED", "exit_status": 1, "elapsed": 0, "submitted": 1541084042, "started": 1541084043,
        "ended": 1541084043, "queue": "compute", "nodes": 1, "cores": 2,
    }  # fmt: skip
    event = {"kind": "failed", "message": "job: FAILED, NonZeroExitCode, exit status 1", "time": 1541084043}
    assert read(SCONTROL, data) == ([(3, row)], [(3, event)], 0)


SHOWN = """JobId=12 JobName=train
   UserId=me(1) GroupId=me(1) MCS_label=N/A
   JobState=RUNNING Reason=None Dependency=(null)
   Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0
   RunTime=1-00:00:02 TimeLimit=2-00:00:00 TimeMin=N/A
   SubmitTime=2026-01-02T03:04:05 EligibleTime=2026-01-02T03:04:05
   StartTime=2026-01-02T03:05:05 EndTime=2026-01-04T03:05:05 Deadline=N/A
   Partition=gpu AllocNode:Sid=n1:2
   NumNodes=2-2 NumCPUs=64 NumTasks=2 CPUs/Task=32
"""


def test_jobs_are_read_one_after_another_and_an_expected_end_is_none():
    row = {"job": "12", "name": "train", "state": "RUNNING", "elapsed": 86402, "submitted": 1767323045,
           "started": 1767323105, "queue": "gpu", "nodes": 2, "cores": 64}  # fmt: skip
    timeout = SHOWN.replace("=12", "=13").replace("RUNNING Reason=None", "TIMEOUT Reason=TimeLimit")
    jobs, events, unread = read(SCONTROL, f"{SHOWN}\n{timeout}")
    assert (jobs[0], unread) == ((3, row), 0)
    assert jobs[1] == (13, {**row, "job": "13", "state": "TIMEOUT", "exit_status": 0, "ended": 1767495905})
    assert events == [(13, {"kind": "time_limit", "message": "job 13 (train): TIMEOUT, TimeLimit", "time": 1767495905})]


def test_a_job_on_one_line_is_read_too():
    assert [row["job"] for _, row in read(SCONTROL, " ".join(SHOWN.split()) + "\n")[0]] == ["12"]


@pytest.mark.parametrize("text", [SHOWN, " ".join(SHOWN.split()) + "\n"], ids=["lines", "one line"])
def test_a_job_that_was_cut_has_no_half_values(text):
    [(line, whole)], _, _ = read(SCONTROL, text)
    for at in range(text.index("Restarts"), len(text)):
        jobs, _, unread = read(SCONTROL, text[:at])
        for number, row in jobs:
            assert number == line
            assert row.items() <= whole.items()
        assert unread == (bool(jobs) and not text[at - 1].isspace())


def test_what_follows_a_job_may_be_cut_without_harm():
    assert read(SCONTROL, f"{SHOWN}\nanother line that was c")[2] == 0


@pytest.mark.parametrize("text", ["see JobState=FAILED there\n", "JobId=3 JobName=x\n", "JobState=ODD ExitCode=1:0\n"])
def test_a_few_words_of_a_job_are_none(text):
    assert read_bytes(text.encode()).formats == []
