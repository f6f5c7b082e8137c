"""A stand-in for OpenPBS: `qsub`, `qstat`, `qdel` and `qselect` over the jobs kept in $PBS_STAND_IN, which really run.

Every message, status and attribute is one that OpenPBS 23.06 gave in a recorded session; the number beside a piece of
code names the recording. What was not recorded, or not needed, is refused with status 99. Times that only make one wait
are settings (`SETTINGS`), short by default; `server.py configure` changes them, and breaks things.
"""

from __future__ import annotations

import fcntl
import getopt
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SERVER, USER = "pbs1", "hpc"
SETTINGS: dict[str, Any] = {
    "next": 0,  # 01: the first id is 0
    "scheduling": True,  # false: nothing starts
    "slots": 64,  # 25: the node has 64 processors
    "history": True,  # 29: job_history_enable
    "down": False,  # 20: the server does not run
    "hangs": False,  # 20b: it takes connections and answers none
    "node_down": False,  # 19: the mom is gone
    "lose_id": False,  # 21b: the next qsub is killed when the job is there and its id not yet printed
    "kill_delay": 0.5,  # 06: ten seconds between TERM and KILL
    "copy_time": 0.2,  # 18: about 32 s for output that cannot be delivered
    "max_array_size": 10000,
    "queues": {"workq": {}, "debug": {"walltime": 3600}},  # walltime, max_queued, enabled, started
}
FOLDER = Path(os.environ.get("PBS_STAND_IN", "/nonexistent"))
USAGE = {
    "qsub": """usage: qsub [-a date_time] [-A account_string] [-c interval]
\t[-C directive_prefix] [-e path] [-f ] [-h ] [-I [-X]] [-j oe|eo] [-J X-Y[:Z]]
\t[-k keep] [-l resource_list] [-m mail_options] [-M user_list]
\t[-N jobname] [-o path] [-p priority] [-P project] [-q queue] [-r y|n]
\t[-R o|e|oe] [-S path] [-u user_list] [-W otherattributes=value...]
\t[-v variable_list] [-V ] [-z] [script | -- command [arg1 ...]]
       qsub --version
""",
    "qstat": """usage:\x20
qstat [-f] [-J] [-p] [-t] [-x] [-E] [-F format | -w] [-D delim] [ job_identifier... | destination... ]
qstat [-a|-i|-r|-H|-T] [-J] [-t] [-u user] [-n] [-s] [-G|-M] [-1] [-w]
\t[ job_identifier... | destination... ]
qstat -Q [-f] [-F format] [-D delim] [ destination... ]
qstat -q [-G|-M] [ destination... ]
qstat -B [-f] [-F format] [-D delim] [ server_name... ]
qstat --version
""",
    "qdel": "usage:\n\tqdel [-W force|suppress_email=X] [-x] job_identifier...\n\tqdel --version\n",
    "qselect": """usage: qselect [-a [op]date_time] [-A account_string] [-c [op]interval]
\t[-h hold_list] [-H] [-J] [-l resource_list] [-N name] [-p [op]priority]
\t[-q destination] [-r y|n] [-s states] [-t subopt[op]date_time] [-T] [-P project_name]
\t[-x] [-u user_name]
       qselect --version
""",
}
TABLE = (
    "Job id            Name             User              Time Use S Queue\n"
    "----------------  ---------------- ----------------  -------- - -----\n"
)
OTHER = "a:c:C:e:k:Im:M:p:P:r:R:S:u:W:v:VzX"  # the options of qsub that are not repeated
NAME = re.compile(r"[A-Za-z0-9_.+-]+")  # 17
Job = dict[str, Any]


class Refused(Exception):  # noqa: N818 - its only use is to leave a command
    """A command ends with a status and some words."""

    def __init__(self, status: int, words: str = "") -> None:
        super().__init__(words)
        self.status, self.words = status, words


def main(command: str, words: list[str]) -> int:
    """Be one of the four commands; returns its exit status."""
    try:
        return {"qsub": qsub, "qstat": qstat, "qdel": qdel, "qselect": qselect}[command](words)
    except getopt.GetoptError as error:
        sys.stderr.write(f"{command}: invalid option -- '{error.opt}'\n{USAGE[command]}")  # 12, 16
        return 2
    except Refused as refused:
        sys.stderr.write(refused.words)
        return refused.status


def configure(**settings: Any) -> None:
    """Change settings of the server, as its administrator or fate would."""
    with jobs_and_settings() as (_, all_settings):
        all_settings.update(settings)
        if all_settings["down"] or all_settings["hangs"]:
            (FOLDER / "out").touch()
        else:
            (FOLDER / "out").unlink(missing_ok=True)
    _schedule()


@contextmanager
def jobs_and_settings() -> Iterator[tuple[dict[str, Job], dict[str, Any]]]:
    """Hold the server's state; what was changed in it is kept."""
    with (FOLDER / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        file = FOLDER / "state.json"
        state = json.loads(file.read_text()) if file.exists() else {"jobs": {}, "settings": SETTINGS}
        before = json.dumps(state)
        yield state["jobs"], state["settings"]
        if (after := json.dumps(state)) != before:
            (FOLDER / "state.new").write_text(after)
            (FOLDER / "state.new").replace(file)


def _connect(command: str) -> None:
    """Reach the server, or not."""
    while (FOLDER / "out").exists():
        with jobs_and_settings() as (_, settings):
            down, hangs = settings["down"], settings["hangs"]
        if down:  # 20
            if command == "qdel":
                raise Refused(162, f"Connection refused\nCouldn't connect to cluster: {SERVER}\n")
            status = 255 if command == "qstat" else 162
            raise Refused(status, f"Connection refused\n{command}: cannot connect to server {SERVER} (errno=15010)\n")
        if not hangs:
            return
        time.sleep(0.05)


# ------------------------------------------------------------------------------------------------------------ qsub


def qsub(words: list[str]) -> int:
    """Submit a job."""
    options, rest = _options("qsub", words, "A:N:l:q:j:o:J:fh", OTHER)
    command = rest if "--" in words and rest else []
    script, source = _script(command, rest)
    for line in script.splitlines() if not command else ():
        if line.startswith("#PBS"):  # 02: directives end at the first command; the command line goes before them
            try:
                asked, left = _options("qsub", line[4:].split(), "A:N:l:q:j:o:J:fh", OTHER)
            except getopt.GetoptError:
                left = [line]
            if left:
                raise Refused(99, f"qsub: stand-in: {line!r} is not repeated\n")
            for name, value in asked.items():
                options[name] = (
                    f"{value},{options[name]}" if name == "l" and name in options else options.get(name, value)
                )
        elif line.strip() and not line.startswith("#"):
            break
    job = _job(options, source, command, script, words)
    if (FOLDER / "out").exists() and "f" not in options and (child := os.fork()):
        # 20d: without -f another process submits, also when this one is gone
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if (FOLDER / "out").exists() and "f" not in options:
        os.setsid()
    _connect("qsub")
    print(_accept(job), flush=True)
    return 0


def _script(command: list[str], rest: list[str]) -> tuple[str, str]:
    if command or not rest:
        return ("", "STDIN") if command else (sys.stdin.read(), "STDIN")
    if len(rest) > 1:
        raise Refused(2, USAGE["qsub"])
    if not Path(rest[0]).exists():
        raise Refused(1, "qsub: script file:: No such file or directory\n")
    if not Path(rest[0]).is_file():
        raise Refused(1, "qsub: script not a file\n")
    text = Path(rest[0]).read_bytes().decode(errors="surrogateescape")
    if "\r\n" in text:
        raise Refused(1, "qsub: script contains cr, lf\n")
    return text, Path(rest[0]).name


def _job(options: dict[str, str], source: str, command: list[str], script: str, words: list[str]) -> Job:
    def illegal(option: str) -> Refused:
        return Refused(2, f"qsub: illegal -{option} value\n{USAGE['qsub']}")  # 08b, 11, 17

    name = options.get("N", source)
    if len(name) > 230:
        raise Refused(2, "qsub: Job name is too long \n")  # 17b
    if not NAME.fullmatch(name):
        raise illegal("N")
    if options.get("j", "oe") not in ("oe", "eo"):
        raise illegal("j")
    here = os.environ.get("PWD", "")
    here = here if here and Path(here).exists() and Path(here).samefile(".") else str(Path.cwd())
    if "@" in options.get("q", ""):
        raise Refused(99, "qsub: stand-in: no other server is repeated\n")
    if "o" in options and (not options["o"] or ":" in options["o"]):  # 18
        raise illegal("o")
    indices, most = None, None
    if "J" in options:
        found = re.fullmatch(r"(\d+)-(\d+)(?::(\d+))?(?:%(\d+))?", options["J"])
        if not found or int(found[1]) >= int(found[2]):
            raise illegal("J")
        first, last, step, most = (None if each is None else int(each) for each in found.groups())
        if step:
            raise Refused(99, "qsub: stand-in: -J with a step is not repeated\n")
        indices = list(range(first or 0, (last or 0) + 1, step or 1))
    slash = "/" if options.get("o", "").endswith("/") else ""
    output = f"localhost:{Path(here, options['o'])}{slash}" if "o" in options else None
    return {
        "name": name, "account": options.get("A"), "queue": options.get("q", "workq"), "join": options.get("j", "n"),
        "output": output, "here": here, "home": os.environ.get("HOME", "/"), "path": os.environ.get("PATH", ""),
        "hold": "h" in options, "resources": _resources(options.get("l")), "indices": indices, "most": most,
        "range": options.get("J", "").partition("%")[0], "script": script, "command": command,
        "arguments": " ".join(filter(None, words)),
    }  # fmt: skip


def _resources(text: str | None) -> dict[str, str]:
    """Read a resource list as 11, 22 and 27 show it."""
    found: dict[str, str] = {}
    for item in filter(None, re.split(r"[, ]", text or "")):
        key, _, value = item.partition("=")
        if key in ("nodes", "mem", "ngpus", "--"):
            raise Refused(99, f"qsub: stand-in: -l {key} is not repeated\n")
        if key not in ("select", "walltime", "filesystems", "place", "ncpus"):
            raise Refused(187, f"qsub: Unknown resource Resource_List.{key}\n")
        found[key] = value
    bad = "qsub: Illegal attribute or resource value"
    if "walltime" in found and found["walltime"] and _seconds(found["walltime"]) is None:
        unsure = re.fullmatch(r"[\d.:]+", found["walltime"]) and found["walltime"].count(":") < 3
        raise Refused(99 if unsure else 166, f"{bad} Resource_List.walltime\n")
    if "place" in found and found["place"] not in ("free", "pack", "scatter"):
        raise Refused(166, f"{bad} Resource_List.place\n")
    count = cpus = gpus = 0
    select = found.get("select", f"1:ncpus={found.get('ncpus', 1)}")
    for chunk in select.split("+"):
        number, *parts = chunk.split(":")
        if not re.fullmatch(r"\d+", number):
            raise Refused(166, f"{bad} Resource_List.select\n")
        if int(number) == 0:
            raise Refused(166, f"{bad}\n")
        each = dict(part.partition("=")[::2] for part in parts)
        if len(each) < len(parts):
            raise Refused(99, "qsub: stand-in: a resource given twice is not repeated\n")
        if unknown := [key for key in each if key not in ("ncpus", "ngpus", "mem")]:
            raise Refused(187, f"qsub: Unknown resource: {unknown[0]}\n")
        if not re.fullmatch(r"\d+", each.get("ncpus", "1")):
            raise Refused(166, f"{bad} select.ncpus\n")
        count += int(number)
        cpus += int(number) * int(each.get("ncpus", 1))
        gpus += int(number) * int(each.get("ngpus", 0))
    wall = _seconds(found["walltime"]) if found.get("walltime") else None
    return {
        **({"filesystems": found["filesystems"]} if found.get("filesystems") else {}),
        "ncpus": str(cpus),
        **({"ngpus": str(gpus)} if gpus else {}),
        "nodect": str(count),
        "place": found.get("place", "free" if "select" in found else "pack"),
        "select": select,
        **({} if wall is None else {"walltime": _clock(wall)}),
    }


def _seconds(text: str) -> int | None:
    if not re.fullmatch(r"\d+(:\d+){0,2}", text):
        return None
    total = 0
    for part in text.split(":"):
        total = total * 60 + int(part)
    return total


def _clock(seconds: int) -> str:
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _accept(job: Job) -> str:
    """Let the server take a job, or refuse it; returns its id."""
    with jobs_and_settings() as (jobs, settings):
        queue = settings["queues"].get(job["queue"])
        if queue is None:
            raise Refused(170, "qsub: Unknown queue\n")  # 09
        if not queue.get("enabled", True):
            raise Refused(173, "qsub: Queue is not enabled\n")
        if queue.get("walltime"):  # 09: who asks for none gets the most
            job["resources"].setdefault("walltime", _clock(queue["walltime"]))
        wall = job["resources"].get("walltime")
        if wall and queue.get("walltime") and (_seconds(wall) or 0) > queue["walltime"]:
            raise Refused(188, "qsub: Job violates queue and/or server resource limits\n")  # 10
        count = len(job["indices"] or [0])
        if count > settings["max_array_size"]:
            raise Refused(3, "qsub: Array job exceeds server or queue size limit\n")  # 11
        there = sum(each["state"] not in "FBX" and each["queue"] == job["queue"] for each in _each(jobs))
        if "max_queued" in queue and there + count > queue["max_queued"]:
            raise Refused(38, "qsub: would exceed queue generic's per-user limit\n")  # 10
        number = settings["next"]
        settings["next"] += 1
        job |= {"number": number, "state": "H" if job["hold"] else "Q", "runs": 0, "ctime": time.time()}
        job["id"] = f"{number}[].{SERVER}" if job["indices"] else f"{number}.{SERVER}"
        if job["indices"]:
            job["subjobs"] = {
                str(index): {"id": f"{number}[{index}].{SERVER}", "index": index, "state": "Q", "runs": 0,
                             "queue": job["queue"], "number": number} for index in job["indices"]
            }  # fmt: skip
        jobs[job["id"]] = job
        lose, settings["lose_id"] = settings["lose_id"], False
    if lose:
        os.kill(os.getpid(), signal.SIGKILL)  # 21b
    _schedule()
    return str(job["id"])


def _each(jobs: dict[str, Job]) -> Iterator[Job]:
    """Yield every job that can run: single ones, and subjobs with what their array says."""
    for job in jobs.values():
        yield from job["subjobs"].values() if job.get("subjobs") else (job,)


# ------------------------------------------------------------------------------------------------------------ running


def _schedule() -> None:
    """Start what can start."""
    with jobs_and_settings() as (jobs, settings):
        if not settings["scheduling"] or settings["node_down"]:
            return
        free = settings["slots"] - sum(job["state"] in "RE" for job in _each(jobs))
        for whole in jobs.values():
            array = whole.get("subjobs")
            if whole["state"] not in "QB":
                continue
            if not settings["queues"].get(whole["queue"], {}).get("started", True):
                whole["waits"] = "Not Running: Queue not started."  # 09
                continue
            most = whole["most"] if array and whole["most"] is not None else free
            busy = sum(job["state"] in "RE" for job in array.values()) if array else 0
            for job in array.values() if array else (whole,):
                if free <= 0 or (array and busy >= most):
                    break
                if job["state"] == "Q":
                    job.update(state="R", runs=job["runs"] + 1, stime=time.time(), exit=None, stage=None)
                    free, busy = free - 1, busy + 1
                    if array:
                        whole["state"] = "B"
                        whole.setdefault("stime", time.time())
                    subprocess.Popen(
                        [sys.executable, __file__, "mom", whole["id"], str(job.get("index", ""))],
                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                        start_new_session=True, cwd="/",
                    )  # fmt: skip


def mom(whole_id: str, index: str) -> None:
    """Run a job to its end, as the daemon of its node does."""
    with jobs_and_settings() as (jobs, settings):
        whole = jobs[whole_id]
        job = whole["subjobs"][index] if index else whole
        run, spool = job["runs"], FOLDER / "spool"
        spool.mkdir(exist_ok=True)
        script = FOLDER / f"{job['id']}.SC"
        script.write_bytes(whole["script"].encode(errors="surrogateescape"))
        script.chmod(0o700)
        (FOLDER / f"{job['id']}.TMP").mkdir(exist_ok=True)
    os.umask(0o077)  # 23
    files = [(spool / f"{job['id']}.{kind}").open("ab") for kind in ("OU", "ER")]  # 24: a second run writes on
    joined = files[0] if whole["join"] == "oe" else files[1]
    # 03: a login shell is given the script's name to run
    ran = whole["command"] or ["-bash"]
    with subprocess.Popen(
        ran, executable=None if whole["command"] else "/bin/bash", stdin=subprocess.PIPE, stdout=files[0],
        stderr=joined, env=_environment(whole, job), cwd=whole["home"], start_new_session=True,
    ) as shell:  # fmt: skip
        assert shell.stdin
        shell.stdin.write(b"" if whole["command"] else f"{script}\n".encode())
        shell.stdin.close()
        with jobs_and_settings() as (jobs, _):
            current = jobs[whole_id]["subjobs"][index] if index else jobs[whole_id]
            current["session"] = shell.pid
        limit, began, asked = _seconds(whole["resources"].get("walltime", "")), time.monotonic(), None
        ending, why = FOLDER / f"{job['id']}.qdel", None
        while shell.poll() is None:
            gone = time.monotonic() - began
            if why is None and ending.exists():
                why = "deleted"
            elif why is None and limit and gone > limit:
                why = "walltime"  # 04: TERM, ten seconds later KILL
                files[0].write(f"=>> PBS: job killed: walltime {gone:.0f} exceeded limit {limit}\n".encode())
                files[0].flush()
            if why and asked is None:
                asked = time.monotonic()
                _signal(shell.pid, signal.SIGTERM)
            if asked and time.monotonic() - asked > settings["kill_delay"]:
                _signal(shell.pid, signal.SIGKILL)
            time.sleep(0.02)
    _signal(shell.pid, signal.SIGKILL)
    if ending.exists():
        why = "deleted"
    status = 128 - shell.returncode if shell.returncode < 0 else shell.returncode
    status = {"deleted": 271, "walltime": -29}.get(why or "", status)  # 06: also where a trap exits with 9
    if _change(whole_id, index, run, state="E", exit=status, why=why):
        for file in files:
            file.close()
        staged = _deliver(whole, job, settings["copy_time"])
        _change(whole_id, index, run, state="X" if index else "F", stage=int(staged), ended=time.time())
    _schedule()


def _change(whole_id: str, index: str, run: int, **values: Any) -> bool:
    """Change a job that still is in this run of it; an array ends with its last subjob."""
    with jobs_and_settings() as (jobs, _):
        whole = jobs[whole_id]
        job = whole["subjobs"][index] if index else whole
        if job["runs"] != run or job["state"] not in "RE":
            return False
        job.update(values)
        if index and values["state"] == "X":
            _subjob_ended(whole, job)
    return True


def _subjob_ended(whole: Job, job: Job) -> None:
    # 08, 08b: 0 after one that ended with 3 and others with 0, 1 where the last did not end with 0
    whole.update(exit=int(job.get("exit") != 0), stage=1)
    if all(each["state"] == "X" for each in whole["subjobs"].values()):
        whole.update(state="F", ended=time.time())
        for each in whole["subjobs"].values():
            each["state"] = "F"


def _deliver(whole: Job, job: Job, wait: float) -> bool:
    """Copy the output where it was wanted; whether that went well."""
    done = True
    for kind, letter in [("OU", "o")] if whole["join"] == "oe" else [("OU", "o"), ("ER", "e")]:
        target = Path(_paths(whole, job)[letter].partition(":")[2])
        if target.is_dir() or _paths(whole, job)[letter].endswith("/"):
            target /= f"{job['id']}.{kind}"
        try:
            shutil.copyfile(FOLDER / "spool" / f"{job['id']}.{kind}", target)
            target.chmod(0o600)
        except OSError:  # 18: nothing in the job says so in words
            time.sleep(wait)
            (FOLDER / "undelivered").mkdir(exist_ok=True)
            shutil.copyfile(FOLDER / "spool" / f"{job['id']}.{kind}", FOLDER / "undelivered" / f"{job['id']}.{kind}")
            done = False
    return done


def _paths(whole: Job, job: Job) -> dict[str, str]:
    """Return Output_Path and Error_Path; PBS writes a subjob's index into both once it runs."""
    index = f".{'^array_index^'}" if whole["indices"] else ""
    paths = {kind: f"{SERVER}:{whole['here']}/{whole['name']}.{kind}{whole['number']}{index}" for kind in "oe"}
    paths["o"] = whole["output"] or paths["o"]
    if "index" in job and job["runs"]:
        paths = {kind: path.replace("^array_index^", str(job["index"])) for kind, path in paths.items()}
    return paths


def _environment(whole: Job, job: Job) -> dict[str, str]:
    """Return what a job finds in its environment: 23, of an array 08; nothing of the submitter's own."""
    return {
        "ENVIRONMENT": "BATCH", "HOME": whole["home"], "LOGNAME": USER, "USER": USER, "SHELL": "/bin/bash",
        "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games", "TMPDIR": str(FOLDER / f"{job['id']}.TMP"),
        "NCPUS": whole["resources"]["ncpus"], "OMP_NUM_THREADS": whole["resources"]["ncpus"],
        **({"PBS_ACCOUNT": whole["account"]} if whole["account"] else {}),
        **({"PBS_ARRAY_ID": whole["id"], "PBS_ARRAY_INDEX": str(job["index"])} if "index" in job else {}),
        "PBS_ENVIRONMENT": "PBS_BATCH", "PBS_JOBDIR": whole["home"], "PBS_JOBID": job["id"],
        "PBS_JOBNAME": whole["name"],
        "PBS_NODENUM": "0", "PBS_QUEUE": whole["queue"], "PBS_TASKNUM": "1", **_variables(whole),
    }  # fmt: skip


def _variables(whole: Job) -> dict[str, str]:
    return {
        "PBS_O_HOME": whole["home"], "PBS_O_LANG": "C.UTF-8", "PBS_O_LOGNAME": USER, "PBS_O_PATH": whole["path"],
        "PBS_O_SHELL": "/bin/bash", "PBS_O_INTERACTIVE_AUTH_METHOD": "resvport",
        "PBS_O_INTERACTIVE_ENCRYPT_METHOD": "", "PBS_O_WORKDIR": whole["here"], "PBS_O_SYSTEM": "Linux",
        "PBS_O_QUEUE": whole["queue"], "PBS_O_HOST": SERVER,
    }  # fmt: skip


def _signal(session: int, number: int) -> None:
    """Signal every process of a session, children first (04)."""
    members = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[3] == str(session) and fields[0] != "Z":
            members.append(int(entry.parent.name))
    for process in sorted(members, reverse=True):
        try:
            os.kill(process, number)
        except ProcessLookupError:
            continue


def requeue(job_id: str) -> None:
    """Take a running job from its node and run it once more under its id: 19c, 24."""
    with jobs_and_settings() as (jobs, _):
        whole = jobs.get(re.sub(r"\[\d+\]", "[]", job_id)) or {}
        index = re.search(r"\[(\d+)\]", job_id)
        job = whole["subjobs"][index[1]] if index else whole
        job.update(state="Q", exit=-20)
        session = job["session"]
    _signal(session, signal.SIGKILL)
    _schedule()


# ------------------------------------------------------------------------------------------------------------ asking


def _find(command: str, word: str, jobs: dict[str, Job]) -> list[tuple[Job, Job]]:
    """Return (array or job, job) for an id, several for a range of subjobs."""
    found = re.fullmatch(rf"(\d+)(?:(\[)(?:(\d+)(?:-(\d+))?)?\])?(?:\.{SERVER})?", word)
    if not found:
        if not word or "@" in word or word in ("workq", "debug"):
            raise Refused(99, f"{command}: stand-in: a destination is not repeated\n")
        if command == "qstat" and re.match(r"[A-Za-z]", word):
            raise Refused(170, f"qstat: Unknown queue destination {word}\n")  # 12
        raise Refused(1, f"{command}: illegally formed job identifier: {word}\n")
    full = word if word.endswith(f".{SERVER}") else f"{word}.{SERVER}"
    whole = jobs.get(f"{found[1]}[].{SERVER}" if found[2] else f"{found[1]}.{SERVER}")
    if whole is None:
        raise Refused(153, f"{command}: Unknown Job Id {full}\n")
    if found[3] is None:
        return [(whole, whole)]
    wanted = range(int(found[3]), int(found[4] or found[3]) + 1)
    if any(str(index) not in whole["subjobs"] for index in wanted):
        if command == "qdel":
            raise Refused(156, f"qdel: Invalid request {full}\n")  # 08b
        raise Refused(153, f"{command}: Unknown Job Id {full}\n")
    return [(whole, whole["subjobs"][str(index)]) for index in wanted]


def qstat(words: list[str]) -> int:
    """Show jobs, queues or the server."""
    options, ids = _options("qstat", words, "fxtEwBQF:", "aJpD:u:insGM1rHTq")
    as_json = options.get("F") == "json" and "f" in options
    if not as_json and (not {"F"}.isdisjoint(options) or ("f" in options and "w" not in options)):
        raise Refused(99, "qstat: stand-in: only a table, -f -w and -f -F json are repeated\n")
    try:
        _connect("qstat")
        with jobs_and_settings() as (jobs, settings):
            if "B" in options or "Q" in options:
                status, errors, shown = 0, "", []
                top = ("Server", _server(settings)) if "B" in options else ("Queue", _queues(settings, ids))
            else:
                status, errors, shown = _shown(options, ids, jobs, settings)
                top = ("Jobs", dict(shown))
    except Refused as refused:
        status, errors, top, shown = refused.status, refused.words, ("Jobs", {}), []
    if as_json:
        whole = {"timestamp": int(time.time()), "pbs_version": "23.06.06", "pbs_server": SERVER}
        whole |= {top[0]: top[1]} if top[1] else {}  # 15: no key where there is nothing
        print(json.dumps(whole, indent="\t", separators=(",", ":\t"), ensure_ascii=False))
    elif "f" in options:
        for job_id, told in shown:
            print(f"Job Id: {job_id}")
            for key, value in told.items():
                _print_attribute(key, value)
            print()
    elif shown:
        heading = not ids or not errors or {ids[0], f"{ids[0]}.{SERVER}"} & dict(shown).keys()  # 14
        sys.stdout.write(TABLE if heading else "")
        for job_id, told in shown:
            used = "00:00:00" if "resources_used" in told else "0"
            name = told["Job_Name"] if len(told["Job_Name"]) <= 15 else told["Job_Name"][:15] + "*"
            print(f"{job_id:<17} {name:<16} {USER:<16} {used:>9} {told['job_state']} {told['queue']:<16}")
    sys.stderr.write(errors)
    return status


def _print_attribute(key: str, value: Any) -> None:
    if key == "Variable_List":
        print(f"    Variable_List = {','.join(f'{name}={each}' for name, each in value.items())}")
    elif isinstance(value, dict):
        for name, each in value.items():
            print(f"    {key}.{name} = {each}")
    else:
        print(f"    {key} = {value}")


def _shown(
    options: dict[str, str], ids: list[str], jobs: dict[str, Job], settings: dict[str, Any]
) -> tuple[int, str, list[tuple[str, Job]]]:
    """Choose the jobs that are shown; returns the status, what is complained of, and the jobs."""
    status, errors, chosen = 0, "", []
    if "x" in options and not settings["history"]:  # 29
        words = "".join(f"qstat: PBS is not configured to maintain job history {each}\n" for each in ids or [""])
        return 0, words, []
    _forget(jobs, settings)
    for word in ids or [job_id for job_id, job in jobs.items() if job["state"] != "F" or "x" in options]:
        try:
            pairs = _known(word, jobs, ended="x" in options)
        except Refused as refused:
            if "E" in options and refused.status in (35, 153):  # 14b: dropped without a word
                continue
            status, errors = refused.status, errors + refused.words  # 14: the status of the last one that failed
        else:
            chosen += pairs
    if ids and options.get("F") == "json" and "E" not in options:
        chosen = chosen[:1]  # 14: only the first, with status 0
    if "E" in options:
        chosen.sort(key=lambda pair: pair[0]["number"])
    if "t" in options:
        chosen = [
            pair
            for whole, job in chosen
            for pair in [(whole, job), *((whole, each) for each in job.get("subjobs", {}).values())]
        ]
    return status, errors, [(job["id"], _attributes(whole, job)) for whole, job in chosen]


def _known(word: str, jobs: dict[str, Job], ended: bool) -> list[tuple[Job, Job]]:
    pairs = _find("qstat", word, jobs)
    if pairs[0][0]["state"] == "F" and not ended:  # 13
        finished = f"{pairs[0][1]['id']} Job has finished, use -x or -H to obtain historical job information"
        raise Refused(35, f"qstat: {finished}\n")
    return pairs


def _forget(jobs: dict[str, Job], settings: dict[str, Any]) -> None:
    for job_id in [job_id for job_id, job in jobs.items() if job["state"] == "F" and not settings["history"]]:
        del jobs[job_id]


def _attributes(whole: Job, job: Job) -> dict[str, Any]:
    """Describe a job as -F json does: attributes in PBS's order, what looks like a number as a number."""
    # a subjob that has not run, and never will, is shown by what its array says
    sub, own, array = "index" in job, bool(job["runs"]), bool(job.get("subjobs"))
    like = job if own else whole
    state, runs = job["state"], job["runs"]
    paths = _paths(whole, job)
    told: dict[str, Any] = {"Job_Name": whole["name"], "Job_Owner": f"{USER}@{SERVER}"}
    if own and state in "EFX":
        used = int(job.get("ended", time.time()) - job["stime"])
        told["resources_used"] = {
            "cpupercent": 0, "cput": "00:00:00", "mem": "0kb", "ncpus": int(whole["resources"]["ncpus"]), "vmem": "0kb",
            "walltime": _clock(used),
        }  # fmt: skip
    told |= {"job_state": state, "queue": whole["queue"], "server": SERVER}
    told |= {"Account_Name": whole["account"]} if whole["account"] else {}
    told |= {} if sub and own else {"Checkpoint": "u"}
    told |= {"ctime": _date(whole["ctime"]), "Error_Path": paths["e"]}
    told |= {"exec_host": f"{SERVER}/0", "exec_vnode": _vnode(whole)} if own and state in "REFX" else {}
    told |= {} if sub and own else {"Hold_Types": "u" if whole["hold"] else "n"}
    told |= {
        "Join_Path": whole["join"], "Keep_Files": "n", "Mail_Points": "a", "mtime": _date(time.time()),
        "Output_Path": paths["o"], "Priority": 0, "qtime": _date(whole["ctime"]), "Rerunable": "True",
        "Resource_List": {key: _parsed(value) for key, value in whole["resources"].items()},
    }  # fmt: skip
    told |= {"stime": _date(like["stime"])} if "stime" in like and (state in "REBFX" or like is not job) else {}
    told |= {"obittime": _date(like["ended"])} if "ended" in like and "stime" in like else {}
    told |= {"session_id": job["session"], "jobdir": whole["home"]} if own and "session" in job else {}
    told |= {"substate": _substate(whole, job)}
    told |= {"Variable_List": {key: _parsed(value) for key, value in _variables(whole).items()}}
    told |= {"comment": comment} if (comment := _comment(whole, job)) else {}
    told |= {} if whole["hold"] else {"etime": _date(whole["ctime"])}
    told |= {"run_count": runs} if own else {}
    told |= {"Stageout_status": like["stage"]} if like.get("stage") is not None else {}
    told |= {"Exit_status": like["exit"]} if like.get("exit") is not None else {}
    if sub and own:
        told |= {"array_id": whole["id"], "array_index": job["index"]}
    elif whole["arguments"]:
        told |= {"Submit_arguments": whole["arguments"]}
    if whole["command"]:
        program, *words = whole["command"]
        told |= {"executable": f"<jsdl-hpcpa:Executable>{program}</jsdl-hpcpa:Executable>"}
        listed = "".join(f"<jsdl-hpcpa:Argument>{word}</jsdl-hpcpa:Argument>" for word in words)
        told |= {"argument_list": listed} if words else {}
    if array:
        told |= _array(whole)
    told |= {"history_timestamp": int(like["ended"])} if state in "FX" and "ended" in like else {}
    if not sub or own:
        told |= {"project": "_pbs_project_default", "Submit_Host": SERVER}
    told |= {"max_run_subjobs": whole["most"]} if array and whole["most"] is not None else {}
    return told


def _array(whole: Job) -> dict[str, Any]:
    # 08, 14b: of an ended array only those that never ran have expired
    states = ["X" if job["state"] == "F" and not job["runs"] else job["state"] for job in whole["subjobs"].values()]
    left = [index for index, job in whole["subjobs"].items() if job["state"] == "Q"]
    count = {"Queued": "Q", "Running": "R", "Exiting": "E", "Expired": "X"}
    return {
        "array": "True",
        "array_state_count": " ".join(f"{name}:{states.count(state)}" for name, state in count.items()),
        "array_indices_submitted": whole["range"],
        "array_indices_remaining": f"{left[0]}-{left[-1]}" if len(left) > 1 else left[0] if left else "-",
    }


def _substate(whole: Job, job: Job) -> int:
    state = job["state"]
    if state in "FX":
        if "index" in job and not job["runs"]:
            return _substate(whole, whole)  # 08b
        if job.get("why") == "deleted":
            return 91
        failed = any(each.get("exit") for each in job["subjobs"].values()) if job.get("subjobs") else job.get("exit")
        return 93 if failed else 92
    return {"Q": 10, "H": 20, "R": 42, "E": 51, "B": 70}[state]


def _comment(whole: Job, job: Job) -> str:
    if "index" in job and not job["runs"]:
        return "Subjob finished" if job["state"] in "FX" else _comment(whole, whole)
    text = ""
    if job["runs"] or ("subjobs" in job and "stime" in job):
        date = time.strftime("%a %b %d at %H:%M", time.localtime(job["stime"]))
        text = f"Job run at {date} on {_vnode(whole)}" if job["runs"] else f"Job Array Began at {date}"
    if job.get("why") == "deleted" and text:
        return f"{text} and terminated" + (f" by {USER}@{SERVER}" if job["runs"] else "")
    if job["state"] in "FX" and text:
        ended = {92: "finished", 93: "failed"}[_substate(whole, job)]
        return f"{text} and {'exceeded resource walltime' if job.get('why') == 'walltime' else ended}"
    return text if job["state"] != "Q" else job.get("waits", "")


def _vnode(whole: Job) -> str:
    return f"({SERVER}:{whole['resources']['select'].partition(':')[2] or 'ncpus=1'})"


def _date(when: float) -> str:
    return time.strftime("%a %b %d %H:%M:%S %Y", time.localtime(when))


def _parsed(text: str) -> Any:
    """Repeat what the JSON of PBS does to values: 007 is 7, 1e5 is 100000 (27)."""
    if re.fullmatch(r"-?\d+", text):
        return int(text)
    return {"true": True, "false": False, "null": None}.get(text, text)


def _server(settings: dict[str, Any]) -> dict[str, Any]:
    """25."""
    return {
        SERVER: {
            "server_state": "Active", "server_host": SERVER, "scheduling": str(settings["scheduling"]),
            "default_queue": "workq", "resources_default": {"ncpus": 1}, "max_array_size": settings["max_array_size"],
            "job_history_enable": str(settings["history"]),
        }
    }  # fmt: skip


def _queues(settings: dict[str, Any], ids: list[str]) -> dict[str, Any]:
    """25."""
    for name in ids:
        if name not in settings["queues"]:
            raise Refused(170, f"qstat: Unknown queue {name}\n")  # 09
    found = {}
    for name, queue in settings["queues"].items():
        limit = _clock(queue["walltime"]) if "walltime" in queue else None
        found[name] = {
            "queue_type": "Execution",
            **({"max_queued": f"[u:PBS_GENERIC={queue['max_queued']}]"} if "max_queued" in queue else {}),
            **({"resources_max": {"walltime": limit}} if limit else {}),
            "enabled": str(queue.get("enabled", True)),
            "started": str(queue.get("started", True)),
        }
    return {name: found[name] for name in ids or found}


def qselect(words: list[str]) -> int:
    """List ids: 16."""
    options, rest = _options("qselect", words, "xTN:", "a:c:A:h:HJl:p:q:r:s:t:P:u:")
    if rest:
        raise Refused(2, USAGE["qselect"])
    name = options.get("N")
    if name is not None and not (NAME.fullmatch(name) and len(name) <= 230):
        raise Refused(2, f"qselect: illegal -N value\n{USAGE['qselect']}")
    _connect("qselect")
    with jobs_and_settings() as (jobs, settings):
        if "x" in options and not settings["history"]:
            raise Refused(0, "qselect: PBS is not configured to maintain job history\n")  # 29
        _forget(jobs, settings)
        for job in sorted(jobs.values(), key=lambda each: each["number"]):
            if (name is None or job["name"] == name) and ("x" in options or job["state"] != "F"):
                several = "T" in options and job.get("subjobs")
                print("\n".join(each["id"] for each in (job["subjobs"].values() if several else [job])))
    return 0


def qdel(words: list[str]) -> int:
    """Delete jobs: 05, 06, 08b, 19."""
    _, ids = _options("qdel", words, "", "W:x")
    if not ids:
        raise Refused(2, USAGE["qdel"])
    status = 0
    for word in ids:
        try:
            _connect("qdel")
            with jobs_and_settings() as (jobs, settings):
                _forget(jobs, settings)
                for whole, job in _find("qdel", word, jobs):
                    _delete(whole, job, settings)
        except Refused as refused:
            sys.stderr.write(refused.words)
            status = refused.status
            if status == 162:
                break
    _schedule()
    return status


def _delete(whole: Job, job: Job, settings: dict[str, Any]) -> None:
    if job["state"] in "FX":
        raise Refused(35, f"qdel: Job has finished {job['id']}\n")
    for each in job["subjobs"].values() if job.get("subjobs") else (job,):
        if each["state"] in "RE":
            if settings["node_down"]:
                raise Refused(222, f"qdel: Server could not connect to MOM {job['id']}\n")
            each["why"] = "deleted"
            (FOLDER / f"{each['id']}.qdel").touch()
        elif each["state"] in "QH":
            each.update(state="X" if "index" in each else "F", why="deleted", ended=time.time())
    if job.get("subjobs"):
        job["why"] = "deleted"
        if all(each["state"] == "X" for each in job["subjobs"].values()):
            job.update(state="F", ended=time.time())
            for each in job["subjobs"].values():
                each["state"] = "F"
    elif "index" in job and job["state"] == "X":
        _subjob_ended(whole, {"exit": 1})


def _options(command: str, words: list[str], known: str, other: str) -> tuple[dict[str, str], list[str]]:
    """Read options; one that PBS has, and the stand-in does not repeat, is refused in its own words."""
    found, rest = getopt.getopt(words, known + other)
    if unknown := [option for option, _ in found if option[1] in other]:
        raise Refused(99, f"{command}: stand-in: {unknown[0]} is not repeated\n")
    return {option[1]: value for option, value in found}, rest


def stop() -> None:
    """End every job."""
    configure(scheduling=False, down=False, hangs=False)
    with jobs_and_settings() as (jobs, _):
        sessions = [job["session"] for job in _each(jobs) if job["state"] in "RE" and "session" in job]
    for session in sessions:
        _signal(session, signal.SIGKILL)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["mom", job, index]:
            mom(job, index)
        case ["configure", settings]:
            configure(**json.loads(settings))
        case ["requeue", job]:
            requeue(job)
        case ["stop"]:
            stop()
