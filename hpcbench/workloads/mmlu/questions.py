"""The questions of MMLU: a folder of CSV files, or a data set of the Hugging Face hub.

Hendrycks et al. 2021, "Measuring Massive Multitask Language Understanding" (https://arxiv.org/abs/2009.03300).
"""

from __future__ import annotations

import csv
import difflib
import hashlib
import importlib
import io
import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

LETTERS = "ABCD"
# The subjects by group, as lm-evaluation-harness has them (the paper counts anatomy among the others).
GROUPS: Mapping[str, tuple[str, ...]] = {
    "stem": (
        "abstract_algebra", "anatomy", "astronomy", "college_biology", "college_chemistry",
        "college_computer_science", "college_mathematics", "college_physics", "computer_security",
        "conceptual_physics", "electrical_engineering", "elementary_mathematics", "high_school_biology",
        "high_school_chemistry", "high_school_computer_science", "high_school_mathematics", "high_school_physics",
        "high_school_statistics", "machine_learning",
    ),
    "humanities": (
        "formal_logic", "high_school_european_history", "high_school_us_history", "high_school_world_history",
        "international_law", "jurisprudence", "logical_fallacies", "moral_disputes", "moral_scenarios", "philosophy",
        "prehistory", "professional_law", "world_religions",
    ),
    "social_sciences": (
        "econometrics", "high_school_geography", "high_school_government_and_politics", "high_school_macroeconomics",
        "high_school_microeconomics", "high_school_psychology", "human_sexuality", "professional_psychology",
        "public_relations", "security_studies", "sociology", "us_foreign_policy",
    ),
    "other": (
        "business_ethics", "clinical_knowledge", "college_medicine", "global_facts", "human_aging", "management",
        "marketing", "medical_genetics", "miscellaneous", "nutrition", "professional_accounting",
        "professional_medicine", "virology",
    ),
}  # fmt: skip
SUBJECTS = tuple(sorted(subject for group in GROUPS.values() for subject in group))
_COLUMNS = 2 + len(LETTERS)
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SUBJECT = re.compile(r"[A-Za-z0-9][\w-]*", re.ASCII)
_MAX_BYTES = 1 << 30


class DataError(Exception):
    """Questions cannot be had; one line."""


@dataclass(frozen=True)
class Question:
    """One question; `number` is its place among those of its subject, from 0, and `answer` the right choice's."""

    subject: str
    number: int
    text: str
    choices: tuple[str, str, str, str]
    answer: int

    @cached_property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of what is asked, however a prompt puts it."""
        asked = json.dumps([self.subject, self.text, *self.choices], separators=(",", ":"))
        return hashlib.sha256(asked.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Subject:
    """The questions of a subject that are asked, and those that stand answered before each."""

    name: str
    asked: tuple[Question, ...]
    shots: tuple[Question, ...]


def read(data: str, subjects: str, *, shots: int = 5, limit: int = 0, seed: int = 0) -> list[Subject]:
    """Read the named subjects from a folder, or from the hub where `data` is no folder but a name there.

    `subjects` holds names of subjects and groups with commas between, or ``all``. Of each subject the first `limit`
    questions are asked (0: all), after the first `shots` of its development set; a `seed` other than 0 draws both.
    Raises `DataError`.
    """
    tables = _tables(data)
    return [_subject(name, tables[name], shots, limit, seed) for name in _chosen(subjects, tables, data)]


def names(data: str, subjects: str) -> list[str]:
    """Return the names of the subjects that `read` would read, without reading them; raises `DataError`."""
    return _chosen(subjects, _tables(data), data)


def _tables(data: str) -> Mapping[str, _Table]:
    """Return where the questions of each subject are."""
    if not data:
        raise DataError("--data: name a folder of CSV files, or a data set of the hub such as cais/mmlu")
    folder = Path(data).expanduser()
    if folder.is_dir():
        return _folder(folder)
    if _HUB_NAME.fullmatch(data):
        return {subject: _Hub(data, subject) for subject in SUBJECTS}
    raise DataError(f"--data: there is no folder {data}")


def _chosen(subjects: str, there: Iterable[str], where: str) -> list[str]:
    """Return the names that `subjects` asks for among those that are there, each once."""
    known = sorted(there)
    found_names: dict[str, None] = {}
    for word in (each.strip() for each in subjects.split(",")):
        found = known if word == "all" else [name for name in GROUPS.get(word, (word,)) if name in known]
        if not word or not found:
            near = difflib.get_close_matches(word, [*known, *GROUPS, "all"], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; there is {', '.join(known[:5])} and so on"
            raise DataError(f"--subjects: there is no {word!r} in {where}{hint if known else ''}")
        found_names |= dict.fromkeys(found)
    return list(found_names)


def _subject(name: str, table: _Table, shots: int, limit: int, seed: int) -> Subject:
    asked = table.read("test")
    examples = table.read("dev") if shots else []
    if not asked:
        raise DataError(f"{name}: there is no question to ask")
    if len(examples) < shots:
        raise DataError(f"{name}: its development set has {len(examples)} questions, and --shots asks for {shots}")
    if seed:
        draw = random.Random(f"{seed}/{name}")
        asked, examples = draw.sample(asked, len(asked)), draw.sample(examples, len(examples))
    return Subject(name, tuple(asked[: limit or None]), tuple(examples[:shots]))


class _Table:
    """Where the questions of a subject are: by split, ``test`` or ``dev``."""

    def read(self, split: str) -> list[Question]:
        raise NotImplementedError


class _Files(_Table):
    """CSV files; a split that has none is empty."""

    def __init__(self, subject: str, files: Mapping[str, Path]) -> None:
        self._subject, self._files = subject, files

    def read(self, split: str) -> list[Question]:
        file = self._files.get(split)
        return [] if file is None else _csv(self._subject, file)


def _folder(folder: Path) -> dict[str, _Files]:
    """Find ``SUBJECT_test.csv`` and ``SUBJECT_dev.csv`` in a folder, or in its ``test`` and ``dev``."""
    found: dict[str, dict[str, Path]] = {}
    for split in ("dev", "test"):
        for place in (folder / split, folder):
            for file in sorted(place.glob(f"*_{split}.csv")):
                subject = file.name.removesuffix(f"_{split}.csv")
                if _SUBJECT.fullmatch(subject):
                    found.setdefault(subject, {})[split] = file
    tables = {subject: _Files(subject, files) for subject, files in found.items() if "test" in files}
    if not tables:
        raise DataError(f"--data {folder}: holds no SUBJECT_test.csv, nor does a folder test in it")
    return tables


def _csv(subject: str, file: Path) -> list[Question]:
    """Read a question a row: text, four choices, and the answer as 0 to 3 or A to D; a head line may stand first."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise DataError(f"{file}: is larger than {_MAX_BYTES >> 30} GiB")
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if row]
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{file}:{line}: is not UTF-8 text") from None
    except csv.Error as error:
        raise DataError(f"{file}:{reader.line_num}: {error}") from None
    if rows and rows[0][1][-1].strip().lower() == "answer":
        rows = rows[1:]
    questions = []
    for number, (line, row) in enumerate(rows):
        try:
            questions.append(_question(subject, number, row))
        except ValueError as problem:
            raise DataError(f"{file}:{line}: {problem}") from None
    return questions


def _question(subject: str, number: int, row: Sequence[str]) -> Question:
    if len(row) != _COLUMNS:
        raise ValueError(f"{len(row)} columns, where a question has {_COLUMNS}: its text, four choices and the answer")
    text, a, b, c, d, answer = row
    places = {**{letter: place for place, letter in enumerate(LETTERS)}, "0": 0, "1": 1, "2": 2, "3": 3}
    if (place := places.get(answer.strip())) is None:
        raise ValueError(f"the answer {answer.strip()[:20]!r} is none of 0 to 3 or A to D")
    return Question(subject, number, text, (a, b, c, d), place)


class _Hub(_Table):
    """A configuration of a data set on the hub; its rows hold question, choices and the answer as 0 to 3."""

    def __init__(self, name: str, subject: str) -> None:
        self._name, self._subject = name, subject

    def read(self, split: str) -> list[Question]:
        load = _datasets(self._name)
        try:
            rows = list(load(self._name, self._subject, split=split))
        except Exception as error:  # noqa: BLE001 - whatever a library of a library meets on the way to the hub
            said = " ".join(str(error).split())[:200].rstrip(".")
            raise DataError(
                f"--data {self._name}: {self._subject} ({split}) cannot be had from the hub: {said}; "
                "a folder of CSV files needs no network"
            ) from None
        questions = []
        for number, row in enumerate(rows):
            try:
                cells = [str(row["question"]), *map(str, row["choices"]), str(row["answer"])]
                questions.append(_question(self._subject, number, cells))
            except (KeyError, TypeError, ValueError) as problem:
                raise DataError(f"{self._name}, {self._subject}, {split}, row {number}: {problem}") from None
        return questions


def _datasets(name: str) -> Callable[..., Iterable[Any]]:
    try:
        module: Any = importlib.import_module("datasets")
        load: Callable[..., Iterable[Any]] = module.load_dataset
        module.disable_progress_bars()
    except (ImportError, AttributeError):  # AttributeError: a folder of that name stands for the package
        raise DataError(
            f"--data: there is no folder {name}, and the hub is read by the package datasets, which is not installed: "
            "pip install datasets"
        ) from None
    return load
