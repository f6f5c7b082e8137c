"""On a login node submitit runs the submission to Slurm; the script is the one that goes over ssh elsewhere."""

from __future__ import annotations

import contextlib
import io
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from hpcbench.errors import RejectedError

# Slurm tells a job the folder that sbatch was called in. The claim is that of common.sh, and this very process, which
# becomes sbatch, is its holder: an sbatch that lives on after hpcbench was killed is waited for, and one that has not
# begun when another looks for its job ends here.
_SUBMIT = """
unset "${!SBATCH_@}"  # which would go before the directives of the script
cd -- "$1" && read -r stat <"/proc/$$/stat" && read -r -a fields <<<"${stat##*) }" && (
  set -o noclobber
  printf '%s %s %s %s\\n' "$(uname -n)" "$$" "${fields[19]}" "$(date +%s)" >"$2"
) && shift 2 && exec "$@"
"""


class NotSubmittedError(RejectedError):
    """How sbatch ended, and its words; it may have made a job all the same."""

    def __init__(self, status: int, words: str) -> None:
        super().__init__(words)
        self.status = status


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
    """Submit a script from `folder` and return the job's number; raises `NotSubmittedError`.

    `claim` is the file that only the one who submits can make.
    """
    with tempfile.TemporaryDirectory(prefix="hpcbench-") as aside:  # Slurm keeps a copy of the script of its own
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
                return str(_Executor(aside, folder, script, options, claim)._submit_command("").job_id)
        except FailedSubmissionError:
            raise NotSubmittedError(0, "sbatch told no number of a job") from None
        except FailedJobError as error:
            cause = error.__cause__
            status = cause.returncode if isinstance(cause, subprocess.CalledProcessError) else 0
            raise NotSubmittedError(status if status >= 0 else 128 - status, " ".join(str(error).split())) from None
