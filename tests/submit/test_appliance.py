"""A machine without a scheduler: a feeder there runs the cases, over real ssh."""

import json
import os
import random
import re
import signal
import subprocess
import threading
import time
from itertools import pairwise
from pathlib import Path

import far
import pytest
import toy
from far import background, cases, hpcbench, ran, remote, states, submit
from services import daemon, ssh
from services.proxy import Proxy
from toy import processes_under, until

from hpcbench.submit.schedulers import scheduler
from hpcbench.submit.schedulers.scheduler import script

NO_JOB = {"partition": None, "time": None, "cores": None, "memory": None}
SCRIPTS = sorted((Path(__file__).parents[2] / "hpcbench" / "submit" / "schedulers" / "scripts").glob("*.sh"))


@pytest.fixture(scope="module")
def machine(tmp_path_factory):
    """A host whose users' runs take turns among themselves, not with those of this machine."""
    folder = tmp_path_factory.mktemp("machine")
    if any(daemon.program(name) is None for name in ("sshd", "ssh")):
        pytest.skip("needs apt-get install openssh-server openssh-client")
    server = ssh.start(folder, environment={"XDG_CACHE_HOME": str(folder / "cache"), "HOME": str(folder)})
    yield server
    server.stop()


@pytest.fixture
def place(tmp_path, machine):
    yield write(tmp_path, machine)
    end(tmp_path)


def write(folder, machine, **keys):
    return far.write(folder, machine, **{"scheduler": "process", "job": NO_JOB, **keys})


def end(folder):
    """Leave nothing that runs to the next test: the feeder first, which would start more."""
    while found := processes_under(folder):
        toy.kill(sorted(found, key=lambda pid: "feed.sh" not in found[pid]))


def feeders(place, run="r"):
    """Return the processes that work on a run at the site: the feeder, and what it has just started for itself."""
    feeder = str(remote(place, run))
    return [pid for pid, command in processes_under(place).items() if "feed.sh" in command and at(pid) == feeder]


def at(pid):
    try:
        return str(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return ""


def record(place, case, name="exit", run="r"):
    return json.loads((remote(place, run) / case / f"{name}.json").read_text())


def spans(place, run="r"):
    return [(each["started"], each["ended"]) for each in (record(place, case, run=run) for case in ran(place, run))]


def on_site(place, *words, run="r"):
    """Call a function of the site's scripts in a run's folder, as a command of hpcbench does."""
    kind = scheduler("process")
    return subprocess.run(
        ["bash", "-c", f'{kind.script}\n"$@"\n', "hpcbench", *words],
        cwd=remote(place, run), capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("file", SCRIPTS, ids=lambda file: file.stem)
def test_scripts_are_bash(file):
    subprocess.run(["bash", "-n", file], check=True)
    later = r"\$\{\w+@|wait -n|-v \w+\[|EPOCH|mapfile -d|local -n|declare -n|\$\{\w+: -"  # than bash 4.2 of RHEL 7
    assert not re.search(later, file.read_text())


def test_every_case_has_its_true_state(place):
    acts = "ok,exit 3,kill 9,memory,silent"
    done = submit("--act", acts, "--wait", "--json", cwd=place, check=4)
    found = {each["parameters"]["act"]: each for each in json.loads(done.stdout)["cases"]}
    assert {act: case["state"] for act, case in found.items()} == {
        "ok": "completed", "exit 3": "failed", "kill 9": "failed", "memory": "out_of_memory", "silent": "failed",
    }  # fmt: skip
    assert found["exit 3"]["exit_status"] == 3
    assert states(place) == {act: case["state"] for act, case in found.items()}
    assert len(ran(place)) == 5
    rows = json.loads(hpcbench("parse", "logs/r", "--json", cwd=place, check=4).stdout)["sections"][0]["rows"]
    assert {row["point"]["act"]: row["completed"] for row in rows} == {act: int(act == "ok") for act in found}


def test_cases_run_one_after_another_in_the_order_of_the_plan(place):
    submit("--seconds", "0.2,0.1", "--repeat", "3", "--wait", cwd=place)
    planned = json.loads((place / "logs" / "r" / "run.json").read_text())["cases"]
    assert ran(place) == planned
    assert len(planned) == 6
    assert all(ended <= started for (_, ended), (started, _) in pairwise(spans(place)))
    assert feeders(place) == []


def test_slots_let_cases_run_at_once_on_cores_of_their_own(tmp_path, machine):
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        pytest.skip("needs two processors")
    write(tmp_path, machine, slots=2)
    submit("--act", "hang,wait,ok", "--seconds", "0", cwd=tmp_path)
    until(lambda: len(ran(tmp_path)) >= 2)
    until(lambda: states(tmp_path)["ok"] == "completed")
    used = {case: taken(tmp_path, case) for case in sorted(ran(tmp_path))}
    assert used["001-acthang"] != used["002-actwait"]
    assert all(len(each) == 1 for each in used.values())
    hpcbench("cancel", "r", cwd=tmp_path, check=0)
    assert states(tmp_path)["hang"] == "cancelled"
    until(lambda: not processes_under(tmp_path))


def taken(place, case):
    log = (remote(place) / case / "stdout.log").read_text()
    rows = [json.loads(line) for line in log.splitlines()]
    return json.loads(next(row["message"] for row in rows if row.get("kind") == "cores"))


def test_a_case_has_the_cores_it_asks_for_and_all_where_it_asks_for_more_than_there_are(place):
    count = len(os.sched_getaffinity(0))
    submit("--threads", f"1,{count},{count + 1}", "--wait", cwd=place)
    assert [len(taken(place, case)) for case in ran(place)] == [1, count, count]


def test_what_a_program_gets_is_as_by_hand(place):
    # a pipe that breaks ends a program, no lock is open in it, and it has no terminal
    file = place / "sites" / "far.yaml"
    setup = "grep SigIgn /proc/self/status; ls -l /proc/$$/fd | grep -c lock; tty; true"
    file.write_text(f"{file.read_text()}setup: {setup}\n")
    submit("--wait", cwd=place)
    log = (place / "logs" / "r" / "001" / "stdout.log").read_text().splitlines()
    ignored = int(log[0].split()[1], 16)
    assert [each.name for each in (signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM) if ignored >> (each - 1) & 1] == []
    assert log[1:3] == ["0", "not a tty"]


def test_what_a_program_leaves_running_is_gone_before_the_next_case(place):
    submit("--act", "leave a child,kill 9,ok", "--wait", cwd=place, check=4)
    until(lambda: not any("time.sleep(600)" in command for command in processes_under(place).values()))
    assert len(ran(place)) == 3


def test_a_feeder_does_nothing_while_a_case_runs(place):
    submit("--act", "hang", cwd=place)
    until(lambda: ran(place))
    (feeder,) = feeders(place)

    def ticks():  # its own and those of all it has started and waited for
        return sum(map(int, Path(f"/proc/{feeder}/stat").read_text().rpartition(") ")[2].split()[11:15]))

    until(lambda: Path(f"/proc/{feeder}/wchan").read_text() in ("do_wait", "0"))
    before = ticks()
    time.sleep(3)
    assert ticks() - before <= 1  # a tick is 10 ms
    hpcbench("cancel", "r", cwd=place, check=0)


def test_the_time_limit_ends_a_case(tmp_path, machine):
    write(tmp_path, machine, job={**NO_JOB, "time": "00:00:02"})
    submit("--act", "hang,ok", "--wait", cwd=tmp_path, check=4)
    found = cases(tmp_path)
    assert (found["hang"]["state"], found["hang"]["reason"]) == ("timeout", "ended at its time limit")
    assert found["ok"]["state"] == "completed"
    assert processes_under(tmp_path) == {}


def test_cancel_ends_what_runs_and_what_waits_and_can_be_said_twice(place):
    submit("--act", "ok,hang,fine,ignore TERM", cwd=place)
    until(lambda: len(ran(place)) == 2)
    assert states(place) == {"ok": "completed", "hang": "running", "fine": "queued", "ignore TERM": "queued"}
    hpcbench("cancel", "r", "003-actfine", cwd=place, check=0)
    assert states(place)["fine"] == "cancelled"
    hpcbench("cancel", "r", "002-acthang", cwd=place, check=0)
    assert states(place)["hang"] == "cancelled"
    until(lambda: "ignoring" in (remote(place) / "004-actignore_TERM" / "stdout.log").read_text()
          if len(ran(place)) == 3 else False)  # fmt: skip
    hpcbench("cancel", "r", cwd=place, check=0)
    ended = {"ok": "completed", "hang": "cancelled", "fine": "cancelled", "ignore TERM": "cancelled"}
    assert states(place) == ended
    until(lambda: not processes_under(place))
    before = far.journal(place)
    hpcbench("cancel", "r", cwd=place, check=0)
    assert far.journal(place) == before
    hpcbench("resume", "r", "--wait", cwd=place, check=4)
    assert len(ran(place)) == 3
    assert states(place) == ended


def test_what_was_cancelled_before_it_started_runs_when_asked_again(place):
    submit("--act", "hang,ok", cwd=place)
    until(lambda: ran(place))
    hpcbench("cancel", "r", cwd=place, check=0)
    assert states(place) == {"hang": "cancelled", "ok": "cancelled"}
    (remote(place) / "go").touch()
    hpcbench("resume", "r", "--failed", cwd=place, check=0)
    until(lambda: states(place)["hang"] == "running")
    hpcbench("cancel", "r", "001-acthang", cwd=place, check=0)
    hpcbench("wait", "r", cwd=place, check=4)
    assert states(place) == {"hang": "cancelled", "ok": "completed"}
    assert (remote(place) / "001-acthang" / "attempt-1" / "exit.json").exists()
    assert ran(place) == ["001-acthang", "001-acthang", "002-actok"]


def test_a_case_that_is_cancelled_while_it_is_being_started_never_runs(place):
    """A feeder that has chosen a case finds that it has started: by whoever cancelled it."""
    submit("--act", "hang,ok", cwd=place)
    until(lambda: ran(place))
    (feeder,) = feeders(place)
    os.kill(feeder, signal.SIGSTOP)
    on_site(place, "hb_cancel", "002-actok")
    subprocess.run(["bash", "002-actok/job.sh"], cwd=remote(place), check=True)  # what the feeder was about to do
    os.kill(feeder, signal.SIGCONT)
    hpcbench("cancel", "r", cwd=place, check=0)
    assert states(place) == {"hang": "cancelled", "ok": "cancelled"}
    assert ran(place) == ["001-acthang"]


def test_a_second_run_waits_for_the_first_and_can_be_cancelled_meanwhile(place):
    hpcbench("submit", "--site", "far", "--act", "hang", "--name", "a", cwd=place, check=0)
    until(lambda: ran(place, "a"))
    for name in ("b", "c"):
        hpcbench("submit", "--site", "far", "--name", name, cwd=place, check=0)
    assert states(place, "b") == {"ok": "queued"}
    hpcbench("cancel", "c", cwd=place, check=0)
    assert states(place, "c") == {"ok": "cancelled"}
    hpcbench("cancel", "a", cwd=place, check=0)
    hpcbench("wait", "b", cwd=place, check=0)
    assert spans(place, "a")[0][1] <= spans(place, "b")[0][0]
    until(lambda: not feeders(place, "c"))
    assert ran(place, "c") == []


def test_a_feeder_that_is_killed_while_it_waits_for_its_turn_leaves_no_lock(place):
    hpcbench("submit", "--site", "far", "--act", "hang", "--name", "a", cwd=place, check=0)
    until(lambda: ran(place, "a"))
    submit(cwd=place)
    until(lambda: any("flock" in command for command in processes_under(remote(place)).values()))
    for feeder in feeders(place):
        os.kill(feeder, signal.SIGKILL)
    hpcbench("resume", "r", cwd=place, check=0)
    assert states(place) == {"ok": "queued"}
    hpcbench("cancel", "a", cwd=place, check=0)
    hpcbench("wait", "r", cwd=place, check=0)
    assert ran(place) == ["001"]


def test_a_second_feeder_finds_the_first_at_work(place):
    submit("--act", "hang,ok", cwd=place)
    until(lambda: ran(place))
    (feeder,) = feeders(place)
    done = subprocess.run(["bash", "groups/feed.sh"], cwd=remote(place), check=False, env=environment(place))
    assert done.returncode == 0
    assert feeders(place) == [feeder]
    hpcbench("resume", "r", cwd=place, check=0)
    assert ran(place) == ["001-acthang"]
    hpcbench("cancel", "r", cwd=place, check=0)


def environment(place):
    return {**os.environ, "XDG_CACHE_HOME": str(place / "turns")}


def test_many_feeders_at_once_run_each_case_once(place):
    submit("--seconds", "0:0.07:0.01", "--dry-run", cwd=place)
    hpcbench("resume", "r", cwd=place, check=0)
    many = [subprocess.Popen(["bash", "groups/feed.sh"], cwd=remote(place), env=environment(place)) for _ in range(8)]
    assert [each.wait(60) for each in many] == [0] * 8
    hpcbench("wait", "r", cwd=place, check=0)
    assert sorted(ran(place)) == sorted(json.loads((place / "logs" / "r" / "run.json").read_text())["cases"])


@pytest.mark.parametrize("seed", range(10))
def test_a_feeder_killed_at_a_random_moment_then_resume_runs_each_case_once(place, seed):
    draw = random.Random(seed)
    submit("--seconds", "0.01:0.08:0.01", cwd=place)
    for _ in range(draw.randrange(1, 4)):
        time.sleep(draw.uniform(0.0, 0.6))
        toy.kill(feeders(place))
        hpcbench("resume", "r", cwd=place, check=0)
    hpcbench("wait", "r", cwd=place, check=0)
    assert set(states(place).values()) == {"completed"}
    assert ran(place) == json.loads((place / "logs" / "r" / "run.json").read_text())["cases"]
    assert all(ended <= started for (_, ended), (started, _) in pairwise(spans(place)))


@pytest.mark.parametrize("seed", range(10))
def test_hpcbench_killed_at_a_random_moment_of_submit_then_resume_runs_each_case_once(place, seed):
    draw = random.Random(100 + seed)
    submitting = background("submit", "--site", "far", "--name", "r", "--seconds", "0.01:0.08:0.01", cwd=place)
    if seed % 2:  # around the two round trips, the first of which makes the run's folder there
        until(lambda: (place / "remote" / "r").exists() or submitting.poll() is not None)
        time.sleep(draw.uniform(0.0, 0.3))
    else:
        time.sleep(draw.uniform(0.3, 2.0))
    submitting.kill()
    submitting.communicate()
    if not (place / "logs" / "r").exists():
        assert not list((place / "logs").glob("[!.]*"))
        return
    hpcbench("resume", "r", cwd=place, check=0)
    hpcbench("wait", "r", cwd=place, check=0)
    assert set(states(place).values()) == {"completed"}
    assert ran(place) == json.loads((place / "logs" / "r" / "run.json").read_text())["cases"]


@pytest.mark.parametrize("seed", range(4))
def test_a_connection_cut_in_a_submit_then_resume_runs_each_case_once(tmp_path, machine, seed):
    draw = random.Random(200 + seed)
    with Proxy(machine.port) as proxy:
        write(tmp_path, machine.behind(proxy.port))
        proxy.cut_after(draw.randrange(3_000, 60_000))
        done = submit("--seconds", "0.01:0.08:0.01", cwd=tmp_path, check=None)
        assert done.returncode in (0, 3)
        proxy.cut_after(1 << 30)
        hpcbench("resume", "r", cwd=tmp_path, check=0)
        hpcbench("wait", "r", cwd=tmp_path, check=0)
    assert set(states_of(tmp_path)) == {"completed"}
    assert ran(tmp_path) == json.loads((tmp_path / "logs" / "r" / "run.json").read_text())["cases"]
    end(tmp_path)


def states_of(place):
    return states(place, "r", "--offline").values()


def test_a_connection_that_is_gone_changes_nothing(tmp_path, machine):
    with Proxy(machine.port) as proxy:
        write(tmp_path, machine.behind(proxy.port))
        submit("--act", "grow,ok", cwd=tmp_path)
        until(lambda: ran(tmp_path))
        waiting = background("wait", "r", cwd=tmp_path)
        proxy.refuse = True
        proxy.cut()
        before = far.journal(tmp_path)
        assert set(states(tmp_path, check=3).values()) == {"unknown"}
        assert far.journal(tmp_path) == before
        (remote(tmp_path) / "go").touch()
        until(lambda: len(ran(tmp_path)) == 2)
        proxy.refuse = False
        waiting.communicate(timeout=100)
        assert waiting.returncode == 0
        assert states(tmp_path) == {"grow": "completed", "ok": "completed"}
    end(tmp_path)


def test_a_sweep_cancelled_by_one_whose_submit_was_cut_off_leaves_nothing_running(place):
    """The feeder is at work, and the journal here ends before it was told so."""
    submit("--act", "hang,ok", cwd=place)
    until(lambda: ran(place))
    journal = place / "logs" / "r" / "journal.jsonl"
    lines = journal.read_text().splitlines()
    cut = next(index for index, line in enumerate(lines) if '"submitted"' in line)
    journal.write_text("".join(f"{line}\n" for line in lines[:cut]))
    for file in remote(place).glob("groups/*.id"):
        file.unlink()
    hpcbench("cancel", "r", cwd=place, check=0)
    assert states(place) == {"hang": "cancelled", "ok": "cancelled"}
    until(lambda: not processes_under(place))
    assert ran(place) == ["001-acthang"]


def test_a_killed_job_script_is_lost_and_its_program_does_not_run_on(place):
    submit("--act", "hang,ok", cwd=place)
    until(lambda: ran(place))
    os.kill(record(place, "001-acthang", "started")["pid"], signal.SIGKILL)
    hpcbench("wait", "r", cwd=place, check=4)
    found = cases(place)
    assert (found["hang"]["state"], found["ok"]["state"]) == ("lost", "completed")
    assert found["hang"]["reason"] == "its process is gone and left no exit record"
    assert processes_under(place) == {}
    hpcbench("resume", "r", cwd=place, check=0)
    assert ran(place) == ["001-acthang", "002-actok"]


def test_what_a_lost_case_left_running_is_ended_by_the_feeder_that_takes_over(place):
    submit("--act", "hang,ok", cwd=place)
    until(lambda: ran(place))
    script_process = record(place, "001-acthang", "started")["pid"]
    toy.kill([*feeders(place), script_process])
    assert any("--act=hang" in command for command in processes_under(place).values())
    assert states(place)["hang"] == "lost"
    hpcbench("wait", "r", cwd=place, check=4)
    assert processes_under(place) == {}


def test_a_case_that_ran_when_the_host_was_restarted_is_lost_and_the_others_go_on(place):
    submit("--act", "hang,ok", cwd=place)
    until(lambda: ran(place))
    end(place)
    file = remote(place) / "001-acthang" / "started.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "boot": "another-boot", "pid": os.getpid()}) + "\n")
    host, _, birth, _ = (remote(place) / "feeder").read_text().split()
    (remote(place) / "feeder").write_text(f"{host} {os.getpid()} {birth} another-boot\n")
    hpcbench("wait", "r", cwd=place, check=4)
    found = cases(place)
    assert found["ok"]["state"] == "completed"
    assert (found["hang"]["state"], "was restarted while it ran" in found["hang"]["reason"]) == ("lost", True)
    hpcbench("resume", "r", "--failed", cwd=place, check=0)
    until(lambda: states(place)["hang"] == "running")
    hpcbench("cancel", "r", cwd=place, check=0)


def test_where_another_host_of_the_login_answers_nothing_is_claimed_of_its_processes(place):
    submit("--act", "hang,ok", cwd=place)
    until(lambda: ran(place))
    file = remote(place) / "001-acthang" / "started.json"
    mine = file.read_text()
    file.write_text(json.dumps({**json.loads(mine), "host": "elsewhere"}) + "\n")
    feeder = (remote(place) / "feeder").read_text()
    (remote(place) / "feeder").write_text(f"elsewhere {feeder.partition(' ')[2]}")
    found = cases(place)
    assert found["hang"]["state"] == "unknown"
    assert found["hang"]["reason"] == "runs on elsewhere, which is not the host that answers"
    assert found["ok"]["state"] == "queued"  # its feeder has the lock
    done = hpcbench("cancel", "r", cwd=place, check=3)
    assert "001-acthang runs on elsewhere, which is not the host that answers" in far.line(done)
    file.write_text(mine)
    (remote(place) / "feeder").write_text(feeder)
    hpcbench("cancel", "r", cwd=place, check=0)
    assert states(place) == {"hang": "cancelled", "ok": "cancelled"}


def test_a_job_script_that_cannot_start_is_failed_and_the_others_go_on(place):
    submit("--act", "hang,bad,ok", cwd=place)
    until(lambda: ran(place))
    job = remote(place) / "002-actbad" / "job.sh"
    text = job.read_text()
    job.write_text("exit 74\n")
    hpcbench("cancel", "r", "001-acthang", cwd=place, check=0)
    hpcbench("wait", "r", cwd=place, check=4)
    assert states(place) == {"hang": "cancelled", "bad": "failed", "ok": "completed"}
    assert cases(place)["bad"]["reason"] == "its job script could not start"
    job.write_text(text)
    hpcbench("resume", "r", "--failed", cwd=place, check=0)
    until(lambda: states(place)["hang"] == "running")
    hpcbench("cancel", "r", "001-acthang", cwd=place, check=0)
    hpcbench("wait", "r", cwd=place, check=4)
    assert states(place) == {"hang": "cancelled", "bad": "completed", "ok": "completed"}


def test_a_case_of_which_not_even_the_process_was_written_is_lost(place):
    submit("--act", "hang,ok", cwd=place)
    until(lambda: ran(place))
    end(place)
    file = remote(place) / "001-acthang" / "started.json"
    file.write_text("")
    os.utime(file, (time.time() - 60, time.time() - 60))
    hpcbench("wait", "r", cwd=place, check=4)
    found = cases(place)
    assert (found["hang"]["state"], found["ok"]["state"]) == ("lost", "completed")
    assert found["hang"]["reason"] == "it started, but not even its process number was written"


def test_a_host_that_cannot_feed_says_so_in_one_line(place):
    (place / "remote" / "r").mkdir(parents=True)
    (place / "remote" / "r" / "lock").mkdir()
    done = submit(cwd=place, check=None)
    assert done.returncode != 0
    assert "far refuses the job" in far.line(done)
    assert "lock" in far.line(done)
    (place / "remote" / "r" / "lock").rmdir()
    hpcbench("resume", "r", "--wait", cwd=place, check=0)
    assert ran(place) == ["001"]


def test_a_feeder_that_gives_way_sees_what_came_meanwhile(place):
    """Cases that come while a feeder gives up its lock: either it sees them, or the next one has the lock."""
    submit("--seconds", "0.01", cwd=place)
    until(lambda: not feeders(place))
    run = remote(place)
    late = "cp -r 001 002 && rm 002/*.json && echo 002 >groups/g0009.cases; bash groups/feed.sh"
    slow = script("cases") + script("feed").replace(
        "  exec 9>&-\n", f"  [[ -e late ]] || {{ touch late; {late}; }}\n  exec 9>&-\n"
    )
    (run / "groups" / "slow.sh").write_text(slow)
    subprocess.run(["bash", "groups/slow.sh"], cwd=run, check=True, env=environment(place), timeout=60)
    assert ran(place) == ["001", "002"]


def test_resume_failed_runs_again_what_failed_and_keeps_what_it_left(place):
    submit("--act", "ok,fail once,exit 3", "--wait", cwd=place, check=4)
    hpcbench("fetch", "r", cwd=place, check=0)
    hpcbench("resume", "r", "--failed", "--wait", cwd=place, check=4)
    assert states(place) == {"ok": "completed", "fail once": "completed", "exit 3": "failed"}
    assert ran(place) == [
        "001-actok", "002-actfail_once", "003-actexit_3", "002-actfail_once", "003-actexit_3",
    ]  # fmt: skip
    here = place / "logs" / "r" / "002-actfail_once"
    assert json.loads((here / "attempt-1" / "exit.json").read_text())["status"] == 3
    assert json.loads((here / "exit.json").read_text())["status"] == 0


def test_what_fails_is_run_again_while_others_wait_only_once_it_was_sent(place):
    """The feeder at work sees a case of which the earlier attempt is gone: it does not take it unasked."""
    submit("--act", "exit 3,hang,ok", cwd=place)
    until(lambda: len(ran(place)) == 2)
    assert states(place)["exit 3"] == "failed"
    run = remote(place)
    kind = scheduler("process")
    again = ["bash", "-c", f'{kind.script}\n"$@"\n', "hpcbench", "hb_again", str(run)]
    for _ in range(2):  # the first was cut off before anybody here knew
        subprocess.run(again, input="001-actexit_3\n", text=True, check=True, capture_output=True)
    assert sorted(file.name for file in (run / "001-actexit_3").glob("attempt-*")) == ["attempt-1"]
    hpcbench("cancel", "r", "002-acthang", cwd=place, check=0)
    until(lambda: len(ran(place)) == 3)
    until(lambda: not feeders(place))
    assert ran(place) == ["001-actexit_3", "002-acthang", "003-actok"]
    hpcbench("resume", "r", "--failed", cwd=place, check=0)
    until(lambda: len(ran(place)) >= 5)
    hpcbench("cancel", "r", cwd=place, check=0)
    assert ran(place).count("001-actexit_3") == 2
    assert sorted(file.name for file in (run / "001-actexit_3").glob("attempt-*")) == ["attempt-1"]


def test_logs_grow_here_as_they_grow_there(place):
    submit("--act", "grow", cwd=place)
    log = place / "logs" / "r" / "001" / "stdout.log"
    sizes = []

    def grows():
        hpcbench("fetch", "r", cwd=place, check=0)
        sizes.append(log.stat().st_size if log.exists() else 0)
        return len({size for size in sizes if size}) >= 3

    until(grows)
    assert sizes == sorted(sizes)
    assert states(place) == {"grow": "running"}
    assert "steps" in hpcbench("parse", "logs/r", "--json", cwd=place).stdout
    (remote(place) / "go").touch()
    hpcbench("wait", "r", cwd=place, check=0)
    assert log.read_bytes() == (remote(place) / "001" / "stdout.log").read_bytes()


def test_names_of_cases_with_every_letter_they_may_have(place):
    values = ["a+b", "x.y", "p_q", "-m", "A b;c", "$(id)", "*", "..", "é", "'"]
    submit("--act", ",".join(f'"{each}"' for each in values), "--wait", cwd=place)
    assert len(ran(place)) == len(values)
    assert set(states(place).values()) == {"completed"}
    assert any("+" in case for case in ran(place))


def test_clean_while_a_feeder_waits_for_its_turn_ends_it(place):
    hpcbench("submit", "--site", "far", "--act", "hang", "--name", "a", cwd=place, check=0)
    until(lambda: ran(place, "a"))
    submit(cwd=place)
    hpcbench("cancel", "r", cwd=place, check=0)
    hpcbench("clean", "r", "--yes", cwd=place, check=0)
    assert not (place / "remote" / "r").exists()
    hpcbench("cancel", "a", cwd=place, check=0)
    until(lambda: not processes_under(place))


def test_two_sweeps_by_two_clients_at_once(place):
    names = ["a", "b", "c"]
    done = {}

    def one(name):
        done[name] = hpcbench("submit", "--site", "far", "--seconds", "0.1,0.2", "--name", name, "--wait", cwd=place)

    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [done[name].returncode for name in names] == [0, 0, 0]
    all_spans = sorted(span for name in names for span in spans(place, name))
    assert len(all_spans) == 6
    assert all(ended <= started for (_, ended), (started, _) in pairwise(all_spans))
