"""The stand-in for PBS against recordings of a real one: the same commands get the same answers."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

STAND_IN = Path(__file__).parents[1] / "pbs_stand_in"
# recording → whether the scheduler was at work when it began
COVERED = {
    "01": True, "02": True, "03": True, "05": False, "06": True, "08": True, "09": True, "10": True,
    "11": False, "12": True, "13": True, "14": False, "14b": False, "15": True, "16": False, "17": False, "17b": False,
    "18": True, "20": True, "22": True, "29": True,
}  # fmt: skip
# what is the same whenever one looks; the rest is times, numbers of processes, and the machine
SAME = {
    "Job_Name", "job_state", "queue", "server", "Account_Name", "Checkpoint", "Error_Path", "Hold_Types", "Join_Path",
    "Output_Path", "Resource_List", "substate", "comment", "run_count", "Stageout_status", "Exit_status", "project",
    "Submit_arguments", "array", "array_id", "array_index", "array_indices_submitted", "array_indices_remaining",
    "array_state_count", "max_run_subjobs", "Submit_Host", "executable", "argument_list",
}  # fmt: skip
ORDER = "QHRBEXF"  # a job goes from left to right


@pytest.fixture(scope="session")
def recordings():
    beside = Path(__file__).parents[2].parent / "shared" / "transcripts" / "pbs"
    folder = Path(os.environ.get("HPCBENCH_TRANSCRIPTS", beside.parent)) / "pbs"
    if not folder.is_dir():
        pytest.skip(f"no recordings of PBS: {folder} is absent, and HPCBENCH_TRANSCRIPTS names no other folder")
    return folder


class Replay:
    """One recording, and a stand-in that is asked the same."""

    def __init__(self, file: Path, folder: Path, scheduling: bool) -> None:
        self.told = json.loads(file.read_text())
        self.home = folder / "home"
        self.cwd = self.home / Path(self.told["cwd"]).relative_to("/home/hpc")
        (self.cwd / "logs").mkdir(parents=True)
        for name, text in self.told["scripts"].items():
            # nothing is shown of how long a job takes, or how much it writes
            quick = re.sub(r"sleep [348]\b", "sleep 1", text.replace("head -c 500000000", "head -c 500"))
            (self.cwd / name).write_bytes(self.here(quick).encode())
        (folder / "state").mkdir()
        self.env = {
            "PATH": f"{STAND_IN}:{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(self.home),
            "PBS_STAND_IN": str(folder / "state"),
        }  # fmt: skip
        self.next = 0
        self.unknown: set[str] = set()  # jobs of the recording that the stand-in refused to make
        self.configure(scheduling=scheduling, kill_delay=2)

    def here(self, text: str) -> str:
        # root, who may run these tests, can write below /root
        return text.replace("/home/hpc", str(self.home)).replace("/root/x.log", "/proc/x.log")

    def there(self, text: str) -> str:
        return text.replace(str(self.home), "/home/hpc").replace("/proc/x.log", "/root/x.log")

    def configure(self, **settings: object) -> None:
        self.call(sys.executable, STAND_IN / "server.py", "configure", json.dumps(settings))

    def call(self, *argv: object, stdin: str = "") -> tuple[int, str, str]:
        done = subprocess.run(
            [str(each) for each in argv], env=self.env, cwd=self.cwd, input=stdin, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, self.there(done.stdout), self.there(done.stderr)

    def administrate(self, argv: list[str]) -> bool:
        """Do as the administrator did; whether the stand-in can."""
        match argv:
            case ["qmgr", "-c", "set server scheduling=true" | "set server scheduling=false" as words]:
                self.configure(scheduling=words.endswith("true"))
            case ["qmgr", "-c", "set server job_history_enable=false"]:
                self.configure(history=False)
            case ["qmgr", "-c", words] if found := re.fullmatch(
                r"set queue debug (enabled|started)=(true|false)", words
            ):
                self.configure(queues={"workq": {}, "debug": {"walltime": 3600, found[1]: found[2] == "true"}})
            case ["qmgr", "-c", "set queue debug max_queued=[u:PBS_GENERIC=1]"]:
                self.configure(queues={"workq": {}, "debug": {"walltime": 3600, "max_queued": 0}})
            case ["qmgr", "-c", "unset queue debug max_queued"]:
                self.configure(queues={"workq": {}, "debug": {"walltime": 3600}})
            case ["kill", "-9", _]:
                self.configure(down=True)
            case [command] if command.endswith("pbs_server"):
                self.configure(down=False)
            case _:
                return False
        return True

    def compare(self) -> tuple[int, list[str]]:
        """Ask every question; returns how many were compared, and what differed."""
        compared, differences = 0, []
        for step in self.told["steps"]:
            argv, note = step["argv"], step.get("note", "")
            if step.get("as") == "root":
                if not self.administrate(argv) and argv[0] == "qmgr":
                    break  # from here on it is another server
                continue
            if argv[0] in ("qalter", "qrls", "qhold"):
                break
            if (
                argv[0] not in ("qsub", "qstat", "qdel", "qselect")
                or step.get("env")
                or isinstance(step["stdout"], dict)
            ):
                continue
            if any(each in self.unknown for each in argv):
                continue
            if argv[0] == "qsub" and step["rc"] == 0 and (found := re.match(r"(\d+)", step["stdout"])):
                if int(found[1]) != self.next:
                    self.configure(next=int(found[1]))
                self.next = int(found[1]) + 1
            got = self.ask(argv, step, note)
            if got is None:
                continue
            if got[0] == 99:
                self.next = -1
                made = step["stdout"].split() if argv[0] == "qsub" else argv
                self.unknown |= {each for each in made if argv[0] != "qstat" and each[:1].isdigit()}
                continue
            compared += 1
            moving = moved(step["stdout"], got[1])
            wanted = (step["rc"], self.comparable(step["stdout"], moving), step["stderr"])
            if wanted != (seen := (got[0], self.comparable(got[1], moving), got[2])):
                differences.append(f"{argv}\n  recorded {wanted}\n  stand-in {seen}")
        return compared, differences

    def ask(self, argv: list[str], step: dict, note: str) -> tuple[int, str, str] | None:
        """Ask until the job is as far as it was; None where it is further by now."""
        words = [self.here(each) for each in argv]
        stdin = step.get("stdin") or ""
        deadline = time.monotonic() + 60
        while True:
            got = self.call(*words, stdin=stdin if isinstance(stdin, str) else "")
            wanted, now = states(step["stdout"]), states(got[1])
            if got[0] == 35 and step["rc"] == 0:
                return None
            if argv[0] != "qstat" or not wanted or not now or "t" in "".join(argv[1:3]):
                return got
            ahead = [ORDER.find(now.get(job, "F")) - ORDER.find(state) for job, state in wanted.items()]
            if any(each > 0 for each in ahead):
                return None
            if not any(each < 0 for each in ahead) or time.monotonic() > deadline:
                return got
            time.sleep(0.05)

    def comparable(self, text: str, moving: set[str]) -> object:
        """Take out of an answer what cannot be the same."""
        left_out = self.unknown | moving
        if not text.startswith("{"):
            lines = [
                re.sub(r"\d\d:\d\d:\d\d|PBS_O_PATH=[^,]*|\w+ \w+ \d+ (?=\d)", "0", line).split()
                for line in text.splitlines()
            ]
            return [line for line in lines if not line or line[0] not in left_out]
        told = json.loads(text)
        jobs = {job: self.lasting(each) for job, each in told.get("Jobs", {}).items() if job not in left_out}
        return [key for key in told if key != "Jobs"], jobs

    @staticmethod
    def lasting(job: dict) -> dict:
        if job["job_state"] in "RE":  # each moment adds an attribute
            return {key: job.get(key) for key in ("Job_Name", "job_state", "Output_Path", "run_count")}
        found = {key: value for key, value in job.items() if key in SAME}
        if "comment" in found:
            found["comment"] = re.sub(r"at \w+ \w+ +\d+ at \d\d:\d\d", "at DATE", found["comment"])
        if found["job_state"] in "BQ" and "Began" in found.get(
            "comment", ""
        ):  # how far an array is, in all its subjobs
            return {key: value for key, value in found.items() if not re.match("array_(st|in)|Exit|Stage|subst", key)}
        # a job of an instant has none or all of these
        return found | {"keys": [key for key in job if key not in ("session_id", "resources_used", "jobdir")]}


def moved(recorded: str, got: str) -> set[str]:
    """Return the subjobs that were elsewhere at that moment; an array that has begun goes its own way."""
    there, here = (
        states(text) or dict(re.findall(r"^(\S+\.pbs1) .* (\w) \w+ *$", text, re.MULTILINE)) for text in (recorded, got)
    )
    return {job for job in there if "[" in job and "[]" not in job and there[job] != here.get(job)}


def states(text: str) -> dict[str, str]:
    return dict(re.findall(r'\n\t\t"([^"]+)":\t\{.*?"job_state":\t"(.)"', text, re.DOTALL))


@pytest.mark.parametrize(("number", "scheduling"), COVERED.items(), ids=str)
def test_the_stand_in_answers_as_the_recorded_server(recordings, tmp_path, number, scheduling):
    (file,) = recordings.glob(f"{number}-*.json")
    replay = Replay(file, tmp_path, scheduling)
    try:
        compared, differences = replay.compare()
    finally:
        replay.call(sys.executable, STAND_IN / "server.py", "stop")
    assert not differences, "\n".join(differences)
    assert compared > 1
