"""A run as one file for Modal, which rents the machine while it runs."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from hpcbench.errors import ConfigError, RunError, nearest
from hpcbench.render import Bundle
from hpcbench.submit.by_hand import notebook

APP_FILE = "modal_app.py"
VOLUME = "hpcbench"
GPUS = (
    "T4", "L4", "A10", "L40S", "A100", "A100-40GB", "A100-80GB", "RTX-PRO-6000", "H100", "H200", "B200",
)  # fmt: skip


def app(
    run: str,
    title: str,
    bundles: Sequence[Bundle],
    *,
    gpu: str | None,
    timeout: int,
    packages: Sequence[str] = (),
    setup: str = "",
) -> bytes:
    """Render a run as a Modal app, for ``modal run`` of modal 1.6; the same input gives the same bytes.

    The file is to stand in the run's folder: its local half reads the bundles from the case folders beside it and
    passes them as an argument. That is the simplest that holds: a file with the bundles inside would say
    everything twice, and a folder added to the image would be looked for on Modal's machine too, which imports the
    same file. Results come back as ``<run>-results.zip`` beside the file, with ``<case>/...``, and stay in the volume
    `VOLUME`, from where a second start goes on.

    `gpu` is a kind, with how many after a colon: ``A100-80GB:4``. `timeout` limits the whole run, in seconds.
    `packages` are installed into the image, `setup` is bash that runs before the first case. Raises `ConfigError`.
    """
    kind, colon, count = (gpu or "").partition(":")
    if gpu is not None and kind not in GPUS:
        raise ConfigError(f"gpu: Modal has no {kind!r}{nearest(kind, GPUS)}")
    if colon and not re.fullmatch(r"[1-9][0-9]?", count):
        raise ConfigError(f"gpu: {gpu!r}: how many is a number, as in {kind}:4")
    if timeout < 1:
        raise ConfigError(f"timeout: {timeout} is no number of seconds to run in")
    shared = notebook.split(bundles)
    own = {bundle.case.name: [name for name in bundle.files if name not in shared.same] for bundle in bundles}
    values = {
        "RUN": run,
        "TITLE": title,
        "GPU": gpu,
        "TIMEOUT": timeout,
        "PACKAGES": list(packages),
        "SETUP": setup,
        "SAME": list(shared.same),
        "CASES": own,
    }
    functions: list[Callable[..., object]] = [notebook.last_lines, notebook.is_running, notebook.how_it_ended]
    functions += [notebook.run_case, notebook.set_up, notebook.save, notebook.pack]
    parts = [
        _HEAD,
        "\n".join(f"{_COMMENTS[name]}{name} = {notebook.literal(value)}" for name, value in values.items()),
        _APP.format(app=f"hpcbench-{run}"[:64], volume=VOLUME),
        *(inspect.getsource(function).strip() + "\n\n" for function in functions),
        _RUN,
    ]
    return "\n".join(parts).encode()


def next_steps(run: str, file: Path) -> str:
    """Say what a person does with the app's file."""
    steps = [
        shlex.join(["modal", "run", str(file)]),
        f"# where that was lost, the same again goes on; or look with modal volume get {VOLUME} {run} FOLDER",
        f"hpcbench fetch {run} --from {shlex.quote(str(file.with_name(f'{run}-results.zip')))}",
    ]
    if not shutil.which("modal"):
        steps.insert(0, "pip install modal && modal setup      # once: an account, and this machine made known to it")
    return "\n".join(steps)


def drive_modal(run: str, file: Path, *, timeout: int, say: Callable[[str], object] = lambda _line: None) -> Path:
    """Run the app through Modal's own command line and return the zip of its results, which is beside it.

    `timeout` is the app's, in seconds; an hour more is allowed for building the image and waiting for a machine. `say`
    gets each line that the tool prints. Who pays is known to the tool from its own settings or from
    ``MODAL_TOKEN_ID`` and ``MODAL_TOKEN_SECRET``. Raises `RunError` with the tool's own last words.
    """
    notebook.need("modal", "pip install modal, then modal setup")
    results = file.with_name(f"{run}-results.zip")
    results.unlink(missing_ok=True)  # of an earlier attempt: it would be taken for what came back
    try:
        notebook.call(["modal", "run", str(file)], timeout + 3600, say)
    except RunError as error:
        raise RunError(f"{error}; what is done stands in the volume: modal volume get {VOLUME} {run} FOLDER") from None
    if not results.is_file():
        raise RunError(f"modal run ended well and left no {results}")
    return results


_HEAD = '''\
"""A run of a benchmark on Modal: `modal run modal_app.py` runs its cases one after another on one machine there.

The folders of the cases stand beside this file. Results come back as a zip beside it.
"""

import json
import shutil
import subprocess
import tempfile
import time
import zipfile
from pathlib import Path

import modal
'''

_COMMENTS = {
    "RUN": "",
    "TITLE": "",
    "GPU": "# a kind, or several as in A100:2; None is no GPU\n",
    "TIMEOUT": "# of the whole run, in seconds\n",
    "PACKAGES": "# what pip installs for the programs\n",
    "SETUP": "# bash, before the first case\n",
    "SAME": "# files that are the same in all cases\n",
    "CASES": "# each case, and the files of its own\n",
}

_APP = """\

RESULTS = "/results"  # where the volume stands on Modal's machine
volume = modal.Volume.from_name({volume!r}, create_if_missing=True)
image = modal.Image.debian_slim().pip_install(*PACKAGES)
app = modal.App({app!r})

"""

_RUN = '''\
@app.function(image=image, gpu=GPU, timeout=TIMEOUT, volumes={RESULTS: volume})
def run_all(same: dict[str, bytes], own: dict[str, dict[str, bytes]]) -> bytes:
    """Run all cases here and return the zip of their results. What an earlier start has done is taken from the volume.

    They run one after another, so that none disturbs another, and on the machine's own disk.
    """
    place = Path(tempfile.mkdtemp())
    if SETUP:
        save(str(place / "setup.sh"), SETUP.encode())
        set_up(str(place / "setup.sh"))
    for number, (case, files) in enumerate(own.items(), start=1):
        print(f"[{number}/{len(own)}] {case}", flush=True)
        folder, kept = place / case, Path(RESULTS, RUN, case)
        bundle = {**same, **files}
        if is_kept(kept, bundle):
            print("    " + how_it_ended(kept) + ", before; its results are in the volume", flush=True)
            shutil.copytree(kept, folder)
            continue
        for name, content in bundle.items():
            save(str(folder / name), content)
        print("    " + run_case(folder), flush=True)
        keep(folder, kept)
        volume.commit()
    pack(place, list(own), place / "results.zip")
    return (place / "results.zip").read_bytes()


def is_kept(kept: Path, bundle: dict[str, bytes]) -> bool:
    """Tell whether the volume has the results of exactly this case, and not of another run that had its name."""
    return how_it_ended(kept) != "" and all(
        (kept / name).is_file() and (kept / name).read_bytes() == content for name, content in bundle.items()
    )


def keep(folder: Path, kept: Path) -> None:
    """Copy a case's files to the volume; its exit.json, which says that all is there, comes last."""
    shutil.rmtree(kept, ignore_errors=True)
    files = [file for file in folder.rglob("*") if file.is_file() and not file.is_symlink()]
    for file in sorted(files, key=lambda file: file == folder / "exit.json"):
        save(str(kept / file.relative_to(folder)), file.read_bytes())


@app.local_entrypoint()
def main() -> None:
    """Send the cases to Modal and write what comes back."""
    here = Path(__file__).resolve().parent
    print(TITLE)
    first = next(iter(CASES))
    same = {name: (here / first / name).read_bytes() for name in SAME}
    own = {case: {name: (here / case / name).read_bytes() for name in names} for case, names in CASES.items()}
    packed = run_all.remote(same, own)
    results = here / f"{RUN}-results.zip"
    results.write_bytes(packed)
    print(f"The results are in {results}")
'''
