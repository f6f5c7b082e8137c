"""The states of jobs on a real Slurm, by real ssh and on its login node, as the command line tells them."""

import json
import os
import signal
from pathlib import Path

import far
import pytest
import toy
from far import cases, hpcbench, journal, ran, remote, states, submit
from services import slurm as clusters
from services import ssh
from services.proxy import Proxy
from toy import until

from hpcbench.run import Run
from hpcbench.submit.control import refresh
from hpcbench.submit.schedulers.scheduler import Scheduler, Seen
from hpcbench.submit.schedulers.slurm import Slurm


@pytest.fixture
def place(tmp_path, sshd):
    yield far.write(tmp_path, sshd)
    toy.kill(toy.processes_under(tmp_path))


@pytest.fixture
def accounted(tmp_path, sshd_accounting, slurm_accounting):
    yield far.write(tmp_path, sshd_accounting)
    toy.kill(toy.processes_under(tmp_path))


@pytest.fixture
def login_node(tmp_path, slurm, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", slurm.environment["SLURM_CONF"])
    yield far.write(tmp_path)
    toy.kill(toy.processes_under(tmp_path))


@pytest.fixture(params=["ssh", "accounting", "login node"])
def anywhere(request):
    """A site by ssh without and with accounting, and one whose Slurm is at hand."""
    fixtures = {"ssh": "place", "accounting": "accounted", "login node": "login_node"}
    yield request.getfixturevalue(fixtures[request.param])
    cluster(request).restore()  # a fixture that is asked for by name is not seen by the one that does this for others


def cluster(request):
    """Return the Slurm of `anywhere`."""
    accounting = request.node.callspec.params["anywhere"] == "accounting"
    return request.getfixturevalue("slurm_accounting" if accounting else "slurm")


@pytest.fixture
def forgetful(tmp_path_factory):
    """A cluster without accounting that forgets a job as soon as it ended, and its login node."""
    cluster = clusters.start(tmp_path_factory.mktemp("slurm"), nodes=1, MinJobAge=2)
    server = ssh.start(tmp_path_factory.mktemp("sshd"), environment=cluster.environment)
    yield cluster, server
    server.stop()
    cluster.stop()


def job_of(place: Path, act: str) -> str:
    return cases(place, "r", "--offline")[act]["job"]


def script_of(place: Path, case: str = "001") -> int:
    """Return the process of a case's job script."""
    return json.loads((remote(place) / case / "started.json").read_text())["pid"]


def test_every_case_has_its_true_state(anywhere):
    acts = "ok,exit 3,kill 9,memory,eat,silent"
    done = submit("--act", acts, "--wait", "--json", cwd=anywhere, check=4)
    found = {each["parameters"]["act"]: each for each in json.loads(done.stdout)["cases"]}
    assert {act: case["state"] for act, case in found.items()} == {
        "ok": "completed",
        "exit 3": "failed",
        "kill 9": "failed",
        "memory": "out_of_memory",
        "eat": "out_of_memory",
        "silent": "failed",
    }
    assert found["exit 3"]["exit_status"] == 3
    assert "signal KILL" in found["kill 9"]["reason"]
    assert "MemoryError" in found["memory"]["reason"]
    assert "exceeded memory limit" in found["eat"]["reason"]
    assert "end marker" in found["silent"]["reason"]
    assert states(anywhere) == {act: case["state"] for act, case in found.items()}
    assert states(anywhere, "r", "--offline") == states(anywhere)
    assert len(ran(anywhere)) == 6
    rows = json.loads(hpcbench("parse", "logs/r", "--json", cwd=anywhere, check=4).stdout)["sections"][0]["rows"]
    assert {row["point"]["act"]: row["completed"] for row in rows} == {act: int(act == "ok") for act in found}


def test_a_single_case_over_its_memory_is_out_of_memory(place):
    submit("--act", "eat", "--wait", cwd=place, check=1)
    (case,) = cases(place).values()
    assert (case["state"], "exceeded memory limit" in case["reason"]) == ("out_of_memory", True)
    assert not (remote(place) / "001" / "exit.json").exists()


def test_the_job_scripts_own_limit_ends_a_case(tmp_path, sshd):
    far.write(tmp_path, sshd, job={"time": "00:00:03"})
    submit("--act", "hang", "--wait", cwd=tmp_path, check=1)
    (case,) = cases(tmp_path).values()
    assert (case["state"], case["reason"]) == ("timeout", "ended at its time limit")


def both_run(place: Path) -> dict[str, str]:
    """Start a program that ends when it is asked to and one that does not; returns their jobs."""
    submit("--act", "hang,ignore TERM", cwd=place)
    log = remote(place) / "002-actignore_TERM" / "stdout.log"
    until(lambda: len(ran(place)) == 2 and log.exists() and "ignoring" in log.read_text())
    return {act: each["job"] for act, each in cases(place).items()}


def test_slurms_time_limit_is_a_timeout(place, slurm):
    for job in both_run(place).values():
        slurm.run("scontrol", "update", f"JobId={job}", "EndTime=now")
    hpcbench("wait", "r", cwd=place, check=1)
    found = cases(place)
    assert {each["state"] for each in found.values()} == {"timeout"}, found
    # the job script was told to stop, and had the time to write its record; the other was killed
    assert [file.parent.name for file in remote(place).glob("*/exit.json")] == ["001-acthang"]


def test_a_job_that_somebody_else_cancels_is_cancelled(anywhere, request):
    slurm = cluster(request)
    for job in both_run(anywhere).values():
        slurm.run("scancel", job)
    hpcbench("wait", "r", cwd=anywhere, check=1)
    found = cases(anywhere)
    assert {each["state"] for each in found.values()} == {"cancelled"}, found


def test_a_waiting_job_that_somebody_else_cancels_is_cancelled(place, slurm):
    for node in slurm.nodes:
        slurm.down(node)
    submit("--act", "ok", cwd=place)
    until(lambda: states(place) == {"ok": "queued"})
    slurm.run("scancel", job_of(place, "ok"))
    until(lambda: states(place) == {"ok": "cancelled"})
    assert ran(place) == []


def test_cancel_ends_what_runs_and_what_waits_and_can_be_said_twice(anywhere, request):
    slurm = cluster(request)
    submit("--act", "ok,hang,ignore TERM", cwd=anywhere)
    until(lambda: states(anywhere) == {"ok": "completed", "hang": "running", "ignore TERM": "running"})
    until(lambda: len(ran(anywhere)) == 3)
    hpcbench("cancel", "r", "002-acthang", cwd=anywhere, check=0)
    assert states(anywhere) == {"ok": "completed", "hang": "cancelled", "ignore TERM": "running"}
    hpcbench("cancel", "r", cwd=anywhere, check=0)
    ended = {"ok": "completed", "hang": "cancelled", "ignore TERM": "cancelled"}
    assert states(anywhere) == ended
    before = journal(anywhere)
    hpcbench("cancel", "r", cwd=anywhere, check=0)
    assert states(anywhere) == ended
    assert journal(anywhere) == before
    assert slurm.run("squeue", "-h") == ""


def test_cancel_of_what_waits(place, slurm):
    for node in slurm.nodes:
        slurm.down(node)
    submit("--act", "ok,fine", cwd=place)
    until(lambda: states(place) == {"ok": "queued", "fine": "queued"})
    hpcbench("cancel", "r", cwd=place, check=0)
    assert states(place) == {"ok": "cancelled", "fine": "cancelled"}
    hpcbench("cancel", "r", cwd=place, check=0)
    assert states(place) == {"ok": "cancelled", "fine": "cancelled"}
    hpcbench("resume", "r", "--wait", cwd=place, check=1)
    assert ran(place) == []


def test_a_node_that_goes_down_is_a_node_failure(place, slurm):
    file = place / "sites" / "far.yaml"
    file.write_text(file.read_text().replace("job:\n", "job:\n  directives: [--no-requeue]\n"))
    submit("--act", "hang", cwd=place)
    until(lambda: states(place) == {"hang": "running"} and ran(place))
    for node in slurm.nodes:
        slurm.down(node)
    hpcbench("wait", "r", cwd=place, check=1)
    assert states(place) == {"hang": "node_failure"}


def goes_twice(place: Path, slurm, interrupt, restart) -> None:
    """A job that is interrupted and queued again completes, and what it left the first time is kept apart."""
    submit("--act", "hang once", cwd=place)
    until(lambda: states(place) == {"hang once": "running"} and ran(place))
    hpcbench("fetch", "r", cwd=place, check=0)
    first = json.loads((remote(place) / "001" / "started.json").read_text())
    job = job_of(place, "hang once")
    interrupt(job)
    seen = set()
    until(lambda: seen.update(now := states(place).values()) or set(now) == {"queued"})
    restart(job)
    done = hpcbench("wait", "r", cwd=place, check=0)
    assert seen <= {"running", "queued"}, seen
    assert states(place) == {"hang once": "completed"}
    assert ran(place) == ["001", "001"]
    earlier = remote(place) / "001" / "attempt-1"
    assert json.loads((earlier / "started.json").read_text()) == first
    hpcbench("fetch", "r", cwd=place, check=0)
    kept = place / "logs" / "r" / "001" / "attempt-1"
    assert '"step": 100' in (kept / "stdout.log").read_text()
    assert '"step": 100' not in (place / "logs" / "r" / "001" / "stdout.log").read_text()
    assert done.returncode == 0
    steps_are_of_the_last_attempt(place)


def steps_are_of_the_last_attempt(place: Path) -> None:
    hpcbench("parse", "logs/r", "-o", "metrics", cwd=place, check=0)
    import pandas as pd

    steps = pd.read_parquet(next((place / "metrics").rglob("steps*")))
    assert sorted(steps["step"]) == [0, 1, 2]


def test_a_requeued_job_is_queued_again_then_completes(anywhere, request):
    slurm = cluster(request)
    goes_twice(
        anywhere, slurm, lambda job: slurm.run("scontrol", "requeuehold", job),
        lambda job: slurm.run("scontrol", "release", job),
    )  # fmt: skip


def test_a_job_whose_node_went_down_runs_again_elsewhere(place, slurm):
    def down(_: str) -> None:
        for node in slurm.nodes:
            slurm.down(node)

    def up(job: str) -> None:
        for node in slurm.nodes:
            slurm.up(node)
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    goes_twice(place, slurm, down, up)


def test_a_held_job_is_queued_and_says_why(place, slurm):
    for node in slurm.nodes:
        slurm.down(node)
    submit("--act", "ok", cwd=place)
    until(lambda: states(place) == {"ok": "queued"})
    slurm.run("scontrol", "hold", job_of(place, "ok"))
    until(lambda: "held" in (cases(place)["ok"]["reason"] or "").lower())
    assert states(place) == {"ok": "queued"}
    for node in slurm.nodes:
        slurm.up(node)
    slurm.run("scontrol", "release", job_of(place, "ok"))
    hpcbench("wait", "r", cwd=place, check=0)
    assert states(place) == {"ok": "completed"}


def test_a_suspended_job_runs_and_says_so(place, slurm):
    submit("--act", "hang", cwd=place)
    until(lambda: states(place) == {"hang": "running"} and ran(place))
    slurm.run("scontrol", "suspend", job_of(place, "hang"))
    (case,) = cases(place).values()
    assert (case["state"], case["reason"]) == ("running", "Slurm: SUSPENDED")
    slurm.run("scontrol", "resume", job_of(place, "hang"))
    until(lambda: cases(place)["hang"]["reason"] is None)


def test_a_job_that_vanished_is_unknown_then_lost_and_never_completed(tmp_path, forgetful, monkeypatch):
    slurm, server = forgetful
    far.write(tmp_path, server)
    submit("--act", "hang", cwd=tmp_path)
    until(lambda: states(tmp_path) == {"hang": "running"} and ran(tmp_path))
    os.kill(script_of(tmp_path), signal.SIGKILL)
    until(lambda: job_of(tmp_path, "hang") not in {job for job, *_ in slurm.jobs()})
    (case,) = cases(tmp_path).values()
    assert (case["state"], "no longer in the queue" in case["reason"]) == ("unknown", True)
    # once its record had time to appear, on file systems that take theirs
    monkeypatch.setattr(Scheduler, "gone", 0.0)
    run = Run.find("r", tmp_path / "logs")
    refresh(run)
    assert [each.state for each in run.states()] == ["lost"]
    monkeypatch.undo()
    assert states(tmp_path) == {"hang": "lost"}
    hpcbench("resume", "r", cwd=tmp_path, check=0)
    assert len(ran(tmp_path)) == 1  # what is lost may have run: it is not started again unless asked for


def test_a_job_that_ended_unseen_and_was_forgotten_is_what_its_record_says(tmp_path, forgetful):
    slurm, server = forgetful
    far.write(tmp_path, server)
    submit("--act", "ok,exit 3", cwd=tmp_path)
    until(lambda: len(list(remote(tmp_path).glob("*/exit.json"))) == 2 and not slurm.jobs())
    assert states(tmp_path) == {"ok": "completed", "exit 3": "failed"}


def test_a_job_script_that_was_killed_is_failed_with_slurms_word(place):
    submit("--act", "hang", cwd=place)
    until(lambda: states(place) == {"hang": "running"} and ran(place))
    os.kill(script_of(place), signal.SIGKILL)
    hpcbench("wait", "r", cwd=place, check=1)
    (case,) = cases(place).values()
    assert case["state"] == "failed", case
    assert "FAILED" in case["reason"]


def test_a_scheduler_that_is_down_changes_nothing(place, slurm):
    submit("--act", "ok,hang", cwd=place)
    until(lambda: states(place) == {"ok": "completed", "hang": "running"})
    slurm.kill_controller()
    before = journal(place)
    done = hpcbench("status", "r", "--json", cwd=place, check=3)
    assert "the scheduler of far does not answer" in far.line(done)
    assert "Unable to contact slurm controller" in far.line(done)
    ok, hang = json.loads(done.stdout)["cases"]
    assert (ok["state"], hang["state"]) == ("completed", "unknown")
    assert "(it was running)" in hang["reason"]
    assert states(place, "r", "--offline") == {"ok": "completed", "hang": "running"}
    assert journal(place) == before
    slurm.start_controller()
    assert states(place) == {"ok": "completed", "hang": "running"}
    assert sorted(ran(place)) == ["001-actok", "002-acthang"]


def test_a_connection_that_is_down_changes_nothing(tmp_path, sshd):
    with Proxy(sshd.port) as proxy:
        far.write(tmp_path, sshd.behind(proxy.port))
        submit("--act", "ok,hang", cwd=tmp_path)
        until(lambda: states(tmp_path) == {"ok": "completed", "hang": "running"})
        proxy.refuse = True
        before = journal(tmp_path)
        done = hpcbench("status", "r", cwd=tmp_path, check=3)
        assert far.line(done) == f"far: 127.0.0.1 port {proxy.port} refuses connections"
        assert states(tmp_path, check=3) == {"ok": "completed", "hang": "unknown"}
        assert states(tmp_path, "r", "--offline") == {"ok": "completed", "hang": "running"}
        assert journal(tmp_path) == before
        # nothing is known of the job, so nothing may be started
        hpcbench("resume", "r", "--failed", cwd=tmp_path)
        proxy.refuse = False
        assert states(tmp_path) == {"ok": "completed", "hang": "running"}
        assert sorted(ran(tmp_path)) == ["001-actok", "002-acthang"]


def test_cancel_says_that_a_site_cannot_be_reached_and_works_later(tmp_path, sshd):
    with Proxy(sshd.port) as proxy:
        far.write(tmp_path, sshd.behind(proxy.port))
        submit("--act", "hang", cwd=tmp_path)
        until(lambda: states(tmp_path) == {"hang": "running"})
        proxy.refuse = True
        assert "refuses connections" in far.line(hpcbench("cancel", "r", cwd=tmp_path, check=3))
        proxy.refuse = False
        assert states(tmp_path) == {"hang": "running"}
        hpcbench("cancel", "r", cwd=tmp_path, check=0)
        assert states(tmp_path) == {"hang": "cancelled"}


def test_watching_a_status_ends_with_the_run(place):
    submit("--act", "grow,ok", cwd=place)
    watching = far.background("status", "r", "--watch", cwd=place)
    assert watching.stderr is not None
    said = ""
    while "001-actgrow  running" not in said:
        heard = watching.stderr.readline()
        assert heard, said
        said += heard
    (remote(place) / "go").touch()
    _, rest = watching.communicate(timeout=100)
    assert watching.returncode == 0, rest
    assert "001-actgrow  completed" in rest


def test_waiting_goes_on_over_a_broken_connection(tmp_path, sshd):
    with Proxy(sshd.port) as proxy:
        far.write(tmp_path, sshd.behind(proxy.port))
        submit("--act", "grow", cwd=tmp_path)
        waiting = far.background("wait", "r", cwd=tmp_path)
        until(lambda: states(tmp_path) == {"grow": "running"})
        proxy.refuse = True
        proxy.cut()
        assert waiting.stderr is not None
        said = ""
        while "refuses connections" not in said:
            heard = waiting.stderr.readline()
            assert heard, said
            said += heard
        (remote(tmp_path) / "go").touch()
        proxy.refuse = False
        _, rest = waiting.communicate(timeout=100)
        assert waiting.returncode == 0, said + rest
        assert states(tmp_path) == {"grow": "completed"}


# resume


def test_what_failed_is_started_again_and_what_it_left_is_kept_apart(anywhere):
    submit("--act", "ok,fail once", "--wait", cwd=anywhere, check=4)
    jobs = {act: case["job"] for act, case in cases(anywhere).items()}
    hpcbench("resume", "r", "--wait", cwd=anywhere, check=4)  # nothing to start
    assert ran(anywhere).count("002-actfail_once") == 1
    done = hpcbench("resume", "r", "--failed", "--wait", cwd=anywhere, check=0)
    assert "1 case to start" in done.stderr
    assert states(anywhere) == {"ok": "completed", "fail once": "completed"}
    again = {act: case["job"] for act, case in cases(anywhere).items()}
    assert again["ok"] == jobs["ok"]
    assert again["fail once"] != jobs["fail once"]
    assert (ran(anywhere).count("001-actok"), ran(anywhere).count("002-actfail_once")) == (1, 2)
    for root in {anywhere / "logs" / "r", remote(anywhere)}:
        kept = root / "002-actfail_once" / "attempt-1"
        assert json.loads((kept / "exit.json").read_text())["status"] == 3
        assert '"step": 100' in (kept / "stdout.log").read_text()
        assert json.loads((kept.parent / "exit.json").read_text())["status"] == 0
    hpcbench("parse", "logs/r", "-o", "metrics", cwd=anywhere, check=0)
    import pandas as pd

    steps = pd.read_parquet(next((anywhere / "metrics").rglob("steps*")))
    assert sorted(steps["step"]) == [0, 0, 1, 1, 2, 2]
    hpcbench("resume", "r", "--failed", cwd=anywhere, check=0)
    assert ran(anywhere).count("002-actfail_once") == 2


def test_what_was_cancelled_before_it_ran_can_be_started_again(place, slurm):
    for node in slurm.nodes:
        slurm.down(node)
    submit("--act", "ok,fine", cwd=place)
    hpcbench("cancel", "r", cwd=place, check=0)
    for node in slurm.nodes:
        slurm.up(node)
    hpcbench("resume", "r", "--failed", "--wait", cwd=place, check=0)
    assert states(place) == {"ok": "completed", "fine": "completed"}
    assert sorted(ran(place)) == ["001-actok", "002-actfine"]


# a benchmark of this project, from a sweep to a report


def test_gpt2_by_ssh_from_submit_to_report(tmp_path, sshd):
    pytest.importorskip("torch")
    far.write(tmp_path, sshd, job={"memory": "4G"})
    submit(
        "--benchmark", "gpt2", "--size", "nano", "--steps", "6", "--validate-every", "0", "--sample-tokens", "8",
        "--sequence-length", "16", "--batch", "1,2", "--wait", cwd=tmp_path,
    )  # fmt: skip
    done = hpcbench("parse", "logs/r", "--json", cwd=tmp_path, check=0)
    rows = json.loads(done.stdout)["sections"][0]["rows"]
    assert [row["point"]["batch"] for row in rows] == [1, 2]
    for row in rows:
        assert row["completed"] == 1
        assert row["metrics"]["step_time"]["mean"] > 0
        assert row["metrics"]["tokens_per_second"]["mean"] > 0
    hpcbench("report", "logs/r", cwd=tmp_path, check=0)
    report = (tmp_path / "reports" / "r" / "report.md").read_text()
    assert "GPT-2" in report
    assert "Test cluster" in report or "far" in report


def test_what_an_accounting_that_is_silent_would_know_is_unknown():
    told = Slurm().read("1|N/A|RUNNING|None\nsacct|silent\n", ["1", "2_3"])
    assert told == {"1": Seen("running", ""), "2_3": Seen("unknown", "Slurm's accounting does not answer")}


def test_a_refused_job_hides_no_running_one_and_is_sent_again_only_when_asked(anywhere):
    done = submit("--act", "hang", "--threads", "1,64", "--repeat", "2", cwd=anywhere, check=1)
    assert "far refuses the job: sbatch: error: " in far.line(done)
    toy.until(lambda: "running" in set(states_of(anywhere)))
    for _ in range(2):
        assert sorted(states_of(anywhere)) == ["failed", "planned", "planned", "running"]
    told = journal(anywhere)
    assert told.count(b'"rejected"') == 1
    hpcbench("resume", "r", cwd=anywhere, check=1)
    assert journal(anywhere).count(b'"rejected"') == 2
    hpcbench("cancel", "r", cwd=anywhere)


def states_of(place: Path) -> list[str]:
    out = hpcbench("status", "r", "--json", cwd=place, check=0).stdout
    return [each["state"] for each in json.loads(out)["cases"]]


def test_a_job_of_an_older_run_of_that_name_is_not_adopted(accounted, sshd_accounting):
    submit("--act", "ok", "--wait", cwd=accounted)
    hpcbench("clean", "r", "--yes", cwd=accounted, check=0)
    (accounted / "logs" / "r").rename(accounted / "logs" / "before")
    far.site(accounted, sshd_accounting, job={"partition": "nowhere"})
    assert "invalid partition specified" in far.line(submit("--act", "ok", cwd=accounted, check=1))
    assert states(accounted) == {"ok": "failed"}
