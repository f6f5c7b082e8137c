"""PBS: what its answers mean, and its side of the scripts on a site, against a stand-in that runs the jobs.

With HPCBENCH_TEST_PBS=1 and a real `qsub` on PATH the scripts run against that server instead.
"""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import toy

from hpcbench import benchmark, render, site
from hpcbench.errors import ConfigError
from hpcbench.plan import Sweep, plan
from hpcbench.submit.reach.transport import Local
from hpcbench.submit.schedulers.pbs import PBS
from hpcbench.submit.schedulers.scheduler import Seen

STAND_IN = Path(__file__).parents[1] / "pbs_stand_in"
REAL = os.environ.get("HPCBENCH_TEST_PBS") == "1" and shutil.which("qsub") is not None

# ------------------------------------------------------------------------------------------------ what answers mean


@pytest.fixture(scope="session")
def recordings():
    beside = Path(__file__).parents[2].parent / "shared" / "transcripts"
    folder = Path(os.environ.get("HPCBENCH_TRANSCRIPTS", beside)) / "pbs"
    if not folder.is_dir():
        pytest.skip(f"no recordings of PBS: {folder} is absent, and HPCBENCH_TRANSCRIPTS names no other folder")
    return folder


def answers(folder, number):
    """Yield each answer of qstat -F json in a recording."""
    (file,) = folder.glob(f"{number}-*.json")
    for step in json.loads(file.read_text())["steps"]:
        if step["argv"][0] == "qstat" and "json" in step["argv"]:
            out = step["stdout"]
            yield out if isinstance(out, str) else base64.b64decode(out["base64"]).decode(errors="replace")


def shown(answer):
    return re.findall(r'\n\t\t"(\d[^"]*)":\t\{', answer)


def last_seen(folder, number, job, letter):
    """Read the last answer of a recording that shows a job in that state."""
    for answer in reversed(list(answers(folder, number))):
        if re.search(rf'"{re.escape(job)}":\t\{{(?:(?!\n\t\t\}}).)*"job_state":\t"{letter}"', answer, re.DOTALL):
            return PBS().read(answer, [job])[job]
    raise AssertionError(f"{number} shows no {job} in state {letter}")


@pytest.mark.parametrize(
    ("number", "job", "letter", "state", "reason"),
    [
        ("01", "0.pbs1", "Q", "queued", ""),
        ("01", "0.pbs1", "R", "running", ""),
        ("01", "0.pbs1", "E", "running", ""),
        ("01", "0.pbs1", "F", "completed", ""),
        ("03", "2.pbs1", "F", "failed", "exit status 3"),
        ("03", "5.pbs1", "F", "failed", "exit status 137 (signal KILL)"),
        ("03", "9.pbs1", "F", "failed", "exit status 143 (signal TERM)"),
        ("03", "15.pbs1", "F", "failed", "exit status 127"),
        ("03", "18.pbs1", "F", "failed", "exit status 255"),
        ("03", "26.pbs1", "F", "failed", "exit status 254"),
        ("04", "3.pbs1", "F", "timeout", "PBS: over its walltime"),
        ("04", "28.pbs1", "E", "running", ""),  # its Exit_status is there already
        ("05", "34.pbs1", "F", "cancelled", "PBS: deleted before it ran"),
        ("06", "6.pbs1", "R", "running", ""),
        ("06", "6.pbs1", "F", "cancelled", "PBS: deleted by hpc@pbs1"),
        ("06", "29.pbs1", "F", "cancelled", "PBS: deleted by hpc@pbs1"),
        ("07", "265.pbs1", "H", "queued", "held by its user"),
        ("07", "265.pbs1", "F", "completed", ""),
        ("07", "268.pbs1", "H", "queued", "PBS: held by the system"),
        ("07", "269.pbs1", "W", "queued", "PBS: waits until Sat Nov 21 03:38:00 2026"),
        ("07", "271.pbs1", "H", "queued", "PBS: held by the system"),
        ("08", "263[].pbs1", "B", "running", ""),
        ("08", "263[4].pbs1", "Q", "queued", ""),  # with the Exit_status of its array
        ("08", "263[0].pbs1", "X", "completed", ""),
        ("08", "263[3].pbs1", "X", "failed", "exit status 3"),
        ("08", "263[3].pbs1", "F", "failed", "exit status 3"),
        ("08b", "264[2].pbs1", "X", "cancelled", "PBS: deleted before it ran"),
        ("08b", "264[0].pbs1", "X", "cancelled", "PBS: deleted by hpc@pbs1"),
        ("08b", "264[1].pbs1", "F", "cancelled", "PBS: deleted by hpc@pbs1"),
        ("08b", "273[1].pbs1", "Q", "queued", "held by its user"),  # its array is held
        ("08b", "273[1].pbs1", "F", "cancelled", "PBS: deleted before it ran"),
        ("09", "214.pbs1", "Q", "queued", "PBS: Queue not started"),
        ("18", "30.pbs1", "F", "completed", "its output could not be delivered"),
        ("19", "280.pbs1", "Q", "queued", "PBS: Not enough free nodes available"),
        ("19", "279.pbs1", "R", "running", "requeued, run 2"),
        ("19b", "281.pbs1", "Q", "queued", "requeued, PBS: Not enough free nodes available"),
        ("19b", "281.pbs1", "F", "cancelled", "PBS: deleted"),
        ("19c", "290.pbs1", "F", "failed", "exit status 4, ran 2 times"),
        ("20", "299.pbs1", "F", "failed", "exit status 5"),
        ("22", "16.pbs1", "F", "completed", ""),
        ("24", "266.pbs1", "F", "completed", "ran 2 times"),
        ("24", "275.pbs1", "S", "running", "PBS: suspended"),
        ("26", "22.pbs1", "Q", "queued",
         "PBS: Can Never Run: Insufficient amount of resource: ngpus (R: 9 A: 8 T: 8)"),
        ("27", "245.pbs1", "H", "queued", "held by its user"),
        ("27", "261.pbs1", "H", "queued", "held by its user"),  # bytes that are not UTF-8
        ("27b", "1008.pbs1", "H", "queued", "held by its user"),
        ("28", "267.pbs1", "W", "queued", "PBS: waits until Sat Nov 21 03:09:05 2026"),  # its files were not there
    ],
)  # fmt: skip
def test_a_job_of_a_recording_is_read(recordings, number, job, letter, state, reason):
    assert last_seen(recordings, number, job, letter) == Seen(state, reason)


def test_every_recorded_answer_is_read_whole_and_also_when_it_is_no_json(recordings):
    count = 0
    for file in sorted(recordings.glob("*.json")):
        for answer in answers(recordings, file.name.partition("-")[0]):
            jobs = shown(answer)
            seen = PBS().read(answer, jobs)
            assert set(seen) == set(jobs)
            assert not [each for each in seen.values() if each.state == "unknown" or "\n" in each.reason]
            damaged = answer.replace('"Jobs":\t{', '"Jobs":\t{\n\t\t"x": 007,', 1)
            assert PBS().read(damaged, jobs) == seen
            count += len(jobs)
    assert count > 300


def told(**attributes):
    return {"timestamp": 1, "pbs_version": "x", "Jobs": {"7.s": attributes}}


def read(document):
    return PBS().read(document if isinstance(document, str) else json.dumps(document), ["7.s"]).get("7.s")


def test_an_answer_of_several_documents_is_read():
    text = (
        json.dumps(told(job_state="R")) + "\n" + json.dumps({"Jobs": {"8[].s": {"job_state": "B"}}}, indent=1) + "\n{}"
    )
    assert PBS().read(text, ["7.s", "8[].s", "9.s"]) == {"7.s": Seen("running"), "8[].s": Seen("running")}


def test_a_damaged_document_does_not_hide_the_next():
    text = '{\n "Jobs":{\n  "6.s":{\n   "job_state":"R",\n   "x":007\n  }\n }\n}\n' + json.dumps(told(job_state="Q"))
    assert PBS().read(text, ["6.s", "7.s"]) == {"6.s": Seen("running"), "7.s": Seen("queued")}


def test_an_answer_that_was_cut_off_is_read_as_far_as_it_goes():
    text = json.dumps({"Jobs": {"7.s": {"job_state": "R"}, "8.s": {"job_state": "Q", "comment": "x"}}}, indent="\t")
    assert PBS().read(text[: text.index('"comment"')], ["7.s", "8.s"]) == {
        "7.s": Seen("running"),
        "8.s": Seen("queued"),
    }


@pytest.mark.parametrize(
    "text", ["", "no such thing", "{", "[1]", '{"Jobs": [1]}', '{"Jobs": {"7.s": 3}}', "{" * 100_000]
)
def test_an_answer_that_shows_no_job_shows_none(text):
    assert read(text) is None


def test_a_server_may_be_called_by_its_short_or_its_full_name():
    document = json.dumps({"Jobs": {"7.pbs": {"job_state": "Q"}, "8[3].pbs": {"job_state": "R"}}})
    wanted = ["7.pbs.example.org", "8[3].pbs.example.org", "8[4].pbs.example.org"]
    assert PBS().read(document, wanted) == {wanted[0]: Seen("queued"), wanted[1]: Seen("running")}


@pytest.mark.parametrize(
    ("attributes", "seen"),
    [
        ({"Exit_status": "3"}, Seen("failed", "exit status 3")),  # values are of any type
        ({"Exit_status": 271}, Seen("failed", "killed by signal TERM through PBS")),
        ({"Exit_status": 256 + 77}, Seen("failed", "killed by signal 77 through PBS")),
        ({"Exit_status": -29}, Seen("timeout", "PBS: over its walltime")),
        ({"Exit_status": -28}, Seen("timeout", "PBS: over its cput")),
        ({"Exit_status": -27, "comment": "Job run at Sat Nov 21 at 02:32 on (n:ncpus=1) and exceeded resource mem"},
         Seen("out_of_memory", "PBS: over its mem")),
        ({"Exit_status": -20}, Seen("node_failure", "PBS: its node was lost, Exit_status -20")),
        ({"Exit_status": -1, "comment": 123}, Seen("failed", "PBS: 123")),
        ({"Exit_status": -1}, Seen("failed", "PBS: Exit_status -1")),
        ({}, Seen("failed", "PBS: it ended without having been started")),
        ({"Exit_status": [1], "substate": "91"}, Seen("cancelled", "PBS: deleted before it ran")),
        ({"Exit_status": 0, "run_count": "2", "Stageout_status": "0"},
         Seen("completed", "ran 2 times, its output could not be delivered")),
    ],
)  # fmt: skip
def test_how_a_job_ended(attributes, seen):
    assert read(told(job_state="F", **attributes)) == seen


@pytest.mark.parametrize(
    ("attributes", "seen"),
    [
        ({"job_state": "Q", "comment": "Not Running: Insufficient amount of resource: ngpus (R: 8 A: 3 T: 8)"},
         Seen("queued", "PBS: Insufficient amount of resource: ngpus")),
        ({"job_state": "Q", "comment": "a\nb\tc " + 300 * "x"}, Seen("queued", "PBS: a b c " + 194 * "x")),
        ({"job_state": "Q", "Exit_status": -20, "run_count": 1}, Seen("queued", "requeued")),
        ({"job_state": "T"}, Seen("queued")),
        ({"job_state": "M"}, Seen("unknown", "PBS: state M")),
        ({"job_state": 5}, Seen("unknown", "PBS: state 5")),
        ({}, Seen("unknown", "PBS: state None")),
        ({"job_state": "R", "Exit_status": 3}, Seen("running")),
    ],
)  # fmt: skip
def test_a_job_that_has_not_ended(attributes, seen):
    assert read(told(**attributes)) == seen


def test_arrays_have_tasks_and_limits():
    pbs = PBS()
    assert (pbs.parent("263[3].pbs1"), pbs.parent("263[].pbs1"), pbs.parent("26.pbs1")) == ("263[].pbs1",) * 2 + (
        "26.pbs1",
    )
    assert pbs.array(10, None) == "0-9"
    assert pbs.array(10, 2) == "0-9%2"
    assert pbs.array_limit({}) == 1
    assert pbs.array_limit({"server.max_array_size": "10000", "max_array_size": "50"}) == 50
    limits = {"server.max_array_size": "10000", "max_queued": "[u:PBS_GENERIC=20],[o:PBS_ALL=1000]"}
    assert pbs.array_limit(limits) == 20
    assert pbs.facts_wanted({"queue": "by-gpu"}) == ["by-gpu"]
    assert pbs.facts_wanted({}) == []


# ------------------------------------------------------------------------------------------------ directives

SOPHIA = """\
title: Sophia
reach: local
scheduler: pbs
job: {account: proj, queue: by-gpu, gpus: 1, time: "01:00:00", filesystems: "home:eagle", select: gpus}
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    toy.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def head(place, text, acts=("ok",)):
    """Return the lines of a job script up to the first command."""
    (place / "sites").mkdir(exist_ok=True)
    (place / "sites" / "machine.yaml").write_text(text)
    loaded = benchmark.load("toy")
    sweep = Sweep.make(loaded.parameters, {"act": list(acts)})
    (bundle,) = render.render(plan(loaded, [site.load("machine")], sweep), "run")
    lines = bundle.files["job.sh"].decode().splitlines()
    return lines[: next(number for number, line in enumerate(lines) if not line.startswith("#"))], bundle


def test_the_directives_are_those_that_sophia_wants(place):
    lines, bundle = head(place, SOPHIA)
    assert lines == [
        "#!/bin/bash -l",
        "#PBS -A proj",
        f"#PBS -N hb-run-{bundle.case.name}",
        "#PBS -q by-gpu",
        "#PBS -l select=1",  # a GPU; there a chunk says nothing of processors
        "#PBS -l walltime=01:00:00",
        "#PBS -l filesystems=home:eagle",
        "#PBS -j oe",
        "#PBS -o scheduler.log",  # beside the script of a case that is submitted from its folder
    ]


def test_select_counts_gpus_or_nodes(place):
    assert "#PBS -l select=8" in head(place, SOPHIA.replace("gpus: 1", "gpus: 8"))[0]
    by_node = SOPHIA.replace("select: gpus", "select: nodes, cores: 4, memory: 8G").replace("by-gpu", "by-node")
    assert "#PBS -l select=1:ncpus=1:ngpus=1:mem=8gb" in head(place, by_node)[0]  # the benchmark asks for one core
    with pytest.raises(ConfigError, match="every job needs at least one"):
        head(place, SOPHIA.replace("gpus: 1", "gpus: 0"))


def test_what_a_site_leaves_out_is_left_to_pbs_and_what_it_adds_comes_last(place):
    lines, _ = head(place, "title: x\nreach: local\nscheduler: pbs\njob: {directives: ['-l place=scatter', '-m n']}\n")
    assert [line.split()[1] for line in lines[1:]] == ["-N", "-l", "-j", "-o", "-l", "-m"]
    assert lines[-2:] == ["#PBS -l place=scatter", "#PBS -m n"]


# ------------------------------------------------------------------------------------------------ on a site

JOB = """\
#!/bin/bash
#PBS -l walltime=00:01:00
#PBS -j oe
#PBS -o scheduler.log
cd -- "${HPCBENCH_CASE:-$PBS_O_WORKDIR}" || exit 74
echo "$PBS_JOBID" >>../started
printf '{"job": "%s"}\\n' "$PBS_JOBID" >started.json
echo to the log
. ./act
"""
ARRAY = """\
#!/bin/bash
#PBS -l walltime=00:01:00
#PBS -j oe
#PBS -o scheduler.log
cd -- "$PBS_O_WORKDIR" || exit 74
mapfile -t hb_cases <groups/GROUP.cases
export HPCBENCH_CASE=$PWD/${hb_cases[$PBS_ARRAY_INDEX]}
cd -- "$HPCBENCH_CASE" && exec bash job.sh
"""


class There:
    """A site: a run's folder, and the functions that are called there."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder / "a run's; folder", environment
        self.script = f'{PBS().script}\n"$@"\n'
        (self.folder / "groups").mkdir(parents=True)

    def configure(self, **settings):
        self.server("configure", json.dumps(settings))

    def server(self, *words):
        if REAL:
            pytest.skip("needs the stand-in: a real server is not told what to do")
        subprocess.run([sys.executable, STAND_IN / "server.py", *words], check=True)

    def call(self, function, *arguments, data=b""):
        return Local().call(self.script, function, *arguments, data=data)

    def run(self, function, *arguments):
        """Call a function of PBS's own in the run's folder; returns its status and both outputs."""
        script = f'{PBS().script}\nhb_enter "$1"\nshift\n"$@"\n'
        done = Local().call(script, str(self.folder), function, *arguments)
        return done.status, done.stdout.decode().removeprefix("\n"), done.stderr  # which ends what a profile printed

    def group(self, name, cases, act="true", array=None, token=None):
        """Write what hpcbench sends: the cases of a group and their scripts, packed."""
        files = {f"groups/{name}.cases": "".join(f"{case}\n" for case in cases)}
        array = array if array is not None else f"0-{len(cases) - 1}" if len(cases) > 1 else ""
        files[f"groups/{name}.what"] = f"{token or f'hb-{self.token}-{name}'}\t{cases[0]}\t{array}\n"
        files[f"groups/{name}.sh"] = ARRAY.replace("GROUP", name)
        for case in cases:
            files |= {f"new/{case}/job.sh": JOB, f"new/{case}/act": act}
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for path, text in files.items():
                member = tarfile.TarInfo(path)
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text.encode()))
        return packed.getvalue()

    token = f"test{os.getpid()}"

    def submit(self, *groups, data, patience=0):
        """Submit groups; returns the words of every line of the answer but those that only say that it lives."""
        out = self.call("hb_submit", str(self.folder), "send", str(patience), *groups, data=data).stdout.decode()
        said = [line.split("\t")[1:] for line in out.splitlines() if line.startswith("hb\t")]
        return [words for words in said if words[0] != "waiting"]

    def send(self, name, case, act="true"):
        """Submit a single case; returns the id of its job."""
        (self.folder / case).mkdir()
        (self.folder / case / "job.sh").write_text(JOB)
        (self.folder / case / "act").write_text(act)
        (self.folder / "groups" / f"{name}.cases").write_text(f"{case}\n")
        status, out, errors = self.run("hb_send", name, f"hb-{self.token}-{name}", "", case)
        assert status == 0, errors
        return out.strip()

    def seen(self, *jobs):
        status, out, errors = self.run("hb_query", *jobs)
        assert status == 0, errors
        return PBS().read(out, jobs)

    def until(self, job, *states):
        toy.until(lambda: self.seen(job)[job].state in states)
        return self.seen(job)[job]

    def jobs(self, name):
        out = subprocess.run(
            ["qselect", "-x", "-N", f"hb-{self.token}-{name}"], capture_output=True, text=True, check=True
        )
        return out.stdout.split()


@pytest.fixture
def pbs(tmp_path, monkeypatch):
    if not REAL:
        (tmp_path / "pbs").mkdir()
        monkeypatch.setenv("PBS_STAND_IN", str(tmp_path / "pbs"))
        monkeypatch.setenv("PATH", f"{STAND_IN}:{Path(sys.executable).parent}:{os.environ['PATH']}")
        monkeypatch.setenv("HOME", str(tmp_path))
        monkeypatch.setenv("BASH_ENV", "")
    yield There(tmp_path, {})
    if not REAL:
        subprocess.run([sys.executable, STAND_IN / "server.py", "stop"], check=True)


def test_a_run_is_sent_by_the_command_line_and_ends(pbs, place):
    pbs.configure(queues={"workq": {}, "by-gpu": {"walltime": 86400, "max_queued": 20}})
    (place / "sites").mkdir()
    (place / "sites" / "machine.yaml").write_text(f"{SOPHIA}python: {sys.executable}\n")
    acts = "ok,exit 3,kill 9"
    toy.hpcbench("submit", "--site", "machine", "--benchmark", "toy", "--act", acts, "--name", "r", "--wait", cwd=place)
    assert list(toy.states(place, "r").values()) == ["completed", "failed", "failed"]
    assert sorted(toy.ran(place, "r")) == sorted(toy.states(place, "r"))
    assert len(list((place / "logs" / "r" / "groups").glob("g0001.[012].log"))) == 3


def test_a_case_is_sent_runs_and_its_output_is_where_it_is_looked_for(pbs):
    job = pbs.send("g0001", "case one")
    assert re.fullmatch(r"\d+\.\S+", job)
    assert pbs.until(job, "completed") == Seen("completed")
    assert (pbs.folder / "case one" / "scheduler.log").read_text() == "to the log\n"
    assert (pbs.folder / "started").read_text() == f"{job}\n"


def test_a_case_that_fails_says_how(pbs):
    assert pbs.until(pbs.send("g1", "a", "exit 3"), "failed", "completed") == Seen("failed", "exit status 3")


def test_each_task_of_an_array_is_a_case_with_a_log_of_its_own(pbs):
    cases = ["a", "b", "c"]
    ((word, group, job), _) = pbs.submit("g1", data=pbs.group("g1", cases, act="[[ $PWD != */b ]]", array="0-2%2"))
    assert (word, group) == ("submitted", "g1")
    tasks = [job.replace("[]", f"[{index}]") for index in range(3)]
    toy.until(lambda: all(each.state in ("completed", "failed") for each in pbs.seen(*tasks).values()))
    assert [pbs.seen(*tasks)[task].state for task in tasks] == ["completed", "failed", "completed"]
    logs = {file.name: file.read_text() for file in (pbs.folder / "groups").glob("*.log")}
    assert logs == {f"g1.{index}.log": "to the log\n" for index in range(3)}
    assert sorted((pbs.folder / "started").read_text().split()) == sorted(tasks)


def test_a_group_is_sent_once_however_often_it_is_asked_for(pbs):
    data = pbs.group("g1", ["a", "b"])
    first = pbs.submit("g1", data=data)
    assert pbs.submit("g1", data=pbs.group("g1", ["a", "b"])) == first
    assert len(pbs.jobs("g1")) == 1


def test_a_job_whose_id_was_never_printed_is_adopted(pbs):
    pbs.configure(lose_id=True)
    assert pbs.submit("g1", data=pbs.group("g1", ["a", "b"])) == [["adopted", "g1", *pbs.jobs("g1")], ["done"]]
    assert len(pbs.jobs("g1")) == 1


def test_a_job_that_was_made_before_everything_was_killed_is_adopted(pbs):
    pbs.configure(scheduling=False)
    data = pbs.group("g1", ["a", "b"])
    # qsub makes the job and then kills all that is in its session, as when the login node goes down
    (pbs.folder / "bin").mkdir()
    (pbs.folder / "bin" / "qsub").write_text(
        f'#!/bin/bash\n"{STAND_IN}/qsub" "$@" >/dev/null\nread -r _ _ _ _ _ sid _ </proc/$$/stat\nkill -9 -- "-$sid"\n'
    )
    (pbs.folder / "bin" / "qsub").chmod(0o755)
    killer = f"""PATH="{pbs.folder}/bin:$PATH"; {pbs.script}"""
    killed = Local().call(killer, "hb_submit", str(pbs.folder), "send", "0", "g1", data=data)
    assert killed.status == -signal.SIGKILL
    assert pbs.submit("g1", data=pbs.group("g1", ["a", "b"])) == [["adopted", "g1", *pbs.jobs("g1")], ["done"]]
    assert len(pbs.jobs("g1")) == 1


def test_a_job_of_the_same_name_from_elsewhere_is_not_adopted(pbs, tmp_path):
    pbs.configure(scheduling=False)
    (pbs.folder / "groups" / "g1.cases").write_text("a\n")
    other = There(tmp_path / "other", {})
    other.send("g1", "a")
    near = There(tmp_path / "near", {})
    near.folder.rename(f"{pbs.folder}2")
    near.folder = Path(f"{pbs.folder}2")
    near.send("g1", "a")
    assert pbs.run("hb_find", "g1", f"hb-{pbs.token}-g1") == (0, "", "")
    mine = pbs.send("g1", "a")
    assert pbs.run("hb_find", "g1", f"hb-{pbs.token}-g1") == (0, f"{mine}\n", "")


def test_a_job_is_found_from_a_link_to_its_folder(pbs):
    job = pbs.send("g1", "a")
    (pbs.folder.parent / "link").symlink_to(pbs.folder)
    pbs.folder = pbs.folder.parent / "link"
    assert pbs.run("hb_find", "g1", f"hb-{pbs.token}-g1")[1] == f"{job}\n"


def test_a_deleted_job_is_found_too_and_of_several_the_first(pbs):
    pbs.configure(scheduling=False)
    first = pbs.send("g1", "a")
    assert pbs.run("hb_cancel", first)[0] == 0
    pbs.send("g1", "b")
    assert pbs.run("hb_find", "g1", f"hb-{pbs.token}-g1") == (0, f"{first}\n", "")


def test_without_a_history_a_job_is_found_by_what_its_case_wrote(pbs):
    pbs.configure(history=False, scheduling=False)
    waiting = pbs.send("g1", "a", "sleep 30")
    assert pbs.run("hb_find", "g1", f"hb-{pbs.token}-g1") == (0, f"{waiting}\n", "")
    pbs.configure(scheduling=True)
    pbs.until(waiting, "running")
    assert pbs.run("hb_cancel", waiting)[0] == 0
    toy.until(lambda: not pbs.seen(waiting))
    assert pbs.run("hb_find", "g1", f"hb-{pbs.token}-g1") == (0, f"{waiting}\n", "")
    ((_, _, array), _) = pbs.submit("g2", data=pbs.group("g2", ["b", "c"]))
    toy.until(lambda: not pbs.seen(array))
    assert pbs.run("hb_find", "g2", f"hb-{pbs.token}-g2") == (0, f"{array}\n", "")


def test_a_limit_of_jobs_leaves_the_group_for_later(pbs):
    pbs.configure(queues={"workq": {"max_queued": 2}}, scheduling=False)
    assert pbs.submit("g1", data=pbs.group("g1", ["a", "b"]))[0][0] == "submitted"
    assert pbs.submit("g2", data=pbs.group("g2", ["c", "d"])) == [
        ["full", "g2", "qsub: would exceed queue generic's per-user limit "], ["done"],
    ]  # fmt: skip
    pbs.configure(queues={"workq": {}})
    assert pbs.submit("g3", data=pbs.group("g3", ["c", "d"]))[0][0] == "submitted"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("walltime=00:01:00", "nosuch=1", "qsub: Unknown resource Resource_List.nosuch "),
        ("#PBS -j oe", "#PBS -q nosuch", "qsub: Unknown queue "),
        ("walltime=00:01:00\n#PBS -j oe", "walltime=02:00:00\n#PBS -q debug",
         "qsub: Job violates queue and/or server resource limits "),
    ],
)  # fmt: skip
def test_a_refusal_is_told_in_the_words_of_pbs(pbs, monkeypatch, old, new, words):
    monkeypatch.setattr(sys.modules[__name__], "ARRAY", ARRAY.replace(old, new))
    assert pbs.submit("g1", data=pbs.group("g1", ["a", "b"])) == [["rejected", "g1", words], ["done"]]
    assert pbs.jobs("g1") == []


def test_a_name_that_qsub_would_not_take_is_refused_before(pbs):
    (pbs.folder / "a").mkdir()
    for token in ("x" * 231, "has space", "a:b", ""):
        status, out, errors = pbs.run("hb_send", "g1", token, "", "a")
        assert (status, out) == (2, "")
        assert "is no name of a job for PBS" in errors


def test_a_server_that_is_down_is_said_to_be_and_nothing_is_doubled(pbs):
    job = pbs.send("g1", "a", "sleep 30")
    pbs.configure(down=True)
    refused = "Connection refused qsub: cannot connect to server pbs1 (errno=15010) "
    assert pbs.submit("g2", data=pbs.group("g2", ["b", "c"])) == [["unsure", "g2", refused], ["done"]]
    for function in (["hb_query", job], ["hb_cancel", job], ["hb_facts", "workq"], ["hb_find", "g1", "x"]):
        status, out, errors = pbs.run(*function)
        assert status != 0
        assert "Connection refused" in out + errors
    again = pbs.submit("g2", data=pbs.group("g2", ["b", "c"]))
    assert again[0][0] == "problem"
    assert "the scheduler does not answer: Connection refused" in again[0][1]
    pbs.configure(down=False)
    assert pbs.submit("g2", data=pbs.group("g2", ["b", "c"]))[0][0] == "submitted"
    assert len(pbs.jobs("g2")) == 1


def test_a_server_that_hangs_is_given_up(pbs):
    pbs.script = pbs.script.replace("timeout -k 2 25", "timeout -k 2 1")
    pbs.configure(hangs=True)
    ((word, _, said), _) = pbs.submit("g1", data=pbs.group("g1", ["a", "b"]))
    assert (word, said) == ("unsure", "qsub: no answer from the server within 25 seconds ")
    pbs.configure(hangs=False)
    time.sleep(1)  # with a background qsub the job would come to be now
    assert pbs.jobs("g1") == []
    assert pbs.submit("g1", data=pbs.group("g1", ["a", "b"]))[0][0] == "submitted"
    time.sleep(1)
    assert len(pbs.jobs("g1")) == 1


def test_a_cancelled_job_ends_and_may_be_cancelled_again(pbs):
    running, job = pbs.send("g1", "a", "sleep 30"), pbs.send("g2", "b", "sleep 30")
    pbs.until(running, "running")
    assert pbs.run("hb_cancel", running, "99999.pbs1", job) == (0, "", "")
    assert pbs.until(running, "cancelled").reason.startswith("PBS: deleted by")
    assert pbs.run("hb_cancel", running, job) == (0, "", "")
    assert pbs.run("hb_cancel", running) == (0, "", "")


def test_one_task_of_an_array_is_cancelled_and_then_the_rest(pbs):
    pbs.configure(slots=1)
    ((_, _, array), _) = pbs.submit("g1", data=pbs.group("g1", ["a", "b", "c"], act="sleep 30"))
    tasks = [array.replace("[]", f"[{index}]") for index in range(3)]
    pbs.until(tasks[0], "running")
    assert pbs.run("hb_cancel", tasks[1]) == (0, "", "")
    assert [pbs.seen(*tasks)[task].state for task in tasks] == ["running", "cancelled", "queued"]
    assert pbs.run("hb_cancel", array) == (0, "", "")
    toy.until(lambda: {each.state for each in pbs.seen(*tasks).values()} == {"cancelled"})


def test_a_job_that_cannot_be_cancelled_now_is_told(pbs):
    job, other = pbs.send("g1", "a", "sleep 30"), pbs.send("g2", "b")
    pbs.until(job, "running")
    pbs.until(other, "completed")
    pbs.configure(node_down=True)
    status, _, errors = pbs.run("hb_cancel", job, other)  # whose own failure is the last
    assert status != 0
    assert errors == f"qdel: Server could not connect to MOM {job}\n"


def test_jobs_that_are_not_known_are_left_out_of_an_answer(pbs):
    job, other = pbs.send("g1", "a"), pbs.send("g2", "b")
    assert set(pbs.seen("99998.pbs1", other, job, "99999.pbs1")) == {job, other}
    assert pbs.seen("99998.pbs1") == {}
    assert pbs.seen("99998[3].pbs1") == {}


def test_without_a_history_what_has_not_ended_is_seen(pbs):
    pbs.configure(history=False)
    job = pbs.send("g1", "a", "sleep 30")
    assert pbs.until(job, "running") == Seen("running")


def test_a_thousand_subjobs_and_hundreds_of_jobs_are_one_query(pbs):
    pbs.configure(scheduling=False)
    (pbs.folder / "groups" / "g1.sh").write_text(ARRAY)
    status, array, _ = pbs.run("hb_send", "g1", "many", "0-999", "a")
    assert status == 0
    tasks = [array.strip().replace("[]", f"[{index}]") for index in range(1000)]
    singles = [f"{number}.pbs1" for number in range(90000, 91200)]  # more than one command line should hold
    job = pbs.send("g2", "b")
    seen = pbs.seen(*tasks, *singles, job)
    assert len(seen) == 1001
    assert set(seen.values()) == {Seen("queued")}


def test_a_job_that_runs_twice_says_so(pbs):
    job = pbs.send("g1", "a", "touch ../acts; sleep 2")
    toy.until((pbs.folder / "acts").exists)
    pbs.server("requeue", job)
    assert pbs.until(job, "completed") == Seen("completed", "ran 2 times")
    assert (pbs.folder / "started").read_text() == f"{job}\n{job}\n"
    # both runs write into one file; a shell may have said that its child was killed
    assert (pbs.folder / "a" / "scheduler.log").read_text().count("to the log\n") == 2


def test_a_job_over_its_walltime_is_a_timeout(pbs, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "JOB", JOB.replace("00:01:00", "00:00:01"))
    job = pbs.send("g1", "a", "sleep 60")
    assert pbs.until(job, "timeout", "failed") == Seen("timeout", "PBS: over its walltime")
    assert "=>> PBS: job killed: walltime" in (pbs.folder / "a" / "scheduler.log").read_text()


def test_output_that_cannot_be_delivered_is_told(pbs):
    job = pbs.send("g1", "a", "cd ..; mv a b")
    assert pbs.until(job, "completed") == Seen("completed", "its output could not be delivered")


def test_the_limits_are_told(pbs):
    pbs.configure(queues={"by-gpu": {"walltime": 3600, "max_queued": 20}, "workq": {}})
    status, out, _ = pbs.run("hb_facts", "by-gpu")
    facts = dict(line.split("=", 1) for line in out.splitlines())
    assert (status, facts) == (
        0,
        {
            "server.max_array_size": "10000",
            "queue": "by-gpu",
            "max_queued": "[u:PBS_GENERIC=20]",
            "resources_max.walltime": "01:00:00",
        },
    )
    assert PBS().array_limit(facts) == 20
    assert pbs.run("hb_facts") == (0, "server.max_array_size=10000\n", "")
    assert pbs.run("hb_facts", "nosuch") == (0, "server.max_array_size=10000\n", "qstat: Unknown queue nosuch\n")


@pytest.mark.parametrize(
    ("status", "words", "judged"),
    [
        (38, "qsub: would exceed queue generic's per-user limit", "full"),
        (38, "", "unsure"),
        (200, "qsub: would exceed complex's per-project limit", "full"),
        (198, "qsub: Maximum number of jobs already in queue by-gpu", "full"),
        (188, "qsub: Job violates queue and/or server resource limits", "rejected"),
        (170, "qsub: Unknown queue", "rejected"),
        (3, "qsub: Array job exceeds server or queue size limit", "rejected"),
        (2, "qsub: illegal -N value usage: qsub", "rejected"),
        (127, "timeout: failed to run command 'qsub': No such file or directory", "rejected"),
        (162, "Connection refused qsub: cannot connect to server pbs1 (errno=15010)", "unsure"),
        (255, "pbsconf error: pbs conf variables not found", "unsure"),
        (124, "qsub: no answer from the server within 25 seconds", "unsure"),
        (137, "", "unsure"),
        (0, "", "unsure"),
    ],
)
def test_what_a_failed_submission_means(pbs, status, words, judged):
    assert pbs.run("hb_refusal", str(status), words)[1] == f"{judged}\n"
