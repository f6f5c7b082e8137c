"""On a login node submitit runs the submission to Slurm; the script is the one that goes over ssh elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError

from hpcbench.errors import RejectedError


class _Executor(submitit.SlurmExecutor):
    """submitit's Slurm executor, with a script that is already written."""

    def __init__(self, aside: str, folder: Path, script: str, options: Sequence[str]) -> None:
        super().__init__(folder=aside)
        self._from, self._script, self._options = folder, script, options

    def _make_submission_file_text(self, command: str, uid: str) -> str:  # noqa: ARG002
        return self._script

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        # Slurm tells a job the folder that sbatch was called in
        enter = 'cd -- "$1" && shift && exec "$@"'
        return ["bash", "-c", enter, "bash", str(self._from), "sbatch", *self._options, str(submission_file_path)]


def send(folder: Path, script: str, options: Sequence[str]) -> str:
    """Submit a script from `folder` and return the job's number; raises `RejectedError` with Slurm's own words."""
    with tempfile.TemporaryDirectory(prefix="hpcbench-") as aside:  # Slurm keeps a copy of the script of its own
        try:
            return str(_Executor(aside, folder, script, options)._submit_command("").job_id)
        except FailedJobError as error:
            raise RejectedError(" ".join(str(error).split())) from None
