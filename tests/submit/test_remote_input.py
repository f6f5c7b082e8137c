"""What a person or a site gets wrong: one line that says what to do, and nothing half-written; on real Slurm by ssh."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import far
import pytest
import toy
from far import hpcbench, journal, ran, remote, states, submit
from services import daemon, ssh
from test_local import HOSTILE


@pytest.fixture
def place(tmp_path, sshd):
    return far.write(tmp_path, sshd)


def refused(place: Path, *arguments: str, check: int, **environment: str) -> str:
    """Submit in vain and return the one line that says why."""
    done = submit(*arguments, cwd=place, check=check, **environment)
    said, *after = [line for line in done.stderr.splitlines() if not line.startswith("r: ")]
    assert said.startswith("hpcbench: ")
    if (place / "logs" / "r").exists():  # the run that is left is named, and how to go on with it
        (after,) = after
        assert after.startswith((f"{len(states(place, 'r', '--offline'))} case", "of 3 cases it is not known"))
        assert "hpcbench resume r" in after
    else:
        assert after == []
    return said.removeprefix("hpcbench: ")


def goes_on(place: Path, *, check: int = 0) -> None:
    """The run that could not be started can be resumed once that is mended."""
    hpcbench("resume", "r", "--wait", cwd=place, check=check)
    assert set(states(place).values()) == {"completed"}


def test_a_host_that_refuses(place, sshd):
    closed = daemon.free_port()
    far.site(place, sshd, reach={"port": closed})
    assert refused(place, check=3) == f"far: 127.0.0.1 port {closed} refuses connections"
    assert states(place, "r", "--offline") == {"ok": "planned"}
    assert not (place / "remote").exists()
    far.site(place, sshd)
    goes_on(place)


def test_a_host_that_is_not_there(place, sshd):
    far.site(place, sshd, reach={"ssh": "no.such.host.invalid", "port": None})
    assert refused(place, check=3) == ("far: no host is called no.such.host.invalid; see `reach` of the site file")


def test_an_unknown_and_a_changed_host_key(place, sshd, tmp_path):
    empty = tmp_path / "nothing_known"
    empty.touch()
    far.site(place, sshd, reach={"known_hosts": str(empty)})
    said = refused(place, check=3)
    assert said.startswith(f"far: the host key of 127.0.0.1 port {sshd.port} is not known: ssh-ed25519 SHA256:")
    assert f"accept it once by `ssh -p {sshd.port} 127.0.0.1`" in said
    assert empty.read_text() == ""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    kind, key = (tmp_path / "other.pub").read_text().split()[:2]
    changed = tmp_path / "changed"
    changed.write_text(f"[127.0.0.1]:{sshd.port} {kind} {key}\n")
    far.site(place, sshd, reach={"known_hosts": str(changed)})
    said = far.line(hpcbench("resume", "r", cwd=place, check=3))
    assert "and is now ssh-ed25519 SHA256:" in said
    assert f"({changed}:1)" in said
    assert "somebody may be in between" in said
    assert not (place / "remote").exists()


def test_a_key_that_is_not_accepted(place, sshd, tmp_path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    far.site(place, sshd, reach={"identity": str(tmp_path / "other")})
    assert refused(place, check=3) == (
        f"far: 127.0.0.1 port {sshd.port} does not let {sshd.user} in: it does not take {tmp_path}/other; "
        "it allows publickey"
    )


def test_a_partition_that_is_not_there(place, sshd):
    far.site(place, sshd, job={"partition": "nowhere"})
    said = refused(place, "--act", "ok,fine", check=1)
    assert said.startswith("far refuses the job: ")
    assert "invalid partition specified: nowhere" in said
    assert set(states(place).values()) == {"failed"}
    assert "invalid partition" in far.cases(place)["ok"]["reason"]
    assert ran(place) == []


def test_a_key_of_the_sites_job_said_anew(place, sshd):
    assert "there is no 'tme'; did you mean 'time'?" in refused(place, "--job", "tme=1", check=2)
    assert "--job time: " in refused(place, "--job", "time=soon", check=2)
    far.site(place, sshd, job={"partition": "nowhere"}, python="python3")
    submit("--job", "partition=RM-shared", "--job", "time=00:07:00", "--job", "directives=--nice=5", cwd=place)
    script = (place / "logs" / "r" / "001" / "job.sh").read_text()
    for directive in ("--partition=RM-shared", "--time=00:07:00", "--nice=5"):
        assert f"#SBATCH {directive}\n" in script
    goes_on(place)


def test_an_account_that_is_not_ours(tmp_path, sshd_accounting, slurm_accounting):
    far.write(tmp_path, sshd_accounting, job={"account": "nobodys"})
    said = refused(tmp_path, check=1)
    assert "Invalid account or account/partition combination specified" in said
    assert ran(tmp_path) == []


def test_over_the_time_limit_of_the_partition(place, sshd):
    far.site(place, sshd, job={"time": "72:00:00"})
    assert "Requested time limit is invalid" in refused(place, check=1)
    # after a mend in Slurm, or of the script, it goes on
    script = place / "logs" / "r" / "001" / "job.sh"
    script.write_text(script.read_text().replace("72:00:00", "00:10:00"))
    shutil.rmtree(remote(place) / "001")
    goes_on(place)


def test_over_the_time_limit_of_the_site_file_is_found_before_anything_is_written(place, sshd):
    far.site(place, sshd, limits={"time": "00:05:00"})
    assert "job.time: 00:10:00 is over the site's limit, 00:05:00" in refused(place, check=2)
    assert not (place / "logs").exists()


def test_a_folder_that_cannot_be_made(place, sshd):
    (place / "file").write_text("a file")
    far.site(place, sshd, folder=str(place / "file" / "below"))
    said = refused(place, check=3)
    assert said.startswith(f"far: cannot make the folder {place}/file/below/r: ")
    assert "Not a directory" in said
    far.site(place, sshd)
    goes_on(place)


def test_a_folder_with_a_variable_that_is_not_set_there(place, sshd):
    far.site(place, sshd, folder="$NO_SUCH_PROJECT/hpcbench")
    assert refused(place, check=3) == "far: folder: $NO_SUCH_PROJECT is not set there"
    far.site(place, sshd)
    goes_on(place)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to mount a small disk")
def test_a_disk_that_is_full(place, sshd):
    disk = place / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "none", disk], check=False).returncode:
        pytest.skip("needs to mount")
    try:
        far.site(place, sshd, folder=str(disk))
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(270_000))
        said = refused(place, "--repeat", "3", check=3)
        assert said.startswith("far: ")
        assert "No space left on device" in said
        assert ran(place) == []
        ballast.unlink()
        goes_on(place)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_a_name_that_another_run_has_there(place, sshd, tmp_path):
    submit("--wait", cwd=place)
    other = tmp_path / "other"
    other.mkdir()
    far.write(other, sshd, folder=str(place / "remote"))
    said = refused(other, check=3)
    assert said == f"far: {place}/remote/r belongs to another run of that name: choose another with --name"
    assert ran(place) == ["001"]


def test_hostile_values_arrive_exactly_as_given(place):
    script = "import hpcbench, sys, json; hpcbench.submit('far', 'toy', {'act': json.loads(sys.argv[1])}, name='r')"
    environment = {**os.environ, "HOME": str(place / "home")}
    subprocess.run(
        [sys.executable, "-c", script, json.dumps(HOSTILE)], cwd=place, check=True, timeout=60, env=environment
    )
    hpcbench("wait", "r", cwd=place, check=0)
    hpcbench("fetch", "r", cwd=place, check=0)
    arrived = []
    for case in json.loads((place / "logs" / "r" / "run.json").read_text())["cases"]:
        rows = [json.loads(row) for row in (place / "logs" / "r" / case / "stdout.log").read_text().splitlines()]
        arrived.append(next(row["message"] for row in rows if row.get("kind") == "argument"))
    assert arrived == HOSTILE
    assert not list(place.rglob("pwned"))


def test_missing_variables_are_named_at_once(place):
    file = place / "sites" / "far.yaml"
    text = file.read_text().replace("title: Test cluster", "title: ${MY_TITLE}")
    file.write_text(text.replace("partition: RM-shared", "partition: ${MY_PARTITION}"))
    said = refused(place, check=2)
    assert "MY_TITLE" in said
    assert "MY_PARTITION" in said
    assert not (place / "logs").exists()


@pytest.mark.parametrize(
    "directive", ["--job-name=mine", "-J mine", "--array=0-9", "--output=x", "--out=x", "-p other"]
)
def test_a_directive_that_hpcbench_sets_itself(place, sshd, directive):
    far.site(place, sshd, job={"directives": [directive]})
    said = refused(place, check=2)
    assert "hpcbench sets " in said
    assert "say it by the keys of `job`" in said
    assert not (place / "logs").exists()


def test_a_directive_that_slurm_does_not_know(place, sshd):
    far.site(place, sshd, job={"directives": ["--no-such-option"]})
    assert "--no-such-option" in refused(place, check=1)


@pytest.fixture
def noisy(tmp_path_factory, slurm):
    """A login node whose shells greet, and find no Python on their PATH."""
    home = tmp_path_factory.mktemp("noisy")
    (home / "bin").mkdir()
    for folder in ("/usr/bin", "/bin", "/usr/sbin"):
        for program in Path(folder).iterdir():
            if not program.name.startswith("python") and not (home / "bin" / program.name).is_symlink():
                (home / "bin" / program.name).symlink_to(program)
    noise = "echo 'Welcome to the cluster!'; printf 'hb\\\\n\\\\thb\\\\tno'; echo; echo 'Quota: 97%' >&2\n"
    noise += "printf '\\\\033]0;a title, and no line after it\\\\007'\n"
    # these would go before the directives of a script, and hide its job
    noise += "export SBATCH_PARTITION=nowhere SQUEUE_PARTITION=nowhere SBATCH_ARRAY_INX=0-3\n"
    for name in (".bash_profile", ".bashrc"):
        (home / name).write_text(noise + f"export PATH={home}/bin\n")
    server = ssh.start(tmp_path_factory.mktemp("sshd"), environment={**slurm.environment, "HOME": str(home)})
    yield server
    server.stop()


def test_a_login_shell_that_greets_and_a_site_without_python(tmp_path, noisy):
    far.write(tmp_path, noisy)
    submit("--act", "ok,exit 3", "--wait", cwd=tmp_path, check=4)
    assert states(tmp_path) == {"ok": "completed", "exit 3": "failed"}
    record = json.loads((tmp_path / "logs" / "r" / "001-actok" / "exit.json").read_text())
    assert record["max_memory"] is None  # which only a Python there could have measured
    hpcbench("fetch", "r", cwd=tmp_path, check=0)
    assert "finished" in (tmp_path / "logs" / "r" / "001-actok" / "stdout.log").read_text()


def test_what_is_asked_of_no_run_writes_nothing(place):
    submit("--dry-run", cwd=place)
    before = journal(place)
    assert "no run 'x'" in far.line(hpcbench("status", "x", cwd=place, check=2))
    assert "no case 'x'" in far.line(hpcbench("cancel", "r", "x", cwd=place, check=2))
    assert journal(place) == before
    assert not (place / "remote").exists()


def test_a_folder_that_was_deleted_there(place):
    submit("--wait", cwd=place)
    toy.until(lambda: states(place) == {"ok": "completed"})
    shutil.rmtree(place / "remote")
    said = far.line(hpcbench("fetch", "r", cwd=place, check=3))
    assert said.startswith(f"far: the run's folder {place}/remote/r is gone there")
