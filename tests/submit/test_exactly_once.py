"""Each case is one job, whatever happens while it is submitted: on a real Slurm, by real ssh and on its login node."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from itertools import chain
from pathlib import Path

import far
import pytest
import toy
from services import fixtures, ssh
from services import slurm as clusters
from services.latency import latency
from services.proxy import Proxy
from toy import until

from hpcbench.run import Run

CASES = 200
ARRAY = 7  # 29 groups, so that there are many instants between two of them
KINDS = ("hpcbench is killed", "connection is cut", "session is killed", "script is killed")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A cluster of these tests' own: they leave thousands of jobs in its memory."""
    fixtures._need(fixtures.SLURM | fixtures.SSH)
    cluster = clusters.start(tmp_path_factory.mktemp("slurm"), nodes=2)
    yield cluster
    cluster.stop()


@pytest.fixture(scope="module")
def login(tmp_path_factory, cluster):
    """Its login node; an account without a profile, so that a shell that is killed there leaves nothing behind."""
    server = ssh.start(
        tmp_path_factory.mktemp("sshd"),
        environment={**cluster.environment, "HOME": str(tmp_path_factory.mktemp("account"))},
    )
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def nothing_left(tmp_path):
    yield
    toy.kill(toy.processes_under(tmp_path))


class Site:
    """A folder to work in, with the site `far`: a cluster, and the way to its login node."""

    def __init__(self, folder: Path, cluster, server=None, port: int | None = None, **keys) -> None:
        folder.mkdir(exist_ok=True)
        self.place, self.cluster, self.server = folder, cluster, server
        # a folder that is reached through a symbolic link, as homes often are: Slurm knows it by its real name
        (folder / "real").mkdir()
        (folder / "remote").symlink_to(folder / "real")
        if port:
            server = server.behind(port)
        # memory for eight jobs at once: eighty, on two cores, would run for minutes
        far.write(folder, server, program=far.QUIET, job={"memory": "2000M"}, **keys)
        self.environment = {} if server else cluster.environment

    def do(self, *arguments: str, check: int | None = None) -> subprocess.CompletedProcess[str]:
        done = far.hpcbench(*arguments, cwd=self.place, check=check, **self.environment)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return far.background(*arguments, cwd=self.place, **self.environment)

    def remote(self, run: str) -> Path:
        return (self.place / "remote" if self.server else self.place / "logs") / run

    def ran(self, run: str) -> list[str]:
        file = self.remote(run) / "ran"
        return file.read_text().split() if file.exists() else []

    def status(self, run: str) -> list[dict]:
        return json.loads(self.do("status", run, "--json", check=0).stdout)["cases"]

    def events(self, run: str) -> list[dict]:
        return Run.load(self.place / "logs" / run).journal()

    def settle(self, run: str, tries: int = 12) -> None:
        """Resume until there is nothing to start."""
        for _ in range(tries):
            done = self.do("resume", run)
            if done.returncode == 0 and "nothing to start" in done.stderr:
                return
            assert done.returncode in (0, 3), done.stderr
        raise AssertionError(f"there is always something to start: {done.stderr}")


def jobs_of_cases(site: Site, run: str) -> dict[str, list[str]]:
    """Return case → its jobs, by the names that Slurm has and the lists of the groups at the site."""
    found: dict[str, list[str]] = {case: [] for case in Run.load(site.place / "logs" / run).cases}
    for job, index, name, _ in site.cluster.jobs():
        if match := re.fullmatch(rf"hb-{re.escape(run)}-(.*)", name):
            group = site.remote(run) / "groups" / f"{match[1]}.cases"
            case = group.read_text().split()[int(index)] if index else match[1]
            found[case].append(f"{job}_{index}" if index else job)
    return found


def assert_once(site: Site, run: str, what: object = "") -> int:
    """Assert that each case has exactly one job, and that `status` tells which; returns how many jobs were counted."""
    found = jobs_of_cases(site, run)
    wrong = {case: jobs for case, jobs in found.items() if len(jobs) != 1}
    assert not wrong, (what, wrong, site.events(run))
    told = {each["case"]: each["job"] for each in site.status(run)}
    assert told == {case: jobs[0] for case, jobs in found.items()}, what
    assert max(Counter(site.ran(run)).values(), default=1) == 1, what
    return len(found)


def end(site: Site, run: str) -> None:
    """Cancel what waits, so that not every job of every round has to run."""
    site.cluster.run("scancel", "--state=PENDING", f"--user={os.getuid()}")
    if site.server:
        shutil.rmtree(site.remote(run))


def disturb(site: Site, kind: str, process, proxy: Proxy | None) -> None:
    if kind == "hpcbench is killed":
        process.kill()
    elif kind == "connection is cut":
        proxy.cut()
    elif kind == "session is killed":
        site.server.cut()
    else:
        there = toy.processes_under(site.place).items()
        toy.kill([pid for pid, line in there if line.startswith("bash") and "hb_prepare()" in line])


def journal_state(folder: Path) -> str:
    """Say how far a submission had come."""
    if not (folder / "run.json").exists():
        return "no run yet"
    events = Counter(event["event"] for event in Run.load(folder).journal())
    return ", ".join(f"{name} {count}" for name, count in events.items() if name != "planned") or "planned"


def disturbed(site: Site, run: str, arguments: list[str], kind: str, wait: float | int, proxy: Proxy | None) -> str:
    """Start a command and disturb it; returns how far the run had come.

    That is `wait` seconds after the run is there, or where `wait` is a whole number, once so many groups were sent.
    """
    folder = site.place / "logs" / run
    process = site.start(*arguments)
    try:
        until(lambda: (folder / "run.json").exists() or process.poll() is not None)
        if isinstance(wait, int):
            until(lambda: far.journal(site.place, run).count(b'"submitted"') >= wait or process.poll() is not None)
        else:
            time.sleep(wait)
        state = journal_state(folder)
        ended = process.poll() is not None
        disturb(site, kind, process, proxy)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
        process.communicate()
    assert "Traceback" not in errors, errors
    assert process.returncode in (0, 3, -signal.SIGKILL), errors
    when = f"{wait} groups" if isinstance(wait, int) else f"{wait:.2f} s"
    return f"{kind} after {when} ({state}{', it had ended' if ended else ''}), exit status {process.returncode}"


def instant(choose: random.Random, span: float) -> float | int:
    """Choose an instant of a submission that takes `span` seconds; half of them are between two groups of it."""
    return choose.uniform(0, 0.9) * span if choose.random() < 0.5 else choose.randrange(CASES // ARRAY + 1)


SUBMIT = ["submit", "--site", "far", "--benchmark", "toy", "--repeat"]


@pytest.mark.parametrize("part", range(3))
def test_killed_or_cut_at_any_instant_each_case_has_one_job(tmp_path, cluster, login, part):
    choose = random.Random(7000 + part)
    rounds = 10
    inside = 0
    with Proxy(login.port) as proxy:
        site = Site(tmp_path / "w", cluster, login, proxy.port, limits={"array": ARRAY})
        for node in cluster.nodes:
            cluster.down(node)  # nothing runs: these jobs only wait
        process = site.start(*SUBMIT, str(CASES), "--name", f"measured{part}")
        until((site.place / "logs" / f"measured{part}" / "run.json").exists)
        began = time.monotonic()
        assert process.wait(120) == 0
        process.communicate()
        span = time.monotonic() - began
        assert assert_once(site, f"measured{part}") == CASES
        end(site, f"measured{part}")
        for number in range(rounds):
            run = f"p{part}r{number:02d}"
            kind = KINDS[(part + number) % 4]
            last = number == rounds - 1
            if last:  # these jobs run, also while they are submitted
                for node in cluster.nodes:
                    cluster.up(node)
            arguments = [*SUBMIT, str(CASES), "--name", run]
            told = [disturbed(site, run, arguments, kind, instant(choose, span), proxy)]
            inside += "submitted" in told[0] or "submitting" in told[0]
            if choose.random() < 0.4:
                again = ["resume", run]
                told.append(disturbed(site, run, again, choose.choice(KINDS), choose.uniform(0.3, 1.3) * span, proxy))
            print(f"{time.monotonic():.0f}", run, *told, sep=" | ")
            site.settle(run)
            assert assert_once(site, run, told) == CASES
            if last:
                site.do("wait", run, check=0)
                assert assert_once(site, run, told) == CASES
                assert sorted(site.ran(run)) == sorted(Run.load(site.place / "logs" / run).cases)
            end(site, run)
    assert inside > rounds / 3  # else the instants are not what they are meant to be


SBATCH = """\
#!/bin/bash
# a cluster in trouble: the first line of `acts` says what this call does
cd -P -- "$(dirname -- "$0")/.." && exec 7>>lock && flock 7
act=$(sed -n 1p acts)
sed -i 1d acts
exec 7>&-
cd - >/dev/null
failed='sbatch: error: Batch job submission failed: Socket timed out on send/recv operation'
case $act in
  lie) {sbatch} "$@" >/dev/null; echo "$failed" >&2; exit 1 ;;
  late) (sleep 4; exec {sbatch} "$@") &>/dev/null & echo "$failed" >&2; exit 1 ;;
  lost) echo "$failed" >&2; exit 1 ;;
  die) kill -KILL $$ ;;
esac
exec {sbatch} "$@"
"""


def trouble(account: Path, acts: list[str]) -> None:
    """Put an sbatch before the real one on the PATH of an account."""
    (account / "bin").mkdir(parents=True, exist_ok=True)
    (account / ".bash_profile").write_text("PATH=$HOME/bin:$PATH\n")
    (account / "acts").write_text("".join(f"{act}\n" for act in acts))
    (account / "bin" / "sbatch").write_text(SBATCH.replace("{sbatch}", str(shutil.which("sbatch"))))
    (account / "bin" / "sbatch").chmod(0o755)


@pytest.fixture
def troubled(tmp_path, cluster):
    """A login node whose sbatch does what `acts` in its account says."""
    account = tmp_path / "account"
    trouble(account, [])
    server = ssh.start(tmp_path / "sshd", environment={**cluster.environment, "HOME": str(account)})
    yield server, account
    server.stop()


def down(cluster) -> None:
    for node in cluster.nodes:
        cluster.down(node)


def up(cluster) -> None:
    for node in cluster.nodes:
        cluster.up(node)


@pytest.mark.parametrize("act", ["ok", "exit 3"])
def test_an_sbatch_that_fails_and_made_a_job_doubles_none(tmp_path, cluster, troubled, act):
    server, account = troubled
    site = Site(tmp_path / "w", cluster, server, limits={"array": 0})
    run = "lies" if act == "ok" else "failing"
    acts = ["ok", "lie", "ok", "late", "lie", "lie", "die", "ok", "lost", "lie"]
    trouble(account, acts if act == "ok" else [])
    down(cluster)
    done = site.do("submit", "--site", "far", "--benchmark", "toy", "--act", act, "--repeat", "20", "--name", run)
    if act == "ok":
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("hpcbench: ")]
        assert (done.returncode, "Socket timed out on send/recv operation" in line) == (3, True), done.stderr
        known = json.loads(site.do("status", run, "--offline", "--json", check=0).stdout)["cases"]
        assert Counter(each["state"] for each in known) == {"queued": 3, "submitting": 1, "planned": 16}
    site.settle(run)
    assert assert_once(site, run) == 20
    assert not (account / "acts").read_text()
    up(cluster)
    site.do("wait", run, check=0 if act == "ok" else 1)
    assert sorted(site.ran(run)) == sorted(Run.load(site.place / "logs" / run).cases)
    if act != "ok":
        # a second attempt has the name of the first: where sbatch says that it failed, the old job is not the new one
        trouble(account, ["lie", "ok", "late", "ok"])
        before = jobs_of_cases(site, run)
        assert site.do("resume", run, "--failed").returncode in (0, 3)
        site.settle(run)
        after = jobs_of_cases(site, run)
        assert all(len(after[case]) == 2 for case in after), after
        told = {each["case"]: each["job"] for each in site.status(run)}
        assert all(told[case] in set(after[case]) - set(before[case]) for case in after), (
            told,
            after,
            site.events(run),
        )
        site.do("wait", run, check=1)
        assert Counter(Counter(site.ran(run)).values()) == {2: 20}
    end(site, run)


def test_a_scheduler_that_is_down_makes_nothing_of_its_words(tmp_path, cluster, login):
    site = Site(tmp_path / "w", cluster, login, limits={"array": 0})
    down(cluster)
    site.do("submit", "--site", "far", "--benchmark", "toy", "--repeat", "3", "--name", "d0", "--dry-run", check=0)
    cluster.kill_controller()
    try:
        done = site.do("resume", "d0", check=3)
        assert "does not answer" in done.stderr
    finally:
        cluster.start_controller()
    site.settle("d0")
    assert assert_once(site, "d0") == 3
    end(site, "d0")


def test_killed_on_the_login_node_each_case_has_one_job(tmp_path, cluster):
    choose = random.Random(11)
    site = Site(tmp_path / "w", cluster, limits={"array": ARRAY})
    down(cluster)
    process = site.start(*SUBMIT, str(CASES), "--name", "here")
    until((site.place / "logs" / "here" / "run.json").exists)
    began = time.monotonic()
    assert process.wait(120) == 0
    process.communicate()
    span = time.monotonic() - began
    assert assert_once(site, "here") == CASES
    for number in range(6):
        run = f"l{number}"
        arguments = [*SUBMIT, str(CASES), "--name", run]
        end(site, run)  # the jobs of the round before
        told = disturbed(site, run, arguments, KINDS[0], instant(choose, span), None)
        print(f"{time.monotonic():.0f}", run, told, sep=" | ")
        if number == 5:
            up(cluster)
        site.settle(run)
        assert assert_once(site, run, told) == CASES
    site.do("wait", run, check=0)
    assert sorted(site.ran(run)) == sorted(Run.load(site.place / "logs" / run).cases)
    cluster.run("scancel", f"--user={os.getuid()}")


def test_an_sbatch_that_outlives_hpcbench_is_waited_for(tmp_path, cluster, monkeypatch):
    slow = tmp_path / "bin" / "sbatch"
    slow.parent.mkdir()
    slow.write_text(f'#!/bin/bash\ntouch {tmp_path}/begun\nsleep 5\nexec {shutil.which("sbatch")} "$@"\n')
    slow.chmod(0o755)
    site = Site(tmp_path / "w", cluster)
    down(cluster)
    site.environment |= {"PATH": f"{slow.parent}:{os.environ['PATH']}"}
    process = site.start(*SUBMIT, "4", "--name", "slow")
    until((tmp_path / "begun").exists)
    process.kill()
    process.communicate()
    site.settle("slow")
    assert assert_once(site, "slow") == 4
    assert Counter(event["event"] for event in site.events("slow"))["submitting"] == 1
    end(site, "slow")


@pytest.mark.parametrize("where", ["ssh", "login node"])
def test_commands_at_once_double_nothing(tmp_path, cluster, login, where):
    site = Site(tmp_path / "w", cluster, login if where == "ssh" else None, limits={"array": ARRAY})
    down(cluster)
    run = "s" if where == "ssh" else "n"
    submitting = site.start(*SUBMIT, "60", "--name", run)
    until((site.place / "logs" / run / "run.json").exists)
    others = [site.start(*words, run) for words in (["status"], ["resume"], ["status", "--json"], ["resume"])]
    for process in (submitting, *others):
        _, errors = process.communicate(timeout=180)
        assert process.returncode == 0, errors
        assert "Traceback" not in errors
    assert assert_once(site, run) == 60
    end(site, run)


@pytest.fixture
def limited(tmp_path, slurm_accounting):
    """A login node of a cluster on which the user may have 20 jobs."""
    (tmp_path / "account").mkdir()
    server = ssh.start(
        tmp_path / "sshd", environment={**slurm_accounting.environment, "HOME": str(tmp_path / "account")}
    )
    slurm_accounting.limit(MaxSubmitJobs=20)
    yield server
    slurm_accounting.limit(MaxSubmitJobs=-1)
    server.stop()


@pytest.mark.parametrize("limits", [{"submitted": 20, "array": 6}, {}])
def test_a_sweep_over_the_queue_limit_is_fed_in_order(tmp_path, slurm_accounting, limited, limits):
    site = Site(tmp_path / "w", slurm_accounting, limited, limits=limits)
    run = "stated" if limits else "unstated"
    site.do(*SUBMIT, "60", "--name", run, check=0)
    site.do("wait", run, check=0)
    assert assert_once(site, run) == 60
    cases = Run.load(site.place / "logs" / run).cases
    sent = [event["cases"] for event in site.events(run) if event["event"] == "submitted"]
    assert len(sent) > 1  # they did not go all at once
    assert list(chain.from_iterable(sent)) == cases
    assert sorted(site.ran(run)) == cases
    assert not any(event["event"] == "rejected" for event in site.events(run))


def test_an_array_has_no_index_that_slurm_refuses(tmp_path):
    fixtures._need(fixtures.SLURM)
    cluster = clusters.start(tmp_path / "slurm", nodes=1, MaxArraySize=11)
    try:
        site = Site(tmp_path / "w", cluster)
        site.do(*SUBMIT, "25", "--name", "indices", check=0)
        assert assert_once(site, "indices") == 25
        assert max(int(index) for _, index, _, _ in cluster.jobs()) == 10
        assert len({job for job, _, _, _ in cluster.jobs()}) == 3
    finally:
        cluster.stop()


def test_a_thousand_cases_cost_as_many_round_trips_as_ten(tmp_path, cluster, login, monkeypatch):
    from hpcbench.submit import submit
    from hpcbench.submit.control import refresh
    from hpcbench.submit.reach.paramiko_ssh import Paramiko

    calls: list[str] = []
    call = Paramiko.call

    def counted(self, script, function, *arguments, **keys):
        calls.append(function)
        return call(self, script, function, *arguments, **keys)

    monkeypatch.setattr(Paramiko, "call", counted)
    down(cluster)
    with latency(login.port, 50) as port:
        site = Site(tmp_path / "w", cluster, login, port)
        monkeypatch.chdir(site.place)
        monkeypatch.setenv("HOME", str(site.place / "home"))
        needed = []
        for count in (10, 1000):
            calls.clear()
            run = submit("far", "toy", repeat=count, name=f"t{count}")
            assert not refresh(run)
            needed.append(list(calls))
            assert {state.state for state in run.states()} == {"queued"}
            assert assert_once(site, run.name) == count
            end(site, run.name)
        assert needed[0] == needed[1] == ["hb_prepare", "hb_submit", "hb_refresh"]
