import json
import os
import pty
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import toy
from toy import hpcbench, kill, processes_under, ran, states, until


@pytest.fixture
def place(tmp_path):
    toy.write(tmp_path)
    yield tmp_path
    kill(processes_under(tmp_path))


def events(place: Path, run: str, case: str) -> dict[str, str]:
    """Return kind → message of the events that a case's program logged."""
    log = place / "logs" / run / case / "stdout.log"
    rows = [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
    return {row["kind"]: row.get("message", "") for row in rows if row["record"] == "event"}


def feeders(place: Path) -> list[int]:
    """Return the processes of submitit that work on runs here: its controller and the one that feeds."""
    return [pid for pid, command in processes_under(place).items() if "submitit" in command]


def test_every_case_has_its_true_state_and_the_others_numbers_stand(place):
    acts = "ok,exit 3,kill 9,memory,silent"
    done = hpcbench(
        "submit", "--benchmark", "toy", "--act", acts, "--name", "r", "--wait", "--json", cwd=place, check=4
    )
    cases = {each["parameters"]["act"]: each for each in json.loads(done.stdout)["cases"]}
    assert {act: case["state"] for act, case in cases.items()} == {
        "ok": "completed",
        "exit 3": "failed",
        "kill 9": "failed",
        "memory": "out_of_memory",
        "silent": "failed",
    }
    assert cases["exit 3"]["exit_status"] == 3
    assert "KILL" in cases["kill 9"]["reason"]
    assert "MemoryError" in cases["memory"]["reason"]
    assert "end marker" in cases["silent"]["reason"]
    assert states(place, "r") == {each["case"]: each["state"] for each in cases.values()}

    hpcbench("report", "logs/r", cwd=place, check=4)
    report = (place / "reports" / "r" / "report.md").read_text()
    data = json.loads((place / "reports" / "r" / "report.json").read_text())
    rows = {row["point"]["act"]: row for row in data["sections"][0]["rows"]}
    assert rows["ok"]["metrics"]["step_time"]["mean"] == pytest.approx(0.265)
    assert rows["exit 3"]["completed"] == 0
    assert rows["exit 3"]["metrics"]["step_time"]["mean"] is None
    for reason in ("exit status 3", "killed by signal KILL", "out of memory", "no end marker"):
        assert reason in report


def test_submit_returns_while_the_sweep_goes_on_and_its_output_is_closed(place):
    # capture_output waits for every process that holds the pipe: a background process that kept it would hang here
    hpcbench("submit", "--benchmark", "toy", "--act", "hang", "--name", "r", cwd=place, check=0)
    until(lambda: states(place, "r")["001"] == "running")
    hpcbench("cancel", "r", cwd=place, check=0)


def test_cases_run_one_after_another_in_the_order_of_the_plan(place):
    hpcbench(
        "submit",
        "--benchmark",
        "toy",
        "--seconds",
        "0.1,0.2",
        "--repeat",
        "2",
        "--name",
        "r",
        "--wait",
        cwd=place,
        check=0,
    )
    assert ran(place, "r") == ["001-seconds0.1", "002-seconds0.2", "003-seconds0.1", "004-seconds0.2"]
    spans = []
    for case in ran(place, "r"):
        record = json.loads((place / "logs" / "r" / case / "exit.json").read_text())
        spans.append((record["started"], record["ended"]))
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_slots_of_the_site_let_cases_run_at_once_on_cores_of_their_own(place):
    (place / "sites").mkdir()
    (place / "sites" / "two.yaml").write_text("title: Two at once\nslots: 2\n")
    hpcbench(
        "submit", "--site", "two", "--benchmark", "toy", "--act", "ok,fine", "--seconds", "1.5", "--name", "r",
        "--wait", cwd=place, check=0,
    )  # fmt: skip
    records = [json.loads((place / "logs" / "r" / case / "exit.json").read_text()) for case in ran(place, "r")]
    assert max(each["started"] for each in records) < min(each["ended"] for each in records)
    cores = [json.loads(events(place, "r", case)["cores"]) for case in ran(place, "r")]
    assert [len(each) for each in cores] == [1, 1]
    assert cores[0] != cores[1]


def test_a_case_is_pinned_to_the_cores_it_asked_for(place):
    hpcbench("submit", "--benchmark", "toy", "--threads", "1", "--name", "r", "--wait", cwd=place, check=0)
    assert len(json.loads(events(place, "r", "001")["cores"])) == 1


def test_more_cores_than_there_are_is_refused_unless_the_site_allows_it(place):
    there = len(os.sched_getaffinity(0))
    done = hpcbench("submit", "--benchmark", "toy", "--threads", str(there + 1), cwd=place, check=2)
    assert f"asks for {there + 1} cores and site local has {there}" in done.stderr
    assert not (place / "logs").exists()
    (place / "sites").mkdir()
    (place / "sites" / "more.yaml").write_text("title: More\noversubscribe: true\n")
    hpcbench(
        "submit", "--site", "more", "--benchmark", "toy", "--threads", str(there + 1), "--name", "r", "--wait",
        cwd=place, check=0,
    )  # fmt: skip
    assert len(json.loads(events(place, "r", "001")["cores"])) == there


HOSTILE = [
    "it's",
    'a "b" c',
    "$(touch pwned)",
    "`touch pwned`",
    "-rf",
    "--",
    "a\nb",
    "a\\nb",
    "*",
    "~",
    "é✓",
    " ",
    ";",
    "%s",
    "!x",
]


def test_hostile_values_arrive_exactly_as_given(place):
    script = "import hpcbench, sys, json; hpcbench.submit('local', 'toy', {'act': json.loads(sys.argv[1])}, name='r')"
    subprocess.run([sys.executable, "-c", script, json.dumps(HOSTILE)], cwd=place, check=True, timeout=60)
    hpcbench("wait", "r", cwd=place, check=0)
    assert [events(place, "r", case)["argument"] for case in ran(place, "r")] == HOSTILE
    assert not list(place.rglob("pwned"))


def test_the_job_gets_the_environment_of_the_submitter_not_submitits(place):
    hpcbench(
        "submit",
        "--benchmark",
        "toy",
        "--name",
        "r",
        "--wait",
        cwd=place,
        check=0,
        CUDA_VISIBLE_DEVICES="1",
        MINE="yes",
    )
    environment = json.loads(events(place, "r", "001")["environment"])
    assert environment["MINE"] == "yes"
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert not [name for name in environment if name.startswith("SUBMITIT")]


def test_without_visible_gpus_set_none_are_hidden(place):
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    command = [sys.executable, "-m", "hpcbench", "submit", "--benchmark", "toy", "--name", "r", "--wait"]
    subprocess.run(command, cwd=place, env=environment, check=True, timeout=60, capture_output=True)
    assert "CUDA_VISIBLE_DEVICES" not in json.loads(events(place, "r", "001")["environment"])


def test_a_token_in_the_environment_is_in_no_file_that_hpcbench_wrote(place):
    toy_without_environment = toy.PROGRAM.replace('record(record="event", kind="environment"', 'dict(record="event"')
    (place / "templates" / "toy" / "toy_program.py").write_text(toy_without_environment)
    hpcbench("submit", "--benchmark", "toy", "--name", "r", "--wait", cwd=place, check=0, API_TOKEN="c4n4ry-t0k3n")
    hpcbench("report", "logs/r", cwd=place, check=0, API_TOKEN="c4n4ry-t0k3n")
    holding = [file for file in place.rglob("*") if file.is_file() and b"c4n4ry-t0k3n" in file.read_bytes()]
    assert holding == []


def test_time_limit_of_the_site_ends_a_case(place):
    (place / "sites").mkdir()
    (place / "sites" / "short.yaml").write_text('title: Short\njob: {time: "0:00:01"}\n')
    hpcbench(
        "submit",
        "--site",
        "short",
        "--benchmark",
        "toy",
        "--act",
        "hang,ok",
        "--name",
        "r",
        "--wait",
        cwd=place,
        check=4,
    )
    assert list(states(place, "r").values()) == ["timeout", "completed"]


def test_setup_of_the_site_runs_first_and_its_failure_is_told(place):
    (place / "sites").mkdir()
    (place / "sites" / "good.yaml").write_text("title: Good\nenv: {A: 'x y'}\nsetup: |\n  export B=${A}-${HOME:+set}\n")
    (place / "sites" / "bad.yaml").write_text("title: Bad\nsetup: |\n  echo no module >&2\n  false\n")
    hpcbench("submit", "--site", "good", "--benchmark", "toy", "--name", "g", "--wait", cwd=place, check=0)
    assert json.loads(events(place, "g", "001")["environment"])["B"] == "x y-set"
    done = hpcbench("submit", "--site", "bad", "--benchmark", "toy", "--name", "b", "--wait", cwd=place, check=1)
    assert "the site's setup ended with status 1" in done.stderr
    assert ran(place, "b") == []


@pytest.mark.parametrize("setup", ["set -euo pipefail", "cd /tmp", "trap 'echo mine' DEBUG", "alias x=y"])
def test_usual_lines_of_a_setup_do_no_harm(place, setup):
    (place / "sites").mkdir()
    (place / "sites" / "usual.yaml").write_text(f"title: Usual\nsetup: |\n  {setup}\n")
    hpcbench(
        "submit",
        "--site",
        "usual",
        "--benchmark",
        "toy",
        "--act",
        "ok,exit 3",
        "--name",
        "r",
        "--wait",
        cwd=place,
        check=4,
    )
    assert list(states(place, "r").values()) == ["completed", "failed"]
    assert "exit status 3" in hpcbench("status", "r", cwd=place).stdout


def test_a_setup_that_exits_is_not_a_completed_case(place):
    (place / "sites").mkdir()
    (place / "sites" / "exits.yaml").write_text("title: Exits\nsetup: exit 0\n")
    done = hpcbench("submit", "--site", "exits", "--benchmark", "toy", "--name", "r", "--wait", cwd=place, check=1)
    assert "the site's setup ended with status 0 before the program began" in done.stderr


def test_wall_time_is_the_programs_own_without_the_setup(place):
    (place / "sites").mkdir()
    (place / "sites" / "slow.yaml").write_text("title: Slow\nsetup: sleep 2\n")
    hpcbench("submit", "--site", "slow", "--benchmark", "toy", "--name", "r", "--wait", cwd=place, check=0)
    record = json.loads((place / "logs" / "r" / "001" / "exit.json").read_text())
    assert record["wall_time"] < record["ended"] - record["started"] - 1.9


def test_a_pipe_in_a_program_ends_as_in_a_shell(place):
    pipe = toy.BENCHMARK.replace(
        'command: ["{{ python }}", "{{ program }}", "--act={{ act }}", "--seconds={{ seconds }}"]',
        "command: [bash, -c, 'yes | head -1']",
    ).replace("end: {", "# end: {")
    (place / "templates" / "toy" / "benchmark.yaml").write_text(pipe)
    hpcbench("submit", "--benchmark", "toy", "--name", "r", "--wait", cwd=place, check=0)
    assert (place / "logs" / "r" / "001" / "stderr.log").read_text() == ""


def test_two_runs_take_turns_on_the_machine(place):
    for name, act in (("a", "hang"), ("b", "ok")):
        hpcbench("submit", "--benchmark", "toy", "--act", act, "--name", name, cwd=place, check=0)
    until(lambda: ran(place, "a"))
    assert set(states(place, "b").values()) == {"queued"}
    hpcbench("cancel", "a", cwd=place, check=0)
    hpcbench("wait", "b", cwd=place, check=0)
    first, second = (json.loads((place / "logs" / name / "001" / "exit.json").read_text()) for name in ("a", "b"))
    assert first["ended"] <= second["started"]


def test_a_run_that_waits_for_the_machine_can_be_cancelled(place):
    hpcbench("submit", "--benchmark", "toy", "--act", "hang", "--name", "a", cwd=place, check=0)
    hpcbench("submit", "--benchmark", "toy", "--name", "b", cwd=place, check=0)
    hpcbench("cancel", "b", cwd=place, check=0)
    assert set(states(place, "b").values()) == {"cancelled"}
    hpcbench("cancel", "a", cwd=place, check=0)


def test_what_a_program_leaves_running_is_gone_before_the_next_case(place):
    hpcbench("submit", "--benchmark", "toy", "--act", "leave a child,ok", "--name", "r", "--wait", cwd=place, check=0)
    until(lambda: not any("time.sleep(600)" in command for command in processes_under(place).values()))


def test_it_works_without_python_on_the_site_and_without_perf(place, tmp_path_factory):
    # a PATH with the few tools a job script needs, and no python3
    tools = tmp_path_factory.mktemp("tools")
    for name in ("bash", "sh", "date", "sleep", "mv", "rm", "uname", "dirname", "env"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        (tools / name).symlink_to(found)
    hpcbench(
        "submit", "--benchmark", "toy", "--act", "ok,exit 3,kill 9", "--name", "r", "--dry-run", cwd=place, check=0
    )
    for case, status, sent in (("001-actok", 0, None), ("002-actexit_3", 3, None), ("003-actkill_9", None, "KILL")):
        folder = place / "logs" / "r" / case
        subprocess.run([tools / "bash", "job.sh"], cwd=folder, env={"PATH": str(tools)}, check=False, timeout=60)
        record = json.loads((folder / "exit.json").read_text())
        assert (record["status"], record["signal"], record["max_memory"]) == (status, sent, None)


def test_a_job_script_started_twice_runs_its_program_once(place):
    hpcbench("submit", "--benchmark", "toy", "--seconds", "0.5", "--name", "r", "--dry-run", cwd=place, check=0)
    folder = place / "logs" / "r" / "001"
    twice = [subprocess.Popen(["bash", "job.sh"], cwd=folder) for _ in range(8)]
    assert [each.wait(timeout=60) for each in twice].count(0) == 8
    assert ran(place, "r") == ["001"]


def test_the_exit_record_tells_peak_memory_and_cpu_time(place):
    hpcbench("submit", "--benchmark", "toy", "--name", "r", "--wait", cwd=place, check=0)
    record = json.loads((place / "logs" / "r" / "001" / "exit.json").read_text())
    assert record["ended"] >= record["started"]
    assert 4 << 20 < record["max_memory"] < 1 << 30
    assert record["user_time"] >= 0
    assert record["host"]


def test_perf_stat_wraps_the_program_where_it_exists_and_still_tells_the_signal(place):
    if subprocess.run(["perf", "stat", "true"], capture_output=True, check=False).returncode:
        pytest.skip("perf stat does not work on this machine")
    (place / "templates" / "toy" / "benchmark.yaml").write_text(toy.BENCHMARK + "perf: true\n")
    hpcbench("submit", "--benchmark", "toy", "--act", "ok,kill 9", "--name", "r", "--wait", cwd=place, check=4)
    assert "task-clock" in (place / "logs" / "r" / "001-actok" / "perf.txt").read_text()
    assert json.loads((place / "logs" / "r" / "002-actkill_9" / "exit.json").read_text())["signal"] == "KILL"


# cancel


def test_cancel_ends_what_runs_and_keeps_what_ended(place):
    hpcbench("submit", "--benchmark", "toy", "--act", "ok,hang,fine", "--name", "r", cwd=place, check=0)
    until(lambda: states(place, "r")["002-acthang"] == "running" and len(ran(place, "r")) == 2)
    hpcbench("cancel", "r", cwd=place, check=0)
    assert list(states(place, "r").values()) == ["completed", "cancelled", "cancelled"]
    until(lambda: not processes_under(place))
    hpcbench("cancel", "r", cwd=place, check=0)
    assert list(states(place, "r").values()) == ["completed", "cancelled", "cancelled"]
    hpcbench("resume", "r", "--wait", cwd=place, check=4)
    assert ran(place, "r") == ["001-actok", "002-acthang"]


def test_cancel_of_one_case_lets_the_others_go_on(place):
    hpcbench("submit", "--benchmark", "toy", "--act", "hang,ok", "--name", "r", cwd=place, check=0)
    until(lambda: len(ran(place, "r")) == 1)
    hpcbench("cancel", "r", "001-acthang", cwd=place, check=0)
    hpcbench("wait", "r", cwd=place, check=4)
    assert list(states(place, "r").values()) == ["cancelled", "completed"]


def test_no_cancel_request_is_lost_while_another_is_carried_out(place):
    hpcbench("submit", "--benchmark", "toy", "--act", "ignore TERM,hang,ok", "--name", "r", cwd=place, check=0)
    until(lambda: "ignoring" in (events(place, "r", "001-actignore_TERM") if len(ran(place, "r")) else {}))
    command = [sys.executable, "-m", "hpcbench", "cancel", "r"]
    both = [subprocess.Popen([*command, case], cwd=place, stdout=-3) for case in ("001-actignore_TERM", "002-acthang")]
    assert [each.wait(timeout=60) for each in both] == [0, 0]
    hpcbench("wait", "r", cwd=place, check=4)
    assert list(states(place, "r").values()) == ["cancelled", "cancelled", "completed"]


def test_a_job_of_another_machine_is_unknown_counts_in_no_mean_and_cannot_be_cancelled(place):
    hpcbench("submit", "--benchmark", "toy", "--act", "ok,hang", "--name", "r", cwd=place, check=0)
    until(lambda: len(ran(place, "r")) == 2)
    kill(processes_under(place))
    started = place / "logs" / "r" / "002-acthang" / "started.json"
    started.write_text(json.dumps({**json.loads(started.read_text()), "host": "elsewhere"}))
    assert list(states(place, "r").values()) == ["completed", "unknown"]
    assert "could not be cancelled" in hpcbench("cancel", "r", cwd=place, check=4).stderr
    assert list(states(place, "r").values()) == ["completed", "unknown"]
    rows = json.loads(hpcbench("parse", "logs/r", "--json", cwd=place, check=4).stdout)["sections"][0]["rows"]
    assert {row["point"]["act"]: row["completed"] for row in rows} == {"ok": 1, "hang": 0}


def test_a_failed_case_is_failed_when_only_its_folder_is_read(place):
    hpcbench("submit", "--benchmark", "toy", "--act", "exit 3", "--name", "r", "--wait", cwd=place, check=1)
    done = hpcbench("parse", "logs/r/001", cwd=place, check=1)
    assert "failed, exit status 3" in done.stdout


def test_cancel_works_when_nothing_feeds_the_run(place):
    hpcbench("submit", "--benchmark", "toy", "--act", "hang,ok", "--name", "r", cwd=place, check=0)
    until(lambda: len(ran(place, "r")) == 1)
    kill(feeders(place))
    hpcbench("cancel", "r", cwd=place, check=0)
    assert list(states(place, "r").values()) == ["cancelled", "cancelled"]
    until(lambda: not processes_under(place))


def test_cancel_kills_a_program_that_ignores_being_asked(place):
    hpcbench("submit", "--benchmark", "toy", "--act", "ignore TERM", "--name", "r", cwd=place, check=0)
    until(lambda: "ignoring" in (events(place, "r", "001") if len(ran(place, "r")) else {}))
    hpcbench("cancel", "r", cwd=place, check=0)
    assert list(states(place, "r").values()) == ["cancelled"]
    until(lambda: not processes_under(place))


def test_a_job_that_is_suspended_goes_on_afterwards(place):
    hpcbench("submit", "--benchmark", "toy", "--seconds", "3", "--name", "r", cwd=place, check=0)
    until(lambda: len(ran(place, "r")) == 1)
    (program,) = (pid for pid, command in processes_under(place).items() if "measure.py" in command)
    for number in (signal.SIGTSTP, signal.SIGSTOP, signal.SIGCONT):  # as Slurm does it
        os.killpg(os.getpgid(program), number)
        time.sleep(0.3)
        assert not (place / "logs" / "r" / "001" / "exit.json").exists()
    hpcbench("wait", "r", cwd=place, check=0)
    assert list(states(place, "r").values()) == ["completed"]


def test_time_in_which_a_job_is_suspended_counts_for_no_limit(place):
    submit = ("submit", "--site", "local", "--benchmark", "toy", "--name", "r", "--seconds", "4")
    hpcbench(*submit, "--job", "time=00:00:12", cwd=place, check=0)
    until(lambda: len(ran(place, "r")) == 1)
    case = processes_under(place / "logs" / "r" / "001")
    for number in (signal.SIGSTOP, signal.SIGCONT):
        for pid in case:
            os.kill(pid, number)
        time.sleep(14 if number == signal.SIGSTOP else 0)
    hpcbench("wait", "r", cwd=place, check=0)
    assert list(states(place, "r").values()) == ["completed"]


# what is killed, and resumed


def test_killing_the_feeder_loses_nothing_and_resume_goes_on(place):
    hpcbench("submit", "--benchmark", "toy", "--seconds", "5,0.6,0.7", "--name", "r", cwd=place, check=0)
    until(lambda: len(ran(place, "r")) == 1)
    kill(feeders(place))
    until(lambda: states(place, "r")["001-seconds5.0"] == "completed")
    done = hpcbench("wait", "r", cwd=place, check=4)
    assert "hpcbench resume r" in done.stderr
    assert list(states(place, "r").values()) == ["completed", "planned", "planned"]
    hpcbench("resume", "r", "--wait", cwd=place, check=0)
    assert ran(place, "r") == ["001-seconds5.0", "002-seconds0.6", "003-seconds0.7"]


def test_resume_adopts_the_case_that_still_runs(place):
    hpcbench("submit", "--benchmark", "toy", "--seconds", "8,0.1", "--name", "r", cwd=place, check=0)
    until(lambda: len(ran(place, "r")) == 1)
    kill(feeders(place))
    hpcbench("resume", "r", "--wait", cwd=place, check=0)
    assert ran(place, "r") == ["001-seconds8.0", "002-seconds0.1"]
    first, second = (json.loads((place / "logs" / "r" / case / "exit.json").read_text()) for case in ran(place, "r"))
    assert first["ended"] <= second["started"]
    journal = [json.loads(line) for line in (place / "logs" / "r" / "journal.jsonl").read_text().splitlines()]
    assert [event["case"] for event in journal if event["event"] == "adopted"] == ["001-seconds8.0"]


def resume(place):
    """Resume the run, unless a feeder that came to life after the killing does so already."""
    done = hpcbench("resume", "r", cwd=place)
    assert done.returncode == 0 or "another hpcbench works on r" in done.stderr


@pytest.mark.parametrize("seed", range(12))
def test_kill_9_at_a_random_moment_then_resume_runs_every_case_exactly_once(place, seed):
    draw = random.Random(seed)
    command = [sys.executable, "-m", "hpcbench", "submit", "--benchmark", "toy", "--seconds", "0.01:0.08:0.01"]
    submitting = subprocess.Popen(
        [*command, "--name", "r", "--wait"], cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    time.sleep(draw.uniform(0.1, 2.5))
    kill([submitting.pid, *feeders(place)])
    submitting.wait()
    if not (place / "logs" / "r").exists():  # killed before the run existed: then there is nothing of it
        assert not list((place / "logs").glob("[!.]*"))
        return
    for _ in range(draw.randrange(3)):  # the one that takes over is killed too
        resume(place)
        time.sleep(draw.uniform(0.0, 0.5))
        kill(feeders(place))
        until(lambda: not feeders(place))
    resume(place)
    hpcbench("wait", "r", cwd=place, check=0)
    assert set(states(place, "r").values()) == {"completed"}
    assert sorted(ran(place, "r")) == sorted(json.loads((place / "logs" / "r" / "run.json").read_text())["cases"])


def test_a_killed_job_script_is_not_completed_and_its_program_does_not_run_on(place):
    hpcbench("submit", "--benchmark", "toy", "--act", "hang,ok", "--name", "r", cwd=place, check=0)
    until(lambda: len(ran(place, "r")) == 1)
    script = json.loads((place / "logs" / "r" / "001-acthang" / "started.json").read_text())["pid"]
    os.kill(script, signal.SIGKILL)
    hpcbench("wait", "r", cwd=place, check=4)
    assert list(states(place, "r").values()) == ["failed", "completed"]
    assert not any("--act=hang" in command for command in processes_under(place).values())


def test_a_case_whose_process_vanished_unseen_is_lost_and_not_run_again(place):
    hpcbench("submit", "--benchmark", "toy", "--act", "hang,ok", "--name", "r", cwd=place, check=0)
    until(lambda: len(ran(place, "r")) == 1)
    kill(processes_under(place))
    assert list(states(place, "r").values()) == ["lost", "planned"]
    hpcbench("resume", "r", "--wait", cwd=place, check=4)
    assert list(states(place, "r").values()) == ["lost", "completed"]
    assert ran(place, "r") == ["001-acthang", "002-actok"]


def test_two_processes_cannot_work_on_one_run(place):
    hpcbench("submit", "--benchmark", "toy", "--act", "hang", "--name", "r", cwd=place, check=0)
    before = (place / "logs" / "r" / "journal.jsonl").read_bytes()
    done = hpcbench("resume", "r", cwd=place, check=2)
    assert done.stderr.startswith("hpcbench: another hpcbench works on r (process ")
    assert len(done.stderr.splitlines()) == 1
    assert (place / "logs" / "r" / "journal.jsonl").read_bytes() == before
    hpcbench("cancel", "r", cwd=place, check=0)


def test_closing_the_terminal_loses_nothing(place):
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(place)
        os.execv(
            sys.executable,
            [
                sys.executable,
                "-m",
                "hpcbench",
                "submit",
                "--benchmark",
                "toy",
                "--seconds",
                "1,1.1",
                "--name",
                "r",
                "--wait",
            ],
        )
    until(lambda: len(ran(place, "r")) == 1)
    os.close(terminal)  # the kernel sends SIGHUP to what the terminal controls
    os.waitpid(pid, 0)
    hpcbench("wait", "r", cwd=place, check=0)
    assert ran(place, "r") == ["001-seconds1.0", "002-seconds1.1"]


# what runs in the background of a shell script ignores SIGINT, and so would what it starts
LISTENING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def test_ctrl_c_while_waiting_stops_the_waiting_only(place):
    command = [
        sys.executable,
        "-c",
        LISTENING,
        "-m",
        "hpcbench",
        "submit",
        "--benchmark",
        "toy",
        "--seconds",
        "60",
        "--name",
        "r",
        "--wait",
    ]
    waiting = subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE, text=True)
    until(lambda: len(ran(place, "r")) == 1)
    waiting.send_signal(signal.SIGINT)
    _, said = waiting.communicate(timeout=30)
    assert "hpcbench status, wait or cancel r" in said
    assert states(place, "r") == {"001": "running"}
    hpcbench("cancel", "r", cwd=place, check=0)


def test_waiting_shows_cases_steps_and_losses_on_a_terminal(place):
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(place)
        os.environ.update(COLUMNS="120", LINES="40", TERM="xterm-256color")
        os.execv(
            sys.executable,
            [
                sys.executable,
                "-m",
                "hpcbench",
                "submit",
                "--benchmark",
                "toy",
                "--seconds",
                "2",
                "--name",
                "r",
                "--wait",
            ],
        )
    shown = b""
    while True:
        try:
            piece = os.read(terminal, 65536)
        except OSError:  # the terminal's other end is closed
            break
        if not piece:
            break
        shown += piece
    os.waitpid(pid, 0)
    text = shown.decode()
    assert "running" in text
    assert "completed" in text
    assert "3.0000" in text  # the loss of the last step, read while it ran
    os.close(terminal)
