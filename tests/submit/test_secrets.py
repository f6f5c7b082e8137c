"""Secrets stay out: no token, password or passcode in a file, on a terminal or in a list of processes."""

import os
import re
import select
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import far
import pytest
from far import hpcbench, submit
from toy import until

TOKEN = "c4n4ry-t0k3n"
TOKENS = {"OPENAI_API_KEY": TOKEN, "ALCF_AI_TOKEN": TOKEN, "MY_SECRET": TOKEN}


class Sampler(threading.Thread):
    """Reads what anybody on this machine can read of processes, again and again."""

    def __init__(self, *secrets: str) -> None:
        super().__init__(daemon=True)
        self.secrets, self.seen, self._end = [each.encode() for each in secrets], set[str](), threading.Event()

    def run(self) -> None:
        while not self._end.is_set():
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    words = (process / "cmdline").read_bytes()
                except OSError:
                    continue
                if any(secret in words for secret in self.secrets):
                    self.seen.add(words.decode(errors="replace"))
            time.sleep(0.02)

    def __enter__(self) -> "Sampler":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join()


def holding(place: Path, *secrets: str) -> list[Path]:
    """Return the files below a folder (logs, the site's, the caches) that hold a secret."""
    files = (file for file in place.rglob("*") if file.is_file() and not file.is_symlink())
    return [file for file in files if any(secret.encode() in file.read_bytes() for secret in secrets)]


def typed(place: Path, *arguments: str, answer: str, prompt: str) -> str:
    """Run the command line at a terminal, answer what it asks, and return all that stood on it."""
    master, slave = os.openpty()
    environment = {
        **os.environ,
        **TOKENS,
        "HOME": str(place / "home"),
        "XDG_CACHE_HOME": str(place / "c"),
        "TERM": "dumb",
    }
    environment.pop("SSH_AUTH_SOCK", None)
    environment.pop("XDG_RUNTIME_DIR", None)
    argv = ["setsid", "--ctty", "--wait", sys.executable, "-m", "hpcbench", *arguments]
    with subprocess.Popen(argv, cwd=place, env=environment, stdin=slave, stdout=slave, stderr=slave):
        os.close(slave)
        said, asked = "", False
        while True:
            ready, _, _ = select.select([master], [], [], 100)
            assert ready, said
            try:
                piece = os.read(master, 4096)
            except OSError:  # nobody holds the other end any more
                break
            if not piece:
                break
            said += piece.decode(errors="replace")
            if not asked and re.search(prompt, said):
                os.write(master, f"{answer}\n".encode())
                asked = True
    os.close(master)
    assert asked, said
    return said


def test_a_token_of_the_environment_goes_nowhere(tmp_path, sshd):
    far.write(tmp_path, sshd, program=far.QUIET)
    said = []
    with Sampler(TOKEN) as sampler:
        for debug in ([], ["--debug"]):
            name = f"r{len(debug)}"
            arguments = ["submit", "--site", "far", "--name", name, "--act", "ok,exit 3", "--wait"]
            said.append(hpcbench(*debug, *arguments, cwd=tmp_path, check=4, **TOKENS))
            for verb in ("status", "fetch", "cancel"):
                said.append(hpcbench(*debug, verb, name, cwd=tmp_path, check=0, **TOKENS))
            said.append(hpcbench(*debug, "resume", "--failed", name, cwd=tmp_path, **TOKENS))
            said.append(hpcbench(*debug, "wait", name, cwd=tmp_path, **TOKENS))
        far.site(tmp_path, sshd, job={"partition": "nowhere"})
        for debug in ([], ["--debug"]):
            said.append(hpcbench(*debug, "submit", "--site", "far", cwd=tmp_path, **TOKENS))
        far.site(tmp_path, sshd, reach={"port": 1})
        for debug in ([], ["--debug"]):
            said.append(hpcbench(*debug, "submit", "--site", "far", cwd=tmp_path, **TOKENS))
    assert any("Traceback" in each.stderr for each in said)  # --debug was heard
    assert not any(TOKEN in each.stdout + each.stderr for each in said)
    assert not sampler.seen
    assert len(list(tmp_path.rglob("stdout.log"))) >= 8
    assert holding(tmp_path, TOKEN) == []


def test_a_job_by_ssh_does_not_see_the_environment_of_whoever_submits(tmp_path, sshd):
    far.write(tmp_path, sshd)  # its program writes its environment down
    submit("--wait", cwd=tmp_path, **TOKENS)
    hpcbench("fetch", "r", cwd=tmp_path, check=0)
    assert "environment" in (tmp_path / "logs" / "r" / "001" / "stdout.log").read_text()
    assert holding(tmp_path, TOKEN) == []


@pytest.fixture
def typist(tmp_path_factory):
    """A folder whose path is short enough for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="hb", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("debug", [[], ["--debug"]])
@pytest.mark.parametrize("answer", ["right", "wrong"])
def test_a_password_goes_nowhere(typist, password_sshd, answer, debug):
    password = password_sshd.password if answer == "right" else "wr0ng-p4ssw0rd"
    far.write(
        typist, password_sshd, program=far.QUIET, scheduler="process", job={"partition": None, "memory": None},
        reach={"login": "password", "identity": None}, python="python3", folder="$HOME/hb",
    )  # fmt: skip
    with Sampler(password) as sampler:
        arguments = ["submit", "--site", "far", "--name", f"r{len(debug)}{answer}"]
        said = typed(typist, *debug, *arguments, answer=password, prompt="[Pp]assword: ")
    assert ("did not accept what was typed" in said) == (answer == "wrong")
    assert ("Traceback" in said) == (answer == "wrong" and bool(debug))
    assert password not in said
    assert not sampler.seen
    assert holding(typist, password, TOKEN) == []
    there = Path(f"/tmp/{password_sshd.user}")
    assert holding(there, password, TOKEN) == []


@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_a_passcode_goes_nowhere(typist, passcode_sshd, debug):
    far.write(
        typist, passcode_sshd, program=far.QUIET, scheduler="process", job={"partition": None, "memory": None},
        reach={"login": "passcode", "identity": None, "known_hosts": str(passcode_sshd.known_hosts)},
    )  # fmt: skip
    (typist / "home" / ".ssh").mkdir()
    done = hpcbench(*debug, "submit", "--site", "far", "--name", "before", cwd=typist, check=1 if debug else 3)
    assert "not logged in to far: hpcbench login far" in done.stderr
    code = passcode_sshd.code()
    with Sampler(code) as sampler:
        said = typed(typist, *debug, "login", "far", answer=code, prompt="[Oo]ne-time password|[Pp]assword.*: ")
        assert "logged in, until" in said, said
        own = {**TOKENS, "XDG_CACHE_HOME": str(typist / "c"), "XDG_RUNTIME_DIR": ""}
        arguments = ["submit", "--site", "far", "--name", "r"]
        after = [hpcbench(*debug, *arguments, cwd=typist, check=0, **own)]
        until((typist / "remote" / "r").exists)
        after.append(hpcbench(*debug, "status", "r", cwd=typist, check=0, **own))
        wrong = hpcbench(*debug, "login", "far", "--out", cwd=typist, check=0, **own)
    assert not any(secret in each.stdout + each.stderr for each in [*after, wrong] for secret in (code, TOKEN))
    assert code not in said
    assert not sampler.seen
    assert holding(typist, TOKEN) == []
    assert holding(typist, code) == []
