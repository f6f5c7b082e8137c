"""A Cerebras CS-3 as a site: real ssh with a passcode, from there to the user node, where strict stand-ins are."""

import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import toy
from services import daemon, ssh
from toy import processes_under, until

from hpcbench.parse import parse

ROOT = Path(__file__).parents[2]
STAND_IN = ROOT / "tests" / "cerebras_stand_in"
# batch → samples/s since the start, as published for Llama-7B and 200 steps
PUBLISHED = {256: 32.86, 512: 33.27, 1024: 33.04, 2048: 34.09}
FLAGS = [
    "--target_device",
    "-o",
    "--model_dir",
    "--checkpoint_path",
    "--load_checkpoint_states",
    "--logging",
    "--compile_only",
    "--validate_only",
    "--job_labels",
    "--job_priority",
    "--mount_dirs",
    "--python_paths",
    "--credentials_path",
    "--mgmt_address",
    "--disable_version_check",
    "--num_csx",
    "--debug_args",
    "--debug_args_path",
    "--ini",
]
PASSCODE = os.getuid() == 0 and daemon.program("oathtool") and any(Path("/").glob("lib/*/security/pam_oath.so"))


@pytest.fixture(scope="module")
def user_node(tmp_path_factory):
    """The host behind the login node: csctl is the system's, cszoo is in the environment of a release."""
    if any(daemon.program(name) is None for name in ("sshd", "ssh")):
        pytest.skip("needs apt-get install openssh-server openssh-client")
    folder = tmp_path_factory.mktemp("node")
    home = folder / "home"
    tools, release = home / "tools", home / "R_2.6.0" / "venv_cerebras_pt" / "bin"
    for each in (tools, release):
        each.mkdir(parents=True)
    (tools / "csctl").write_text(
        f'#!/bin/sh\necho "$*" >>"$CEREBRAS_STAND_IN/calls"\nexec {sys.executable} {STAND_IN}/csctl "$@"\n'
    )
    (tools / "csctl").chmod(0o755)
    (release / "cszoo").write_text(f'#!/bin/sh\nexec {sys.executable} {STAND_IN}/cszoo "$@"\n')
    (release / "cszoo").chmod(0o755)
    (release / "activate").write_text(f"PATH={release}:$PATH\n")
    (home / ".profile").write_text(
        f"PATH={tools}:$PATH\nexport CEREBRAS_STAND_IN_SECONDS=$(cat ~/seconds)\necho Welcome to the user node\n"
    )
    (home / "cluster").mkdir()
    environment = {"HOME": home, "XDG_CACHE_HOME": home / "cache", "CEREBRAS_STAND_IN": home / "cluster"}
    server = ssh.start(folder / "sshd", environment=environment)
    yield server, home
    server.stop()


@pytest.fixture(scope="module")
def login_node(tmp_path_factory, user_node):
    """The only way to the user node, cer-usn-01; it asks for a passcode where the tests may set one up."""
    folder = tmp_path_factory.mktemp("login")
    (folder / "bin").mkdir()
    config = ssh.client_config(folder / "config", **{"cer-usn-01": user_node[0]})
    program = folder / "bin" / "ssh"
    program.write_text(f'#!/bin/sh\nexec {daemon.program("ssh")} -F {config} "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}:/usr/local/bin:/usr/bin:/bin"
    server = ssh.start(folder / "sshd", passcode=bool(PASSCODE), environment={"PATH": path})
    yield server
    server.stop()


class User:
    """Someone with a terminal, a site file and an empty home."""

    def __init__(self, folder, login_node, user_node):
        self.folder, self.server = folder, login_node
        self.node, self.home = user_node
        self.runtime = tempfile.mkdtemp(prefix="hb", dir="/tmp")  # a socket's path must be short
        self.codes = []
        shutil.rmtree(self.home / "cluster")
        shutil.rmtree(self.home / "hpcbench", ignore_errors=True)
        (self.home / "cluster").mkdir()
        self.seconds(0.1)
        (folder / "home").mkdir()
        (folder / "sites").mkdir()
        reach = {
            "ssh": login_node.host, "port": login_node.port, "user": login_node.user, "then": ["cer-usn-01"],
            "known_hosts": str(login_node.known_hosts), "login": "passcode" if PASSCODE else "key",
        } | ({} if PASSCODE else {"identity": str(login_node.key)})  # fmt: skip
        shipped = (ROOT / "sites" / "cerebras.yaml").read_text()
        text = re.sub(r"(?ms)^reach:$.*?(?=^scheduler:)", f"reach: {json.dumps(reach)}\n", shipped, count=1)
        assert text != shipped
        (folder / "sites" / "cerebras.yaml").write_text(text)
        self.environment = {
            "HOME": str(folder / "home"), "XDG_RUNTIME_DIR": self.runtime, "SSH_AUTH_SOCK": "",
        }  # fmt: skip

    def seconds(self, seconds):
        """Say how long the next training takes."""
        (self.home / "seconds").write_text(str(seconds))

    def __call__(self, *arguments, check=0):
        return toy.hpcbench(*arguments, cwd=self.folder, check=check, **self.environment)

    def login(self):
        """Log in as a person does, on a terminal; returns what stood on it."""
        environment = {**os.environ, **self.environment}
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(self.folder)
            os.execve(sys.executable, [sys.executable, "-m", "hpcbench", "login", "cerebras"], environment)
        said = ""
        while True:
            ready, _, _ = select.select([terminal], [], [], 60)
            assert ready, said
            try:
                read = os.read(terminal, 4096).decode()
            except OSError:  # the other end is closed
                break
            if not read:
                break
            said += read
            if PASSCODE and "password" in said and said.count("password") > len(re.findall("<typed>", said)):
                self.codes.append(self.server.code())
                os.write(terminal, f"{self.codes[-1]}\n".encode())
                said += "<typed>"
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
        assert status == 0, said
        assert "cerebras: logged in, until 10m after the last command" in said
        return said

    def states(self, check=0):
        out = self("status", "r", "--json", check=check).stdout
        return {each["parameters"]["batch"]: each["state"] for each in json.loads(out)["cases"]}

    def jobs(self):
        """Return type → phase of every job that the cluster has had, in their order."""
        file = self.home / "cluster" / "jobs.json"
        return [(each["type"], each["phase"]) for each in json.loads(file.read_text())["jobs"]] if file.exists() else []

    def calls(self):
        file = self.home / "cluster" / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def contacts(self):
        """Return all that the login node has logged of clients."""
        return [line for line in self.server.log.read_text().splitlines() if "127.0.0.1 port" in line]

    def accepted(self):
        return sum("Accepted" in line for line in self.contacts())

    def close(self):
        self("login", "cerebras", "--out", check=None)
        while found := processes_under(self.home / "hpcbench"):
            toy.kill(sorted(found, key=lambda pid: "feed.sh" not in found[pid]))
        shutil.rmtree(self.runtime)
        for folder in (self.folder, self.home):
            for file in folder.rglob("*"):
                for code in self.codes:
                    assert not file.is_file() or code.encode() not in file.read_bytes(), file


@pytest.fixture
def user(tmp_path, login_node, user_node):
    someone = User(tmp_path, login_node, user_node)
    yield someone
    someone.close()


def test_the_sweep_of_four_batches_gives_the_published_rates(user):
    before = user.accepted()
    said = user.login()
    assert not any(code in said for code in user.codes)
    lines = user("check", "cerebras").stdout.splitlines()
    told = {line.split()[1]: line.split()[0] for line in lines}
    assert told == {"reach": "ok", "folder": "ok", "python": "ok", "scheduler": "ok"}
    assert not (user.home / "hpcbench").exists()
    user("submit", "--site", "cerebras", "--batch", "256,512,1024,2048", "--name", "r", "--wait")
    assert user.states() == dict.fromkeys(PUBLISHED, "completed")
    assert user.jobs() == [("compile", "SUCCEEDED"), ("execute", "SUCCEEDED")] * 4
    assert [call for call in user.calls() if call.startswith("cancel")] == []
    found = parse(user.folder / "logs" / "r")
    assert found.sources["unread"].sum() == 0
    batches, owners = found.cases.set_index("case")["batch"], found.owners()
    last = {
        batches[owners[source][1]]: steps["mean_samples_per_second"].iloc[-1]
        for source, steps in found.steps.groupby("source")
    }
    assert last == PUBLISHED
    user("report", "logs/r")
    assert "34.09" in (user.folder / "reports" / "r" / "report.md").read_text()
    assert user.accepted() == before + 1  # one login for everything
    for file in (*user.folder.rglob("*.json*"), *(user.home / "hpcbench").rglob("*")):
        assert not file.is_file() or not any(code in file.read_text(errors="replace") for code in user.codes)


def test_cancel_ends_the_jobs_on_the_cluster_too_and_what_was_cancelled_can_run_again(user):
    user.login()
    user.seconds(300)
    user("submit", "--site", "cerebras", "--batch", "256,512", "--name", "r")
    until(lambda: ("execute", "RUNNING") in user.jobs() or ("compile", "RUNNING") in user.jobs())
    assert user.states() == {256: "running", 512: "queued"}
    (running,) = [each for each in cluster(user) if each["phase"] == "RUNNING"]
    user("cancel", "r")
    assert user.states() == {256: "cancelled", 512: "cancelled"}
    assert f"cancel job {running['name']}" in user.calls()
    assert {phase for _, phase in user.jobs()} <= {"SUCCEEDED", "CANCELLED"}
    until(lambda: not processes_under(user.home / "hpcbench"))
    user.seconds(0.1)
    user("resume", "r", "--failed", "--wait")
    assert user.states() == {256: "completed", 512: "completed"}
    logs = sorted((user.folder / "logs" / "r").glob("*/stdout.log"))
    assert ["going on from there" in log.read_text() for log in logs] == [False, False]


def cluster(user):
    return json.loads((user.home / "cluster" / "jobs.json").read_text())["jobs"]


def test_jobs_that_outlive_a_killed_case_are_cancelled_before_the_next(user):
    """The cluster of this test goes on without the client; the case's label tells whose its jobs are."""
    user.login()
    user.seconds(300)
    user("submit", "--site", "cerebras", "--batch", "256,512", "--name", "r")
    until(lambda: any(phase == "RUNNING" for _, phase in user.jobs()))
    file = user.home / "cluster" / "jobs.json"
    held = json.loads(file.read_text())
    # a job that no log names, of a client that lives; and somebody else's
    mine = {**held["jobs"][0], "name": "wsjob-unlogged", "process": [os.getpid(), birth(os.getpid())]}
    held["jobs"] += [mine, {**mine, "name": "wsjob-other", "labels": [mine["labels"][0] + "0"]}]
    file.write_text(json.dumps(held))
    (started,) = (user.home / "hpcbench" / "r").glob("*/started.json")
    user.seconds(0.1)
    os.kill(json.loads(started.read_text())["pid"], 9)
    until(lambda: "cancel job wsjob-unlogged" in user.calls())
    assert "cancel job wsjob-other" not in user.calls()
    user("cancel", "r")
    assert user.states() == {256: "lost", 512: "cancelled"}


def birth(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[19]


def test_an_expired_connection_is_said_and_nothing_tries_to_log_in(user):
    user.login()
    user.seconds(4)
    user("submit", "--site", "cerebras", "--batch", "256,512", "--name", "r")
    until(lambda: user.states()[256] == "running")
    user("login", "cerebras", "--out")
    until(lambda: not user.server.sessions())
    contacted, journal = user.contacts(), (user.folder / "logs" / "r" / "journal.jsonl").read_bytes()
    for command in ("status", "resume", "cancel", "fetch"):
        done = user(command, "r", check=3)
        assert "not logged in to cerebras: hpcbench login cerebras" in done.stderr
        assert "Traceback" not in done.stderr
    assert user.states(check=3) == {256: "unknown", 512: "unknown"}
    assert "not logged in to cerebras" in user("check", "cerebras", check=3).stdout
    assert "not logged in" in user("submit", "--site", "cerebras", "--name", "s", check=3).stderr
    assert user.contacts() == contacted
    assert (user.folder / "logs" / "r" / "journal.jsonl").read_bytes() == journal
    user.login()
    assert user.states()[512] in ("queued", "running", "completed")
    user("wait", "r")
    assert user.states() == {256: "completed", 512: "completed"}
    assert user.jobs() == [("compile", "SUCCEEDED"), ("execute", "SUCCEEDED")] * 2
    user("resume", "s", "--wait")  # what could not be sent is still to be sent
    assert len(user.jobs()) == 6


def test_a_release_that_is_not_installed_is_a_failed_case_with_the_reason(user):
    user.login()
    user("submit", "--site", "cerebras", "--release", "9.9", "--name", "r", "--wait", check=1)
    (case,) = json.loads(user("status", "r", "--json").stdout)["cases"]
    assert case["state"] == "failed"
    assert "the site's setup ended with status 1" in case["reason"]
    assert "R_9.9/venv_cerebras_pt/bin/activate" in (user.folder / "logs" / "r" / "001" / "stderr.log").read_text()
    assert user.jobs() == []


def test_every_flag_of_a_dry_run_is_one_that_cszoo_fit_has(user):
    out = user("submit", "--site", "cerebras", "--batch", "256,512", "--name", "r", "--dry-run").stdout
    (line,) = [each for each in out.splitlines() if "cszoo" in each and "hb_wrap" in each]
    words = line.partition(" cszoo fit ")[2].split()
    assert [word for word in words if word.startswith("-")] == ["--job_labels", "--model_dir"]
    assert {word for word in words if word.startswith("-")} <= set(FLAGS)
    assert "R_${CEREBRAS_RELEASE:-2.6.0}" in out
    assert "export CEREBRAS_RELEASE='2.6.0'" in out
    assert not (user.home / "hpcbench").exists()
    subprocess.run(["bash", "-n", "-c", out], check=True)


def test_what_a_user_must_give_is_named_in_one_line(tmp_path):
    done = toy.hpcbench("submit", "--site", "cerebras", "--dry-run", cwd=tmp_path, check=2, ALCF_USER="")
    (line,) = done.stderr.splitlines()
    assert "ALCF_USER (your ALCF user name)" in line
    assert not (tmp_path / "logs").exists()
    toy.hpcbench("submit", "--site", "cerebras", "--dry-run", cwd=tmp_path, check=0, ALCF_USER="someone")
