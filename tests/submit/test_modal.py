import json
import pickle
import runpy
import stat
import sys
import types
import zipfile
from pathlib import Path

import pytest
import toy

import hpcbench
from hpcbench import benchmark, render, site
from hpcbench.errors import ConfigError, RunError
from hpcbench.plan import Sweep, plan
from hpcbench.submit.by_hand import modal

ACTS = ["ok", "exit 3", "it's \"quoted\"\n$(touch ../broken) `id` \\ '''"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a run's folder with its bundles."""
    toy.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    for bundle in bundles():
        for name, content in bundle.files.items():
            file = tmp_path / "logs" / "r" / bundle.case.name / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    return tmp_path / "logs" / "r"


def bundles(acts=ACTS):
    loaded = benchmark.load("toy")
    sweep = Sweep.make(loaded.parameters, {"act": acts})
    return render.render(plan(loaded, [site.load("local")], sweep), "r")


class Modal(types.ModuleType):
    """Stands for modal 1.6: takes what `modal.App.function` and its like take there, and nothing else.

    `remote` runs the function here, on copies of its arguments, since Modal sends them pickled to another machine.
    """

    def __init__(self):
        super().__init__("modal")
        self.calls = calls = []

        class Image:
            @staticmethod
            def debian_slim(python_version=None):
                return Image()

            def pip_install(self, *packages: str):
                calls.append(("pip_install", packages))
                return self

        class Volume:
            @staticmethod
            def from_name(name, *, create_if_missing=False):
                calls.append(("volume", name, create_if_missing))
                return Volume()

            def commit(self):
                calls.append(("commit",))

        class App:
            def __init__(self, name):
                assert len(name) <= 64
                calls.append(("app", name))

            def function(self, *, image=None, gpu=None, timeout=300, volumes=None):
                assert isinstance(image, Image)
                calls.append(("function", gpu, timeout, list(volumes)))

                def decorate(function):
                    function.remote = lambda *given: pickle.loads(
                        pickle.dumps(function(*pickle.loads(pickle.dumps(given))))
                    )
                    return function

                return decorate

            def local_entrypoint(self):
                return lambda function: function

        self.Image, self.Volume, self.App = Image, Volume, App


@pytest.fixture
def start(folder, tmp_path, monkeypatch):
    """Return what starts the app's file as `modal run` does, and returns what it asked of modal."""

    def start(data):
        file = folder / modal.APP_FILE
        file.write_bytes(data)
        stand_in = Modal()
        monkeypatch.setitem(sys.modules, "modal", stand_in)
        names = runpy.run_path(str(file))
        # a folder of ours for the one where the volume stands on Modal's machine
        names["main"].__globals__["RESULTS"] = str(tmp_path / "volume")
        names["main"]()
        return stand_in.calls

    return start


def test_the_app_runs_every_case_and_its_results_read_like_any_run(folder, tmp_path, start, capfd):
    calls = start(modal.app("r", "A toy", bundles(), gpu=None, timeout=60, setup="echo set up"))
    said = capfd.readouterr().out
    assert "set up\n[1/3] 001-actok\n" in said
    assert "FAILED after" in said
    assert "exit status 3" in said
    assert calls.count(("commit",)) == 3
    assert not list(tmp_path.rglob("broken"))

    with zipfile.ZipFile(folder / "r-results.zip") as archive:
        archive.extractall(tmp_path / "back" / "r")
    for bundle in bundles():
        for name, content in bundle.files.items():
            assert (tmp_path / "back" / "r" / bundle.case.name / name).read_bytes() == content
    for back in (tmp_path / "back" / "r", tmp_path / "volume" / "r"):
        metrics = hpcbench.parse(back)
        assert list(metrics.cases["act"]) == ACTS
        assert list(metrics.cases["state"]) == ["completed", "failed", "completed"]
        assert list(metrics.steps["loss"]) == [5.0, 4.0, 3.0] * 3


def test_a_second_start_goes_on_where_the_first_was_lost(folder, tmp_path, start, capfd):
    data = modal.app("r", "A toy", bundles(), gpu=None, timeout=60)
    start(data)
    kept = tmp_path / "volume" / "r"
    first, second, third = sorted(kept.iterdir())
    before = (first / "exit.json").read_bytes()
    (second / "exit.json").unlink()  # copied half when the machine was taken away
    other = (third / "case.json").read_bytes().replace(b'"threads": 1', b'"threads": 7')
    (third / "case.json").write_bytes(other)  # of another run that had this name
    capfd.readouterr()
    start(data)
    said = capfd.readouterr().out
    assert said.count("before; its results are in the volume") == 1
    assert (first / "exit.json").read_bytes() == before
    assert json.loads((second / "exit.json").read_text())["status"] == 3
    assert b'"threads": 1' in (third / "case.json").read_bytes()
    assert len(zipfile.ZipFile(folder / "r-results.zip").namelist()) > 3 * 6


def test_what_is_asked_of_modal_is_what_was_given(start):
    calls = start(modal.app("r", "A toy", bundles(), gpu="A100-80GB:4", timeout=3600, packages=["torch>=2", "numpy"]))
    assert calls[:4] == [
        ("volume", "hpcbench", True),
        ("pip_install", ("torch>=2", "numpy")),
        ("app", "hpcbench-r"),
        ("function", "A100-80GB:4", 3600, ["/results"]),
    ]


def test_hostile_values_are_values(folder, start, tmp_path, capfd):
    hostile = "'''\"\"\"\\\n{x}\r\n#'; open('broken', 'w') #"
    data = modal.app("r", hostile, bundles(), gpu=None, timeout=60, packages=[hostile], setup="# " + hostile[:8])
    calls = start(data)
    assert ("pip_install", (hostile,)) in calls
    assert hostile.replace("\r\n", "\n") in capfd.readouterr().out.replace("\r\n", "\n")
    assert not list(tmp_path.rglob("broken"))


def test_the_same_input_gives_the_same_bytes(folder):
    given = {"gpu": "H100", "timeout": 60}
    assert modal.app("r", "A toy", bundles(), **given) == modal.app("r", "A toy", bundles(), **given)


@pytest.mark.parametrize("gpu", ["G4", "h100", "A100:0", "A100:", "A100:x", "", "A100-80GB:4:2"])
def test_a_gpu_that_modal_does_not_have_is_refused(folder, gpu):
    with pytest.raises(ConfigError, match=r"^gpu: "):
        modal.app("r", "A toy", bundles(), gpu=gpu, timeout=60)


def test_a_time_limit_of_nothing_is_refused(folder):
    with pytest.raises(ConfigError, match=r"^timeout: 0 "):
        modal.app("r", "A toy", bundles(), gpu=None, timeout=0)


TOOL = '''#!{python}
"""Stands for modal 1.6's command line: `modal run FILE` as its help lists it, that without a token it says so and ends
with 1, and that what the local entry point writes is there when it ends.
"""
import argparse, os, pathlib, sys
parser = argparse.ArgumentParser(allow_abbrev=False)
run = parser.add_subparsers(dest="command", required=True).add_parser("run", allow_abbrev=False)
for flags in (["-q", "--quiet"], ["-d", "--detach"]):
    run.add_argument(*flags, action="store_true")
run.add_argument("file")
given = parser.parse_args()
if "MODAL_TOKEN_ID" not in os.environ:
    sys.exit("Error: Token missing. Could not authenticate client.")
assert os.environ["MODAL_TOKEN_SECRET"] == "secret" and "secret" not in sys.argv
print("[1/1] 001")
if given.file.endswith("modal_app.py"):
    pathlib.Path(given.file).with_name("r-results.zip").write_bytes(b"zip")
'''


@pytest.fixture
def tool(tmp_path, monkeypatch):
    file = tmp_path / "bin" / "modal"
    file.parent.mkdir()
    file.write_text(TOOL.format(python=sys.executable))
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(file.parent), prepend=":")
    monkeypatch.delenv("MODAL_TOKEN_ID", raising=False)
    (tmp_path / "modal_app.py").touch()


def test_modal_is_driven_by_its_own_command_line(tmp_path, tool, monkeypatch):
    monkeypatch.setenv("MODAL_TOKEN_ID", "id")
    monkeypatch.setenv("MODAL_TOKEN_SECRET", "secret")
    said = []
    found = modal.drive_modal("r", tmp_path / "modal_app.py", timeout=60, say=said.append)
    assert found == tmp_path / "r-results.zip"
    assert found.read_bytes() == b"zip"
    assert said == ["[1/1] 001"]
    with pytest.raises(RunError, match=r"^modal run ended well and left no "):
        modal.drive_modal("r", tmp_path / "other.py", timeout=60)


def test_its_errors_are_told_in_its_words_with_where_the_results_are(tmp_path, tool):
    with pytest.raises(
        RunError, match=r"^modal run ended with status 1: Error: Token missing\. .*modal volume get hpcbench r FOLDER$"
    ):
        modal.drive_modal("r", tmp_path / "modal_app.py", timeout=60)


def test_the_steps_are_said(tmp_path, tool, monkeypatch):
    steps = modal.next_steps("r", Path("logs/a b/modal_app.py")).splitlines()
    assert steps[0] == "modal run 'logs/a b/modal_app.py'"
    assert steps[-1] == "hpcbench fetch r --from 'logs/a b/r-results.zip'"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert modal.next_steps("r", Path("modal_app.py")).startswith("pip install modal")
    with pytest.raises(RunError, match="there is no modal on PATH"):
        modal.drive_modal("r", tmp_path / "modal_app.py", timeout=60)
