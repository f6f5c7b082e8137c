import pytest
import written

from hpcbench.parse.content import read_bytes


def read(text):
    records, _ = written.read("cobalt", text)
    return [(each.table, each.line, each.values) for each in records]


def test_a_real_log_of_a_job_that_its_user_deleted_is_read(corpus):
    data = (corpus / "system/cobalt_10060996.cobaltlog").read_bytes()
    assert read_bytes(data).formats == ["cobalt"]
    assert read(data) == [
        ("jobs", 1, {
            "job": "10060996", "queue": "single-gpu", "nodes": 1, "submitted": 1646422202, "started": 1646422217,
            "state": "cancelled",
        }),
        ("events", 25, {
            "kind": "cancelled", "message": "user delete requested with signal SIGTERM by user arnoldw",
            "time": 1646422506,
        }),
    ]  # fmt: skip


def test_a_job_that_ended_by_itself_has_its_exit_status():
    text = "Jobid: 7\nqsub -n 2 -q gpu run.sh\n"
    text += "Fri Mar 04 19:30:02 2022 +0000 (UTC) submitted with cwd set to: /home/me\n"
    text += "Fri Mar 04 19:30:17 2022 -0600 (CST) Command: 'run.sh'\n"
    text += "Fri Mar 04 19:31:17 2022 -0600 (CST) Info: task completed normally with an exit code of 3; task finished\n"
    assert read(text)[0][2] == {
        "job": "7", "queue": "gpu", "nodes": 2, "submitted": 1646422202, "started": 1646443817, "ended": 1646443877,
        "exit_status": 3,
    }  # fmt: skip
    assert [(table, line, row["kind"]) for table, line, row in read(text)[1:]] == [("events", 5, "failed")]


@pytest.mark.parametrize(
    "text", ["Jobid: 7\n", "Jobid: none\n", "the Jobid: 7 was\n", "Jobid: 7\nqsub run.sh\nFri Mar"]
)
def test_a_few_words_of_a_log_are_none(text):
    assert read_bytes(text.encode()).formats == []
