"""Sites that a person, or the vendor's tool, carries a run to and its results back from: Colab and Modal."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hpcbench.render import Bundle
from hpcbench.run import Run
from hpcbench.site import Site
from hpcbench.submit.by_hand import modal, notebook

NOTEBOOK_FILE = "notebook.ipynb"
_HOUR = 3600
_LONGEST = 24 * _HOUR  # what Modal lets a function run


def files(run: str, title: str, bundles: Sequence[Bundle], site: Site) -> Mapping[str, bytes]:
    """Return the files, by name in the run's folder, that carry the cases of a run to such a site."""
    gpu = site.job.gpu_type
    if site.scheduler == "notebook":
        # setup runs in every job script; what it would install is installed once, ahead
        setup = shlex.join(["pip", "install", "--quiet", *site.packages]) if site.packages else ""
        return {NOTEBOOK_FILE: notebook.notebook(run, title, bundles, gpu=gpu, setup=setup)}
    timeout = min(_LONGEST, (site.job.seconds or _HOUR) * len(bundles))
    kind = f"{gpu}:{site.job.gpus}" if gpu and (site.job.gpus or 1) > 1 else gpu
    return {modal.APP_FILE: modal.app(run, title, bundles, gpu=kind, timeout=timeout, packages=site.packages)}


def next_steps(run: Run, site: str) -> str:
    """Say what a person does next."""
    place = run.places[site]
    if place["scheduler"] == "notebook":
        file = run.folder / NOTEBOOK_FILE
        return notebook.next_steps(run.name, file, gpu=place.get("gpu_type"), timeout=_timeout(run, site))
    return modal.next_steps(run.name, run.folder / modal.APP_FILE)


def how_to_stop(run: Run, site: str) -> str:
    """Say how what was started there is ended."""
    if run.places[site]["scheduler"] == "notebook":
        return f"what runs in the notebook goes on until it is stopped there: colab stop -s {run.name}"
    return "what runs on Modal goes on until it is stopped there: modal app list, modal app stop"


def drive(run: Run, site: str, say: Callable[[str], object]) -> Path | None:
    """Run the cases through the vendor's tool and return the zip of results; None where the tool is not installed."""
    place = run.places[site]
    if place["scheduler"] == "notebook":
        if shutil.which("colab") is None:
            return None
        file = run.folder / NOTEBOOK_FILE
        return notebook.drive_colab(
            run.name, file, gpu=place.get("gpu_type"), timeout=_timeout(run, site), say=say
        )  # fmt: skip
    if shutil.which("modal") is None:
        return None
    return modal.drive_modal(run.name, run.folder / modal.APP_FILE, timeout=_timeout(run, site), say=say)


def _timeout(run: Run, site: str) -> int:
    """Return the seconds that all cases together may take."""
    cases = sum(run.case(case).get("site") == site for case in run.cases)
    each: int = run.places[site].get("seconds") or _HOUR
    longest = each * cases
    return longest if longest < _LONGEST else _LONGEST
