"""On a login node submitit runs the submission to Slurm; the script is the one that goes over ssh elsewhere."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError

from hpcbench.errors import RejectedError

# Slurm tells a job the folder that sbatch was called in. The claim is that of common.sh, and this very process, which
# becomes sbatch, is its holder: an sbatch that lives on after hpcbench was killed is waited for, and one that has not
# begun when another looks for its job ends here.
_SUBMIT = """
cd -- "$1" && read -r stat <"/proc/$$/stat" && read -r -a fields <<<"${stat##*) }" && (
  set -o noclobber
  printf '%s %s %s %s\\n' "$(uname -n)" "$$" "${fields[19]}" "$(date +%s)" >"$2"
) && shift 2 && exec "$@"
"""


class _Executor(submitit.SlurmExecutor):
    """submitit's Slurm executor, with a script that is already written."""

    def __init__(self, aside: str, folder: Path, script: str, options: Sequence[str], claim: Path) -> None:
        super().__init__(folder=aside)
        self._from, self._script, self._options, self._claim = folder, script, options, claim

    def _make_submission_file_text(self, command: str, uid: str) -> str:  # noqa: ARG002
        return self._script

    def _make_submission_command(self, submission_file_path: Path) -> list[str]:
        before = ["bash", "-c", _SUBMIT, "bash", str(self._from), str(self._claim)]
        return [*before, "sbatch", *self._options, str(submission_file_path)]


def send(folder: Path, script: str, options: Sequence[str], claim: Path) -> str:
    """Submit a script from `folder` and return the job's number; raises `RejectedError` with Slurm's own words.

    `claim` is the file that only the one who submits can make.
    """
    with tempfile.TemporaryDirectory(prefix="hpcbench-") as aside:  # Slurm keeps a copy of the script of its own
        try:
            return str(_Executor(aside, folder, script, options, claim)._submit_command("").job_id)
        except FailedJobError as error:
            raise RejectedError(" ".join(str(error).split())) from None
