import pytest
import written

from hpcbench.parse.content import read_bytes

FULL, JSON, TABLE = "pbs-qstat-full", "pbs-qstat-json", "pbs-qstat"


def read(name, text):
    records, unread = written.read(name, text)
    jobs = [(each.line, each.values) for each in records if each.table == "jobs"]
    events = [(each.line, each.values) for each in records if each.table == "events"]
    return jobs, events, unread


REAL = [
    (
        "excerpts/pbs_qstat_f_barnacle.txt", FULL, 1,
        (1, {"job": "522083.barnacle.ucsd.edu", "name": "timeout.pbs", "state": "C", "queue": "short4gb",
             "submitted": 1508473841, "elapsed": 14, "max_memory": 3500 * 1024}),
    ),
    (
        "sites/pbs_qstat_default.txt", TABLE, 3,
        (5, {"job": "353205.polaris-p", "name": "3d-2.sub", "state": "R", "queue": "large"}),
    ),
    (
        "sites/pbs_qstat_was1.txt", TABLE, 4,
        (7, {"job": "336990.polaris", "name": "inf_clDB", "state": "H", "queue": "large", "nodes": 464}),
    ),
    (
        "sites/pbs_qstat_json_jq.txt", JSON, 2,
        (9, {"job": "352220.polaris-pbs-01.hsn.cm.polaris.alcf.anl.gov", "name": "mdsim_10000_run1.pbs",
             "submitted": 1668120115, "started": 1668157212}),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("file", "name", "count", "last"), REAL, ids=[each[0] for each in REAL])
def test_jobs_of_real_sites_are_read(corpus, file, name, count, last):
    data = (corpus / file).read_bytes()
    assert read_bytes(data).formats == [name]
    jobs, events, unread = read(name, data)
    assert (len(jobs), jobs[-1], events, unread) == (count, last, [], 0)


def test_what_pbs_refuses_is_no_job(corpus):
    assert read_bytes((corpus / "sites/pbs_messages.txt").read_bytes()).formats == []


def text_of(state="F", status=0, substate=92, job="6.pbs1", more=""):
    return f"""Job Id: {job}
    Job_Name = train
    Job_Owner = me@pbs1
    resources_used.mem = 7076kb
    resources_used.walltime = 100:00:14
    job_state = {state}
    queue = workq
    ctime = Sat Nov 21 02:32:59 2026
    Resource_List.ncpus = 8
    Resource_List.nodect = 2
    stime = Sat Nov 21 02:33:00 2026
    obittime = Sat Nov 21 02:33:13 2026
    substate = {substate}
    Variable_List = PBS_O_HOME=/home/me,
\tPBS_O_PATH=/usr/bin:/bin,job_state = R
    comment = Job run at Sat Nov 21 at 02:32 on
\t (pbs1:ncpus=1) and failed
    Exit_status = {status}
{more}
"""


ROW = {
    "job": "6.pbs1", "name": "train", "state": "F", "queue": "workq", "submitted": 1795228379, "started": 1795228380,
    "ended": 1795228393, "nodes": 2, "cores": 8, "elapsed": 360014, "max_memory": 7076 * 1024, "exit_status": 0,
}  # fmt: skip


def test_continued_lines_do_not_hide_the_values_after_them():
    assert read_bytes(text_of().encode()).formats == [FULL]
    assert read(FULL, text_of()) == ([(1, ROW)], [], 0)


def json_of(state="F", status=0, substate=92, job="6.pbs1"):
    """Write JSON as PBS does: tabs after the colons, and values of variables that look like numbers as numbers."""
    return f"""{{
\t"timestamp":\t1795228393,
\t"pbs_version":\t"23.06.06",
\t"pbs_server":\t"pbs1",
\t"Jobs":\t{{
\t\t"{job}":\t{{
\t\t\t"Job_Name":\t"train",
\t\t\t"resources_used":\t{{
\t\t\t\t"mem":\t"7076kb",
\t\t\t\t"walltime":\t"100:00:14"
\t\t\t}},
\t\t\t"job_state":\t"{state}",
\t\t\t"queue":\t"workq",
\t\t\t"ctime":\t"Sat Nov 21 02:32:59 2026",
\t\t\t"Resource_List":\t{{"ncpus":\t8, "nodect":\t2, "select":\t1}},
\t\t\t"stime":\t"Sat Nov 21 02:33:00 2026",
\t\t\t"obittime":\t"Sat Nov 21 02:33:13 2026",
\t\t\t"substate":\t{substate},
\t\t\t"Variable_List":\t{{"A":\t1.2e+29, "A":\tnull, "6.pbs2":\t{{"Job_Name":\t3}}}},
\t\t\t"comment":\t"Job run at Sat Nov 21 at 02:32 on (pbs1:ncpus=1) and failed",
\t\t\t"Exit_status":\t{status}
\t\t}}
\t}}
}}
"""


def test_json_is_read_each_job_at_its_line():
    assert read_bytes(json_of().encode()).formats == [JSON]
    jobs, events, unread = read(JSON, json_of() + json_of(job="7[3].pbs1"))
    assert (jobs, events, unread) == ([(6, ROW), (6 + 24, {**ROW, "job": "7[3].pbs1"})], [], 0)


def test_json_without_jobs_holds_none():
    assert read(JSON, '{\n\t"timestamp":\t1,\n\t"pbs_version":\t"23.06.06",\n\t"pbs_server":\t"pbs1"\n}\n') == (
        [],
        [],
        0,
    )


def test_json_that_was_cut_gives_the_jobs_that_are_whole():
    text = json_of() + json_of()
    jobs, _, unread = read(JSON, text[:-200])
    assert (len(jobs), unread) == (1, 1)


# state, exit status, substate → kind of event
ENDS = [
    ("F", 0, 92, None), ("F", 3, 93, "failed"), ("F", 137, 93, "failed"), ("F", -29, 93, "time_limit"),
    ("F", 271, 91, "cancelled"), ("F", 265, 91, "cancelled"), ("F", 265, 93, "failed"), ("X", 1, 93, "failed"),
    ("C", 271, 59, "failed"), ("Q", -20, 10, None), ("E", -29, 51, None), ("B", 1, 51, None), ("R", 1, 42, None),
]  # fmt: skip


@pytest.mark.parametrize(("state", "status", "substate", "kind"), ENDS)
@pytest.mark.parametrize(("name", "write"), [(FULL, text_of), (JSON, json_of)], ids=["text", "json"])
def test_the_exit_status_counts_only_where_the_job_ended(name, write, state, status, substate, kind):
    jobs, events, _ = read(name, write(state, status, substate))
    assert jobs[0][1].get("exit_status") == (status if state in "FXC" else None)
    assert jobs[0][1].get("signal") == (status - 256 if state in "FXC" and status > 256 else None)
    assert [row["kind"] for _, row in events] == ([kind] if kind else [])
    assert all(row["time"] == 1795228393 and "job 6.pbs1 (train)" in row["message"] for _, row in events)


def test_torque_names_two_times_in_other_words():
    text = text_of("C", 0).replace("stime", "start_time").replace("obittime", "comp_time").replace("Exit_", "exit_")
    assert read(FULL, text)[0] == [(1, {**ROW, "state": "C"})]


def test_fields_between_bars_are_read():
    assert [row["exit_status"] for _, row in read(FULL, "Job Id: 1.p|Job_Name=a|job_state=F|Exit_status=0\n")[0]] == [0]


BARS = "Job Id: 6.p|Job_Name=train|job_state=F|queue=workq|resources_used.walltime=00:01:02|Exit_status=271\n"


@pytest.mark.parametrize("text", [text_of(status=271).rstrip() + "\n", BARS], ids=["text", "bars"])
def test_a_text_that_was_cut_gives_no_half_value(text):
    [(_, whole)] = read(FULL, text)[0]
    for at in range(text.index("Job_Name"), len(text)):
        jobs, _, unread = read(FULL, text[:at])
        for _, row in jobs:
            assert row.items() <= whole.items()
        assert unread == (text[at - 1] != "\n" or not jobs)


def test_a_value_that_goes_on_in_a_line_that_was_cut_is_left_out():
    text = "Job Id: 6.pbs1\n    job_state = F\n    queue = a_queue\n\t_with_a_na"
    assert read(FULL, text) == ([(1, {"job": "6.pbs1", "state": "F"})], [], 1)


def test_a_table_that_was_cut_gives_no_half_value():
    text = "Job id            Name             User              Time Use S Queue\n"
    text += "----------------  ---------------- ----------------  -------- - -----\n"
    text += "42.pbs1           train            me                00:01:02 R workq\n"
    assert [row["queue"] for _, row in read(TABLE, text)[0]] == ["workq"]
    for at in range(text.index("42.pbs1") + 1, len(text)):
        assert read(TABLE, text[:at]) == ([], [], 1)


@pytest.mark.parametrize("text", [
    "Job Id: see below\n", "Job Id: 3.pbs1 was deleted\n", "the S Queue is full\n",
    "Job id            Name             User              Time Use S Queue\nnothing\n",
    '{"Job_Name": "x"}\n', '"Job_Name": ' + '{"1.a": ' * 20000,
])  # fmt: skip
def test_what_only_looks_like_it_gives_nothing(text):
    assert read_bytes(text.encode()).formats == []
