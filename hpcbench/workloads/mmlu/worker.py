"""One process of a run: loads the model and the questions, and scores those that it is given.

It is told by lines of JSON on its standard input, and tells by lines of JSON on its standard output.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from . import questions
from .questions import LETTERS, DataError, Subject

if TYPE_CHECKING:
    from .model import Encoded, Model
    from .scoring import Scorer

PROTOCOL = "log-likelihood"
_LONGER = 1.25  # times as long as the prompts with which a model was tried: those are tried, too


@dataclass(frozen=True)
class Settings:
    """What a process is told at its start.

    `place` is which GPU it takes, where there are several. `ahead` is whether it answers all subjects and does not wait
    to be asked for parts. `done` are questions that need no answer: subject, number, prompt.
    """

    process: int
    place: int
    model: str
    data: str
    subjects: tuple[str, ...]
    ahead: bool
    shots: int
    batch: int
    dtype: str
    device: str
    limit: int
    style: str
    seed: int
    reuse: bool
    threads: int
    done: tuple[tuple[str, int, str], ...]


def main() -> None:
    """Answer all subjects, or what standard input asks for, line by line: a subject, and which part of how many."""
    tell = _Teller()
    settings = Settings(**json.loads(sys.stdin.readline()))
    try:
        with tell.phase("data"):  # before anything that takes long
            subjects = questions.read(
                settings.data, ",".join(settings.subjects), shots=settings.shots, limit=settings.limit,
                seed=settings.seed,
            )  # fmt: skip
        _work(tell, settings, {subject.name: subject for subject in subjects})
    except DataError as error:
        tell.failed(str(error))


def _work(tell: _Teller, settings: Settings, subjects: dict[str, Subject]) -> None:
    import torch

    from . import model as models
    from .scoring import Scorer, TooLargeError

    tell("import_end")  # it began with the process
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    try:
        with tell.phase("model"):
            model = models.load(settings.model, settings.dtype, settings.device, settings.place)
        tell("environment", **_environment(model))
        scorer = Scorer(
            model.model, settings.batch, lambda size: tell("note", message=f"out of memory: {size} at most")
        )
        run = _Run(tell, settings, subjects, model, scorer)
        if settings.ahead:
            run.everything()
        else:
            tell("ready")
            for line in sys.stdin:
                run.part(*json.loads(line))
                tell("ready")
    except models.ModelError as error:
        tell.failed(str(error))
    except TooLargeError as error:
        tell.failed(f"out of memory: it does not hold {error}", 1)
    except _NotANumberError as error:
        tell.failed(f"{error}: does the model hold such weights, or is its type too narrow?", 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    tell("counters", max_memory=peak, **run.counts())
    if model.device.type == "cuda":
        tell("counters", max_device_memory=torch.cuda.max_memory_allocated(model.device))
    sys.stderr.flush()
    os._exit(0)  # all is told: taking apart what torch has built takes longer than a small model's questions


class _Run:
    """Scores parts of subjects with one model."""

    def __init__(
        self, tell: _Teller, settings: Settings, subjects: dict[str, Subject], model: Model, scorer: Scorer
    ) -> None:
        self._tell, self._settings, self._subjects, self._model, self._scorer = tell, settings, subjects, model, scorer
        self._encoded: dict[str, list[Encoded]] = {}
        self._done = frozenset(tuple(each) for each in settings.done)
        self._reuse, self._tried = settings.reuse, 0  # and how long the prompts were with which that was tried
        self._given = 0  # tokens of prompts

    def counts(self) -> dict[str, int]:
        """Return how many tokens the prompts had, and how many were computed."""
        return {"prompt_tokens": self._given, "computed_tokens": self._scorer.computed}

    def everything(self) -> None:
        """Answer all subjects: the longest prompts first, because what the model takes is tried with the longest."""
        longest = {name: max(len(each.asked.context) for each in self._encode(name)) for name in self._subjects}
        for name in sorted(longest, key=lambda name: -longest[name]):
            self.part(name, 0, 1)

    def part(self, name: str, which: int, count: int) -> None:
        """Answer one of `count` parts of a subject."""
        from .scoring import common

        whole = self._encode(name)
        mine = whole[len(whole) * which // count : len(whole) * (which + 1) // count]
        left = [each for each in mine if _name(each) not in self._done]
        self._tell("kept", names=[_name(each) for each in mine if _name(each) in self._done])
        full = [each.asked for each in whole if self._is_full(each)]
        header = full[0].context[: common(full)] if full else ()
        self._answer([each for each in left if self._is_full(each)], header)
        self._answer([each for each in left if not self._is_full(each)], ())

    def _is_full(self, each: Encoded) -> bool:
        """Tell whether a prompt has all of its shots, as the others of its subject do."""
        return not each.cut and each.prompt.shots == self._settings.shots

    def _encode(self, name: str) -> list[Encoded]:
        from . import model as models

        if name not in self._encoded:
            with self._tell.phase("data"):
                subject = self._subjects[name]
                self._encoded[name] = models.encode(
                    self._model, self._settings.style, subject.asked, subject.shots  # type: ignore[arg-type]
                )  # fmt: skip
        return self._encoded[name]

    def _answer(self, left: Sequence[Encoded], header: tuple[int, ...]) -> None:
        if not left:
            return
        asked = [each.asked for each in left]
        if self._reuse:
            self._reuse = self._fits(left, header)
        with self._tell.phase("score"):
            for batch in self._scorer.with_header(asked) if self._reuse else self._scorer.whole(asked):
                self._hand_over([left[place] for place in batch.places], batch)

    def _fits(self, left: Sequence[Encoded], header: tuple[int, ...]) -> bool:
        """Compute the header; tells whether the model takes the questions without it."""
        from .attention import UnfitError

        longest = max(len(each.asked.context) for each in left)
        try:
            with self._tell.phase("prefill"):
                self._scorer.prefill(header)
            if longest > _LONGER * self._tried:
                with self._tell.phase("score"):
                    self._try(left)
                self._tried = longest
        except UnfitError as error:
            self._tell("note", message=f"the common beginning of prompts is NOT reused, which takes longer: {error}")
            return False
        else:
            return True

    def _try(self, left: Sequence[Encoded]) -> None:
        """Hold reused against whole on the shortest and the longest question; raises `UnfitError` where they differ."""
        from .attention import UnfitError
        from .scoring import BOUNDS

        ordered = sorted(left, key=lambda each: len(each.asked.context))
        sample = [each.asked for each in dict.fromkeys((ordered[0], ordered[-1]))]
        found = _in_order(self._scorer.with_header(sample))
        right = _in_order(self._scorer.whole(sample))
        bound = BOUNDS.get(self._model.dtype, 1e-3)
        pairs = [pair for one, other in zip(found, right, strict=True) for pair in zip(one, other, strict=True)]
        if not all(math.isfinite(here) and math.isfinite(there) for here, there in pairs):
            raise UnfitError("a log-likelihood is not a number")
        most = max(abs(here - there) for here, there in pairs)
        told = f"on {len(sample)} questions the log-likelihoods differ by up to {most:.2g} from those of whole prompts"
        if most > bound:
            raise UnfitError(f"{told}, and {bound:g} is allowed")
        for one, other in zip(found, right, strict=True):
            best, second = sorted(other)[:-3:-1]
            if best_of(one) != best_of(other) and best - second > most:
                raise UnfitError(f"{told}, and the likeliest choice is another")
        self._tell("check", message=f"the common beginning of prompts is computed once: {told} ({bound:g} is allowed)")

    def _hand_over(self, answered: Sequence[Encoded], batch: Any) -> None:
        share = batch.seconds / sum(batch.tokens)
        rows = []
        for each, scores, tokens in zip(answered, batch.scores, batch.tokens, strict=True):
            self._given += len(each.asked.context)
            question = each.prompt.question
            if not all(map(math.isfinite, scores)):
                raise _NotANumberError(
                    f"{question.subject}, question {question.number}: a log-likelihood is not a number"
                )
            choice = best_of(scores)
            rows.append({
                "subject": question.subject, "number": question.number, "question": question.id,
                "prompt": each.prompt.id, "choice": LETTERS[choice], "answer": LETTERS[question.answer],
                "correct": int(choice == question.answer),
                **{f"score_{letter.lower()}": round(score, 6) for letter, score in zip(LETTERS, scores, strict=True)},
                "tokens": tokens, "duration": tokens * share, "shots": each.prompt.shots, "cut": each.cut,
            })  # fmt: skip
        self._tell("answers", rows=rows)


def _in_order(batches: Iterator[Any]) -> list[tuple[float, ...]]:
    found = {place: scores for batch in batches for place, scores in zip(batch.places, batch.scores, strict=True)}
    return [found[place] for place in sorted(found)]


def best_of(scores: Sequence[float]) -> int:
    """Return the likeliest choice; of equal ones the first, as lm-evaluation-harness does."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place))


def _name(each: Encoded) -> tuple[str, int, str]:
    """Return what tells a question from all others: two of a subject may be the same in every word."""
    return each.prompt.question.subject, each.prompt.question.number, each.prompt.id


class _NotANumberError(Exception):
    """A model computes NaN or infinity."""


class _Teller:
    """Writes what happens as lines of JSON, and keeps standard output free of all else."""

    def __init__(self) -> None:
        sys.stdout.flush()
        self._out = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)

    def __call__(self, kind: str, **facts: Any) -> None:
        self._out.write(json.dumps({"kind": kind, "time": time.time(), **facts}) + "\n")
        self._out.flush()

    def failed(self, message: str, status: int = 2) -> NoReturn:
        """Tell why this process ends before its time, with the status that the program should end with."""
        self("failed", message=" ".join(message.split()), status=status)
        raise SystemExit(status)

    def phase(self, word: str) -> _Phase:
        """Tell when a phase begins and ends."""
        return _Phase(self, word)


class _Phase:
    def __init__(self, tell: _Teller, word: str) -> None:
        self._tell, self._word = tell, word

    def __enter__(self) -> None:
        self._tell(f"{self._word}_start")

    def __exit__(self, *_: object) -> None:
        self._tell(f"{self._word}_end")


def _environment(model: Model) -> dict[str, Any]:
    """Describe what computes."""
    import torch
    import transformers

    name = torch.cuda.get_device_name(model.device) if model.device.type == "cuda" else _cpu_name()
    return {
        "python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__,
        "device": model.device.type, "device_name": name, "dtype": str(model.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(), "family": model.model.config.model_type, "context": model.context,
        "parameters": sum(weight.numel() for weight in model.model.parameters()),
    }  # fmt: skip


def _cpu_name() -> str:
    """Return the model of the CPU; on Linux platform.processor() knows its architecture at best."""
    try:
        model = re.search(r"^model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        model = None
    return model[1] if model else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
