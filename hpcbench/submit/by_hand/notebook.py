"""A run as one notebook: for Google Colab, and for any Jupyter that has bash."""

from __future__ import annotations

import base64
import inspect
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcbench.errors import ConfigError, RunError, nearest
from hpcbench.render import Bundle

# Colab gives an A100 to whoever asks for a name it does not know, so a name is checked before it is asked for
GPUS = ("T4", "L4", "G4", "H100", "A100")
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


def notebook(run: str, title: str, bundles: Sequence[Bundle], *, gpu: str | None, setup: str = "") -> bytes:
    """Render a run as a notebook in format 4.5; the same input gives the same bytes.

    Its cells write the bundles, run `setup` (bash) and the cases one after another, and offer
    ``<run>-results.zip``, which holds ``<case>/...``. Raises `ConfigError` for a GPU that Colab does not have.
    """
    if gpu is not None and gpu not in GPUS:
        raise ConfigError(f"gpu: Colab has no {gpu!r}{nearest(gpu, GPUS)}")
    shared = split(bundles)
    files = {**shared.same, **shared.first}
    # what a person came for is first, what every run has is last
    names = sorted(files, key=lambda name: (name in ("job.sh", "case.json"), name == "measure.py", name))
    cells = [
        _markdown(_head(title, len(bundles), gpu)),
        _code(_parameters(run, bundles)),
        _markdown(_FILES_HEAD),
        _code(_source([save], end='FILES = f"{RUN}-files"\nPath(FILES).mkdir(exist_ok=True)')),
        *(_code(_file_cell(f"{run}-files", name, files[name])) for name in names),
    ]
    if setup.strip():
        script = _file_cell(".", f"{run}-setup.sh", (setup.rstrip() + "\n").encode())
        call_it = 'set_up(f"{RUN}-setup.sh")'
        cells += [_markdown(_SETUP_HEAD), _code(script), _code(_source([set_up], end=call_it))]
    cells += [
        _markdown(_CASES_HEAD),
        _code(_changes(bundles, names, shared)),
        _code(_source([last_lines, is_running, how_it_ended, run_case], end=_RUN)),
        _markdown("## The results"),
        _code(_source([pack], end=_PACK)),
        _code(_DOWNLOAD),
    ]
    for number, cell in enumerate(cells, start=1):
        cell["id"] = f"cell-{number}"
    colab: dict[str, Any] = {"provenance": []}
    metadata: dict[str, Any] = {
        "colab": colab,
        "kernelspec": {"display_name": "Python 3", "name": "python3"},
        "language_info": {"name": "python"},
    }
    if gpu is not None:
        metadata["accelerator"] = "GPU"
        colab["gpuType"] = gpu
    whole = {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return (json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def next_steps(run: str, file: Path, *, gpu: str | None, timeout: int) -> str:
    """Say what a person does with the notebook; `timeout` is in seconds."""
    if shutil.which("colab"):
        commands = _colab(run, file, Path(f"{run}-results.zip"), gpu=gpu, timeout=timeout)
        return "\n".join([*map(shlex.join, commands), f"hpcbench fetch {run} --from {run}-results.zip"])
    machine = f"Its runtime has a GPU, {gpu}." if gpu else "It needs no GPU."
    return "\n".join([
        f"Open https://colab.research.google.com, File > Upload notebook, and choose {file}",
        f"{machine} Runtime > Run all; at the end the browser saves {run}-results.zip",
        f"hpcbench fetch {run} --from {run}-results.zip",
    ])  # fmt: skip


def drive_colab(
    run: str, file: Path, *, gpu: str | None, timeout: int, say: Callable[[str], object] = lambda _line: None
) -> Path:
    """Run the notebook through Colab's own command line and return the zip of its results, which is beside it.

    `timeout` limits each cell, in seconds; the cell that runs the cases is one. `say` gets each line that the
    tool prints. The machine is given back, whatever happens. Raises `RunError` with the tool's own last words.
    """
    need("colab", "pip install google-colab-cli, with Python 3.12 or newer")
    results = file.with_name(f"{run}-results.zip")
    new, execute, download, stop = _colab(run, file, results, gpu=gpu, timeout=timeout)
    results.unlink(missing_ok=True)  # of an earlier attempt: it would be taken for what came back
    call(new, 600, say)
    try:
        failure: RunError | None = None
        try:
            call(execute, timeout + 600, say)  # it keeps the limit itself, and saves the notebook after it
        except RunError as error:
            failure = error  # the results may be there all the same
        try:
            call(download, 600, say)
        except RunError as error:
            raise failure or error from None
        if not results.is_file():
            raise failure or RunError(f"colab download ended well and left no {results}")
    finally:
        call(stop, 120, say)
    return results


@dataclass(frozen=True)
class Shared:
    """The files of several bundles, each stored once.

    `same` are those that no case has otherwise; `first` the first case's own. `changes` has for each case what stands
    instead in its files: the lines that differ by their number, from 1, or a whole file.
    """

    same: Mapping[str, bytes]
    first: Mapping[str, bytes]
    changes: Sequence[Mapping[str, Mapping[int, str] | bytes]]


def split(bundles: Sequence[Bundle]) -> Shared:
    """Find what bundles share. Files that only some cases have stand whole in `changes`."""
    everywhere = [name for name in bundles[0].files if all(name in bundle.files for bundle in bundles)]
    base = {name: bundles[0].files[name] for name in everywhere}
    same = {name: data for name, data in base.items() if all(bundle.files[name] == data for bundle in bundles)}
    changes: list[dict[str, Mapping[int, str] | bytes]] = []
    for bundle in bundles:
        own: dict[str, Mapping[int, str] | bytes] = {}
        for name, data in bundle.files.items():
            if data != base.get(name):
                own[name] = _line_changes(base[name], data) if name in base else data
        changes.append(own)
    return Shared(same, {name: data for name, data in base.items() if name not in same}, changes)


def call(command: Sequence[str], seconds: float, say: Callable[[str], object]) -> None:
    """Run a vendor's command line tool to its end; raises `RunError` with its last words."""
    # a file, not a pipe: what such a tool leaves running in the background would keep a pipe open
    with tempfile.NamedTemporaryFile() as output, Path(output.name).open(errors="replace") as heard:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        words: list[str] = []
        deadline = time.monotonic() + seconds
        try:
            while True:
                over = process.poll() is not None  # asked before reading, so that the last words are read
                for line in heard:
                    words = [*words[-2:], text] if (text := _plain_text(line)) else words
                    say(text)
                if over:
                    break
                if time.monotonic() > deadline:
                    raise RunError(f"{' '.join(command[:2])} took longer than {seconds:.0f} s{_said(words)}")
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if process.returncode:
        raise RunError(f"{' '.join(command[:2])} ended with status {process.returncode}{_said(words)}")


def need(tool: str, install: str) -> None:
    """Raise `RunError` where a vendor's command line tool is not installed."""
    if not shutil.which(tool):
        raise RunError(f"there is no {tool} on PATH: {install}")


def _said(words: Sequence[str]) -> str:
    return f": {'; '.join(words)}" if words else " and said nothing"


def _plain_text(line: str) -> str:
    line = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line)
    return "".join(letter if letter.isprintable() else " " for letter in line).strip()


def _colab(run: str, file: Path, results: Path, *, gpu: str | None, timeout: int) -> list[list[str]]:
    """Return the commands: a machine, the notebook on it, its results, the machine given back."""
    return [
        ["colab", "new", "-s", run, *(["--gpu", gpu] if gpu else [])],
        ["colab", "exec", "-s", run, "-f", str(file), "--timeout", str(timeout)],  # without a limit: 30 seconds
        ["colab", "download", "-s", run, f"/content/{run}-results.zip", str(results)],
        ["colab", "stop", "-s", run],
    ]


def _line_changes(base: bytes, data: bytes) -> Mapping[int, str] | bytes:
    try:
        before, after = base.decode().split("\n"), data.decode().split("\n")
    except UnicodeDecodeError:
        return data
    if len(before) != len(after):
        return data
    pairs = zip(before, after, strict=True)
    return {number: line for number, (old, line) in enumerate(pairs, start=1) if old != line}


def _markdown(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source.strip().splitlines(keepends=True)}


def _code(source: str) -> dict[str, Any]:
    lines = re.findall(r"[^\n]*\n|[^\n]+", source.removesuffix("\n"))
    return {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": lines}


def _file_cell(folder: str, name: str, data: bytes) -> str:
    """Return a cell that writes a file, with exactly its bytes."""
    target = f"{folder}/{name}"
    try:
        text = data.decode()
    except UnicodeDecodeError:
        packed = _strings(base64.encodebytes(data).decode())
        return f"# {name!r} is not text\nimport base64\n\nsave({target!r}, base64.b64decode(\n{packed}))"
    if _PLAIN_NAME.fullmatch(name) and _editor_keeps(text):
        return f"%%writefile {target}\n{text}"
    why = f"# {name!r}, line by line as Python strings: written plainly, a notebook would not keep all of it"
    return f"{why}\nsave({target!r}, (\n{_strings(text)}).encode())"


def _editor_keeps(text: str) -> bool:
    """Tell whether a cell holds exactly this text below its first line.

    A cell loses what is blank at its end, but for one line end, and may lose the spaces of a line of spaces; editors
    replace other line ends and letters that show nothing; IPython takes ``>>>`` and ``In [1]:`` for a copied prompt
    and removes them.
    """
    lines = text.split("\n")
    return (
        text == text.rstrip() + "\n"
        and text != "\n"
        and all(line.replace("\t", "").isprintable() for line in lines)
        and not any(line.isspace() or re.match(r"\s*>>>", line) for line in lines)
        and not re.match(r"\s*(\.\.\.|In ?\[)", lines[0])
    )


def _strings(text: str) -> str:
    return "".join(f"    {line!r}\n" for line in _lines(text)) or "    ''\n"


def _lines(text: str) -> list[str]:
    """Split at line feeds only, and keep them."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def _head(title: str, cases: int, gpu: str | None) -> str:
    from hpcbench.report.markdown import escape

    machine = f", on a GPU of the kind {gpu}, which it asks Colab for" if gpu else ""
    return f"# {escape(title)}\n\n{_HEAD.format(cases='one case' if cases == 1 else f'{cases} cases', machine=machine)}"


def _parameters(run: str, bundles: Sequence[Bundle]) -> str:
    every = [dict(bundle.case.parameters) for bundle in bundles]
    # by their text: 1, 1.0 and True are equal, and not the same
    same = {name: value for name, value in every[0].items() if len({repr(each.get(name)) for each in every}) == 1}
    own = {
        bundle.case.name: {name: value for name, value in each.items() if name not in same}
        for bundle, each in zip(bundles, every, strict=True)
    }
    return (
        f"RUN = {run!r}\n\n"
        f"# the parameters of each case; they tell what its job does, and do not change it\nCASES = {literal(own)}\n\n"
        f"# what all cases have in common\nSAME = {literal(same)}\n\n"
        "# which to run: all, or a list of names from above\nCHOSEN = list(CASES)"
    )


def _changes(bundles: Sequence[Bundle], names: Sequence[str], shared: Shared) -> str:
    changes = {bundle.case.name: own for bundle, own in zip(bundles, shared.changes, strict=True)}
    return (
        "# the files above that every case gets\n"
        f"NAMES = {list(names)!r}\n\n"
        "# what is different in a case: lines of these files by their number, or whole files\n"
        f"CHANGES = {literal(changes)}\n\n\n" + _source([write_case], imports=False)
    )


def literal(value: object, indent: str = "") -> str:
    """Write a value as a Python literal, a line for each entry of what does not fit one."""
    if not value or not isinstance(value, Mapping) or (indent and len(indent) + len(repr(dict(value))) < 110):
        return repr(dict(value) if isinstance(value, Mapping) else value)
    deeper = indent + "    "
    entries = "".join(f"{deeper}{key!r}: {literal(each, deeper)},\n" for key, each in value.items())
    return f"{{\n{entries}{indent}}}"


def _source(functions: Sequence[Callable[..., object]], end: str = "", *, imports: bool = True) -> str:
    """Return the source of functions of this module, below what they import."""
    parts = [inspect.getsource(function).strip() for function in functions]
    text = "\n\n\n".join([*parts, *([end] if end else [])])
    modules = [name for name in ("json", "shutil", "subprocess", "time", "zipfile") if f"{name}." in text]
    head = "".join(f"import {name}\n" for name in modules) + "from pathlib import Path\n"
    return f"{head}\n\n{text}" if imports else text


_HEAD = """\
This notebook runs a benchmark, {cases} one after another{machine}, and packs what they logged into one zip.

- **To run it**: *Runtime > Run all* in Colab, *Run > Run All Cells* in Jupyter. The browser saves the zip at the end.
- **Interrupted?** Run all again: what is done is not repeated. To repeat it after an edit, delete the run's folder.
- **For others**: on GitHub it opens in Colab through a badge in a README:
  `[![Open In Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/REPO/blob/BRANCH/FILE.ipynb)`
"""

_FILES_HEAD = """\
## The program

Each of the next cells writes one file. Edit the program as you like. `job.sh` and `case.json` are those of the first
case; further down, the others replace some of their lines by number, so leave no line out and add none there.
"""

_SETUP_HEAD = """\
## The setup

What has to be on the machine before a case can run.
"""

_CASES_HEAD = """\
## The cases

Each gets a folder with the files from above and runs there once. A case that fails does not keep the next from running.
"""

_RUN = """\
for number, case in enumerate(CHOSEN, start=1):
    folder = Path(RUN, case)
    print(f"[{number}/{len(CHOSEN)}] {case} {CASES[case]}", flush=True)
    if not how_it_ended(folder) and not is_running(folder):
        write_case(folder, Path(FILES), NAMES, CHANGES[case])
    print("    " + run_case(folder), flush=True)"""

_PACK = """\
RESULTS = Path(f"{RUN}-results.zip")
pack(Path(RUN), list(CASES), RESULTS)
print(f"{RESULTS}: {RESULTS.stat().st_size / 1e6:.2f} MB")"""

_DOWNLOAD = """\
try:
    from google.colab import files
except ImportError:  # not in Colab
    print(f"The results are in {RESULTS.resolve()}")
else:
    files.download(str(RESULTS))"""


# ---- What stands in the notebook itself, and in the file for Modal: plain Python, run where the cases run. ----


def save(name: str, content: bytes) -> None:
    """Write a file, and the folder it stands in."""
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content)


def write_case(folder: Path, files: Path, names: list[str], changes: dict[str, dict[int, str] | bytes]) -> None:
    """Write the files of a case: those that every case gets, with what is different in this one."""
    for name in {*names, *changes}:
        content = changes.get(name, {})
        if isinstance(content, dict):
            lines = (files / name).read_bytes().split(b"\n")
            for number, line in content.items():
                lines[number - 1] = line.encode()
            content = b"\n".join(lines)
        save(str(folder / name), content)


def last_lines(file: Path, count: int) -> str:
    """Return the last lines of a log that may not be there yet."""
    if not file.exists():
        return ""
    with file.open("rb") as log:
        log.seek(max(0, file.stat().st_size - 4000))
        return "\n".join(log.read().decode(errors="replace").splitlines()[-count:])


def is_running(folder: Path) -> bool:
    """Tell whether a job that was started before is still at work in this folder."""
    try:
        job = json.loads((folder / "started.json").read_text())["pid"]
        return Path(f"/proc/{job}/cwd").resolve() == folder.resolve()
    except (OSError, ValueError):
        return False


def how_it_ended(folder: Path) -> str:
    """Read what job.sh left; nothing where the case has not run to its own end."""
    if not (folder / "exit.json").exists():
        return ""
    end = json.loads((folder / "exit.json").read_text())
    if end["reason"] == "terminated":  # somebody interrupted it
        return ""
    took = f"after {end['ended'] - end['started']:.1f} s"
    if end["status"] == 0:
        return f"completed {took}"
    killed = f"killed by {end['signal']}" if end["signal"] else f"exit status {end['status']}"
    return f"FAILED {took}: {end['reason'] or killed}"


def run_case(folder: Path) -> str:
    """Run the case in a folder, unless it has run already, and say how it ended."""
    if is_running(folder):
        print("    its job is at work since before; waiting for it", flush=True)
        while is_running(folder):
            time.sleep(1)
    if how_it_ended(folder):
        return how_it_ended(folder) + ", before"
    # job.sh runs a case only once: what an interrupted attempt left would keep it from starting
    for name in ("started.json", "exit.json", "stdout.log", "stderr.log", "perf.txt"):
        (folder / name).unlink(missing_ok=True)
    began = time.monotonic()
    job = subprocess.Popen(["bash", "job.sh"], cwd=folder, start_new_session=True)
    try:
        while job.poll() is None:
            try:
                job.wait(timeout=30)
            except subprocess.TimeoutExpired:
                print(f"    {time.monotonic() - began:.0f} s  {last_lines(folder / 'stdout.log', 1)[:100]}", flush=True)
    except BaseException:  # the cell is interrupted: the job is ended, and the case starts afresh next time
        job.terminate()
        job.wait()
        raise
    ended = how_it_ended(folder) or "LOST: its job was killed"
    if not ended.startswith("completed"):
        ended += "; the end of its stderr.log:\n" + last_lines(folder / "stderr.log", 10)
    return ended


def set_up(script: str) -> None:
    """Run a bash script and show what it says."""
    with subprocess.Popen(
        ["bash", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as bash:
        for line in bash.stdout or ():
            print(line, end="", flush=True)
    if bash.returncode != 0:
        raise RuntimeError(f"the setup ended with status {bash.returncode}")


def pack(folder: Path, cases: list[str], target: Path) -> None:
    """Put the files of each case into one zip: no links, always in the same order."""
    half = target.with_name(target.name + ".part")
    with zipfile.ZipFile(half, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
        for case in cases:
            for file in sorted((folder / case).rglob("*")):
                if file.is_file() and not file.is_symlink():
                    entry = zipfile.ZipInfo(file.relative_to(folder).as_posix())
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    entry.file_size = file.stat().st_size
                    with file.open("rb") as source, archive.open(entry, "w") as packed:
                        shutil.copyfileobj(source, packed)
    half.replace(target)
