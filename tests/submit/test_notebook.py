import json
import os
import signal
import stat
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import pytest
import toy

import hpcbench
from hpcbench import benchmark, render, site
from hpcbench.errors import ConfigError, RunError
from hpcbench.plan import Case, Sweep, plan
from hpcbench.render import Bundle
from hpcbench.submit.by_hand import notebook

ACTS = ["ok", "exit 3", 'it\'s "quoted"\n$(touch ../broken) `id` \\ %run']


@pytest.fixture
def place(tmp_path, monkeypatch):
    toy.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bundles(acts=ACTS, run="r"):
    loaded = benchmark.load("toy")
    sweep = Sweep.make(loaded.parameters, {"act": acts})
    return render.render(plan(loaded, [site.load("local")], sweep), run)


def cells(data):
    """Return the notebook's cells as text, having checked that it is valid."""
    nbformat = pytest.importorskip("nbformat")
    book = nbformat.reads(data.decode(), as_version=4)
    nbformat.validate(book)
    return [cell.source for cell in book.cells]


def execute(data, folder):
    """Run every cell in a real kernel, whose working folder is `folder`; return all that they print."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    book = nbformat.reads(data.decode(), as_version=4)
    client = nbclient.NotebookClient(
        book, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute()
    return "".join(out.get("text", "") for cell in book.cells for out in cell.get("outputs", []))


def unpacked(folder, to):
    with zipfile.ZipFile(folder / "r-results.zip") as archive:
        archive.extractall(to)
    return to


def test_the_notebook_is_valid_and_the_same_input_gives_the_same_bytes(place):
    data = notebook.notebook("r", "A *toy* <b>", bundles(), gpu="T4", setup="true")
    assert data == notebook.notebook("r", "A *toy* <b>", bundles(), gpu="T4", setup="true")
    book = json.loads(data)
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert book["metadata"]["accelerator"] == "GPU"
    assert book["metadata"]["colab"] == {"gpuType": "T4", "provenance": []}
    text = cells(data)
    assert text[0].startswith("# A \\*toy\\* &lt;b&gt;\n")
    assert text[1].startswith("RUN = 'r'\n")
    assert [cell["id"] for cell in book["cells"]] == [f"cell-{number}" for number in range(1, len(text) + 1)]


def test_without_a_gpu_none_is_asked_for(place):
    metadata = json.loads(notebook.notebook("r", "A toy", bundles(), gpu=None))["metadata"]
    assert "accelerator" not in metadata
    assert "gpuType" not in metadata["colab"]


def test_values_that_are_equal_and_not_the_same_are_told_apart():
    made = [Bundle(Case(str(n), "s", {"a": value, "b": 1}, 1), {}) for n, value in enumerate([1, 1.0, True])]
    parameters = cells(notebook.notebook("r", "A toy", made, gpu=None))[1]
    assert "    '0': {'a': 1},\n    '1': {'a': 1.0},\n    '2': {'a': True},\n" in parameters
    assert "SAME = {\n    'b': 1,\n}" in parameters


@pytest.mark.parametrize("gpu", ["A100-80GB", "t4", "V100", ""])
def test_a_gpu_that_colab_would_replace_by_an_a100_is_refused(place, gpu):
    with pytest.raises(ConfigError, match="Colab has no"):
        notebook.notebook("r", "A toy", bundles(), gpu=gpu)


def test_what_all_cases_share_stands_once(place):
    text = "\n".join(cells(notebook.notebook("r", "A toy", bundles([f"act{n}" for n in range(30)]), gpu=None)))
    assert text.count("import json, os, resource, signal") == 1
    assert text.count("hb_finish() {") == 1
    assert text.count("hb-r-001-") == 2  # job.sh and case.json


def test_it_runs_every_case_and_its_results_read_like_any_run(place, tmp_path):
    made = bundles()
    work = tmp_path / "work"
    work.mkdir()
    data = notebook.notebook("r", "A toy", made, gpu=None, setup="echo set up; touch was-set-up")
    said = execute(data, work)
    names = [bundle.case.name for bundle in made]
    assert (work / "was-set-up").exists()
    assert "set up\n" in said
    assert f"[1/3] {names[0]}" in said
    assert "FAILED after" in said
    assert "exit status 3" in said
    assert f"The results are in {work / 'r-results.zip'}" in said
    assert not (work / "r" / "broken").exists()

    for bundle in made:
        for name, content in bundle.files.items():
            assert (work / "r" / bundle.case.name / name).read_bytes() == content

    folder = unpacked(work, tmp_path / "logs" / "r")
    assert sorted(each.name for each in folder.iterdir()) == names
    metrics, there = hpcbench.parse(folder), hpcbench.parse(work / "r")
    assert list(metrics.cases["act"]) == ACTS
    assert list(metrics.cases["state"]) == ["completed", "failed", "completed"]
    columns = ["step", "loss", "step_time", "steady"]
    assert len(metrics.steps) == 9
    assert metrics.steps[columns].equals(there.steps[columns])

    said = execute(data.replace(b"import json, os", b"import os, json"), work)  # the program was edited in its cell
    assert said.count(", before") == 3
    assert (work / "r" / names[0] / "toy_program.py").read_text() == toy.PROGRAM  # the one that gave these results
    assert (work / "r" / "ran").read_text().split() == names  # each once


def test_an_interrupted_case_is_run_again_and_a_finished_one_is_not(place, tmp_path):
    made = bundles(["ok", "hang"])
    first, second = (bundle.case.name for bundle in made)
    data = notebook.notebook("r", "A toy", made, gpu=None)
    nbclient = pytest.importorskip("nbclient")

    sessions = []

    def interrupt():
        toy.until((place / "r" / second / "stdout.log").exists)
        job = json.loads((place / "r" / second / "started.json").read_text())["pid"]
        sessions.append(os.getsid(job) == job)
        for pid, command in toy.processes_under(place).items():
            if "ipykernel" in command:
                os.kill(pid, signal.SIGINT)

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(nbclient.exceptions.CellExecutionError, match="KeyboardInterrupt"):
        execute(data, place)
    watcher.join()
    assert sessions == [True]  # so that it outlives its kernel
    assert json.loads((place / "r" / second / "exit.json").read_text())["reason"] == "terminated"
    toy.until(lambda: not any("--act=hang" in line for line in toy.processes_under(place / "r").values()))
    ended = (place / "r" / first / "exit.json").read_bytes()
    execute(data.replace(b"--act=hang", b"--act=hung"), place)
    assert (place / "r" / first / "exit.json").read_bytes() == ended
    assert json.loads((place / "r" / second / "exit.json").read_text())["status"] == 0


def test_a_case_that_outlived_its_kernel_is_waited_for(place):
    (bundle,) = bundles(["ok"])
    folder = place / "r" / bundle.case.name
    notebook.write_case(folder, place, [], dict(bundle.files))
    script = (folder / "job.sh").read_text().replace("--seconds=0.0", "--seconds=3")
    (folder / "job.sh").write_text(script)
    job = subprocess.Popen(["bash", "job.sh"], cwd=folder)
    toy.until(lambda: notebook.is_running(folder))
    assert notebook.run_case(folder).endswith(", before")
    assert job.wait() == 0
    assert (place / "r" / "ran").read_text().split() == [bundle.case.name]


HOSTILE = {
    "quotes.py": b"a = '''b'''\nc = \"\"\"d\"\"\"\\\n",
    "magic.py": b"%matplotlib inline\n!touch broken\n%%bash\n?x\nx = !ls\n",
    "prompt.py": b">>> print(1)\n1\n",
    "later.py": b"x = 1\n  >>> print(1)\n",
    "dots.py": b"... \nx = 1\n",
    "input.py": b"In [1]: x\n",
    "open.py": b"x = 1",
    "returns.py": b"x = 1\r\ny = 2\r\n",
    "returning.py": b"x = 1\ry",
    "blank.py": b"\n\n",
    "spaces.py": b"  \n\nx = 1\n",
    "end.py": b"x = 1\n\n\n",
    "empty.py": b"",
    "newline.py": b"\n",
    "indented.py": b"    x = 1\n\ty\n \n",
    "separators.py": "x = '\u2028\x0c\x85\x1c\x00\ufeff\x1b[31m'\n".encode(),
    "letters.py": "x = 'é 语 😀 {x} $HOME'\n".encode(),
    "slashes.py": b"\\\\\\n\\",
    "binary": bytes(range(256)) * 9,
    "strange '\"\n name.py": b"x = 1\n",
    "sub/folder.py": b"x = 1\n",
}


@pytest.mark.parametrize("differ", [False, True])
def test_every_file_arrives_byte_for_byte(tmp_path, differ):
    job = {"job.sh": b'echo >stderr.log; echo \'{"reason":1,"started":0,"ended":1,"status":0}\' >exit.json\n'}
    made = [Bundle(Case("1", "s", {"act": 1}, 1), {**HOSTILE, **job})]
    if differ:  # in lines, wholly, and by being there
        other = {name: content.replace(b"x", b"'''\\") for name, content in HOSTILE.items()}
        other["binary"] = b"\xff"
        other["end.py"] = b"one line"
        made.append(Bundle(Case("2", "s", {"act": True}, 1), {**other, **job, "more": b"\x00"}))
    data = notebook.notebook("r", "Hostile", made, gpu=None)
    assert cells(data)
    execute(data, tmp_path)
    for bundle in made:
        found = {
            str(file.relative_to(tmp_path / "r" / bundle.case.name)): file.read_bytes()
            for file in (tmp_path / "r" / bundle.case.name).rglob("*")
            if file.is_file() and file.name not in ("exit.json", "stderr.log")
        }
        assert found == bundle.files
    assert not list(tmp_path.rglob("broken"))


def test_a_plain_program_is_readable_and_can_be_edited(place):
    (program,) = [cell for cell in cells(notebook.notebook("r", "A toy", bundles(), gpu=None)) if "RLIMIT_AS" in cell]
    assert program == "%%writefile r-files/toy_program.py\n" + toy.PROGRAM.removesuffix("\n")


def test_the_zip_has_files_only_in_one_order_whatever_their_times(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "deep").mkdir(parents=True)
    (tmp_path / "a" / "deep" / "log").write_text("x")
    for name in ("z", "log", "a"):
        (tmp_path / "b" / name).write_text("y")
    (tmp_path / "b" / "link").symlink_to("/etc/passwd")
    (tmp_path / "b" / "folder").symlink_to(tmp_path / "a")
    os.mkfifo(tmp_path / "b" / "pipe")
    notebook.pack(tmp_path, ["a", "b", "never run"], tmp_path / "one.zip")
    os.utime(tmp_path / "b" / "log", (0, 0))
    notebook.pack(tmp_path, ["a", "b", "never run"], tmp_path / "two.zip")
    assert zipfile.ZipFile(tmp_path / "one.zip").namelist() == ["a/deep/log", "b/a", "b/log", "b/z"]
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


COLAB = '''#!{python}
"""Stands for google-colab-cli 0.7: its flags as `colab COMMAND --help` lists them, that `exec` goes on after a cell
that failed and ends with 0, writes X_output.ipynb, limits each cell to 30 s unless told otherwise, and that `download`
says "Download failed" and ends with 1 where there is no such file. Executes nothing: a file `remote` stands for the
results.
"""
import argparse, os, pathlib, shutil, sys
place = pathlib.Path({place!r})
with (place / "calls").open("a") as calls:
    calls.write(repr(sys.argv[1:]) + "\\n")
fail = (place / "fail").read_text().split() if (place / "fail").exists() else []
parser = argparse.ArgumentParser(allow_abbrev=False)
commands = parser.add_subparsers(dest="command", required=True)
def command(name, *flags):
    new = commands.add_parser(name, allow_abbrev=False)
    new.add_argument("-s", "--session", required=True)
    for flag in flags:
        new.add_argument(*flag.split())
command("new", "--gpu", "--tpu")
command("exec", "-f --file", "--timeout")
command("download", "remote_path", "local_path")
command("stop")
given = parser.parse_args()
if given.command in fail:
    sys.exit("[colab] Allocation refused\\n\\x1b[31m" + given.command + " failed")
if given.command == "exec":
    assert pathlib.Path(given.file).read_bytes() and float(given.timeout or 30) > 30
    pathlib.Path(given.file[:-6] + "_output.ipynb").write_text("")
    print("[colab] Executing cell 1/1 - cell-1...")
if given.command == "download":
    if not (place / "remote").exists():
        print("[colab] Download failed: File or directory not found: " + given.remote_path)
        sys.exit(1)
    assert given.remote_path == "/content/r-results.zip"
    shutil.copyfile(place / "remote", given.local_path)
'''


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """Put a stand-in for Colab's command line on PATH; returns its calls so far."""
    tool = tmp_path / "bin" / "colab"
    tool.parent.mkdir()
    tool.write_text(COLAB.format(python=sys.executable, place=str(tmp_path)))
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=os.pathsep)
    (tmp_path / "r.ipynb").write_text("{}")
    return lambda: [eval(line) for line in (tmp_path / "calls").read_text().splitlines()]


def test_colab_is_driven_by_its_own_command_line(tmp_path, colab):
    (tmp_path / "remote").write_bytes(b"zip")
    said = []
    found = notebook.drive_colab("r", tmp_path / "r.ipynb", gpu="T4", timeout=3600, say=said.append)
    assert found == tmp_path / "r-results.zip"
    assert found.read_bytes() == b"zip"
    assert "[colab] Executing cell 1/1 - cell-1..." in said
    assert colab() == [
        ["new", "-s", "r", "--gpu", "T4"],
        ["exec", "-s", "r", "-f", str(tmp_path / "r.ipynb"), "--timeout", "3600"],
        ["download", "-s", "r", "/content/r-results.zip", str(tmp_path / "r-results.zip")],
        ["stop", "-s", "r"],
    ]


def test_no_machine_is_an_error_with_the_tools_words_and_nothing_is_stopped(tmp_path, colab):
    (tmp_path / "fail").write_text("new")
    with pytest.raises(RunError, match=r"^colab new ended with status 1: \[colab\] Allocation refused; new failed$"):
        notebook.drive_colab("r", tmp_path / "r.ipynb", gpu=None, timeout=3600)
    assert colab() == [["new", "-s", "r"]]


def test_results_are_fetched_though_the_notebook_failed_and_the_machine_is_given_back(tmp_path, colab):
    (tmp_path / "fail").write_text("exec")
    (tmp_path / "remote").write_bytes(b"zip")
    assert notebook.drive_colab("r", tmp_path / "r.ipynb", gpu=None, timeout=3600).read_bytes() == b"zip"
    (tmp_path / "remote").unlink()
    with pytest.raises(RunError, match=r"^colab exec ended with status 1"):
        notebook.drive_colab("r", tmp_path / "r.ipynb", gpu=None, timeout=3600)
    assert not (tmp_path / "r-results.zip").exists()  # that of the first time is not taken for this one's
    (tmp_path / "fail").unlink()
    with pytest.raises(RunError, match=r"^colab download .*File or directory not found"):
        notebook.drive_colab("r", tmp_path / "r.ipynb", gpu=None, timeout=3600)
    assert [call[0] for call in colab()] == ["new", "exec", "download", "stop"] * 3


def test_a_tool_that_hangs_is_ended_and_one_that_leaves_something_behind_is_not_waited_for():
    with pytest.raises(RunError, match=r"^bash -c took longer than 1 s: here$"):
        notebook.call(["bash", "-c", "echo here; exec sleep 60"], 1, print)
    began = time.monotonic()
    notebook.call(["bash", "-c", "sleep 20 & disown"], 60, print)  # holds the output open
    assert time.monotonic() - began < 15


def test_without_the_tool_the_steps_are_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    text = notebook.next_steps("r", Path("logs/r/r.ipynb"), gpu="T4", timeout=60)
    assert "Upload notebook" in text
    assert text.endswith("\nhpcbench fetch r --from r-results.zip")
    with pytest.raises(RunError, match="there is no colab on PATH"):
        notebook.drive_colab("r", tmp_path / "r.ipynb", gpu=None, timeout=60)


def test_with_the_tool_the_steps_are_its_commands(colab):
    assert notebook.next_steps("r", Path("a b.ipynb"), gpu="L4", timeout=60).splitlines() == [
        "colab new -s r --gpu L4",
        "colab exec -s r -f 'a b.ipynb' --timeout 60",
        "colab download -s r /content/r-results.zip r-results.zip",
        "colab stop -s r",
        "hpcbench fetch r --from r-results.zip",
    ]


def test_a_run_that_is_carried_by_hand_is_left_open_and_can_be_cancelled(tmp_path):
    toy.write(tmp_path)
    submit = ("submit", "--site", "colab", "--benchmark", "toy", "--name", "r", "--wait")
    done = toy.hpcbench(*submit, cwd=tmp_path, check=4, PATH="/usr/bin:/bin")
    assert "hpcbench fetch r --from r-results.zip" in done.stderr
    assert list(toy.states(tmp_path, "r").values()) == ["planned"]
    done = toy.hpcbench("cancel", "r", cwd=tmp_path, check=0)
    assert "what runs in the notebook goes on until it is stopped there: colab stop -s r" in done.stderr
    assert list(toy.states(tmp_path, "r").values()) == ["cancelled"]
    toy.hpcbench("resume", "r", "--failed", cwd=tmp_path, check=0)
    assert list(toy.states(tmp_path, "r").values()) == ["planned"]
