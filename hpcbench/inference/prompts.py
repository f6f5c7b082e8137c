"""The prompts of a benchmark: the same for the same seed on every machine, each known by a hash."""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hpcbench.errors import ConfigError, UsageError, nearest
from hpcbench.metrics import shown
from hpcbench.workloads.mmlu import prompts as mmlu

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class Prompt:
    """What one request asks: messages of (role, content), the answers that count as right, a token limit of its own.

    No answers: not scored. No `max_tokens`: the run's limit holds. `question` is the `id` that the prompt had before a
    line was put in front of it (``vary_prefix``); it tells which prompts ask the same. `put` is a question of MMLU,
    which `messages` put to a chat.
    """

    messages: tuple[tuple[str, str], ...]
    answers: tuple[str, ...] = ()
    max_tokens: int | None = None
    question: str = ""
    put: mmlu.Prompt | None = None

    def __post_init__(self) -> None:
        if not self.question:
            object.__setattr__(self, "question", self.id)

    @cached_property
    def id(self) -> str:
        """The first 16 hexadecimal digits of the SHA-256 of the messages as canonical JSON; of `put` its own id."""
        if self.put is not None:
            return self.put.id
        messages = [{"role": role, "content": content} for role, content in self.messages]
        text = json.dumps(messages, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def make(kind: str, parameters: Mapping[str, Any], count: int) -> list[Prompt]:
    """Make `count` prompts of ``squad``, ``chat`` or ``long_context`` from the parameters of that benchmark.

    `parameters` holds ``seed`` and the kind's own: ``data`` and ``split`` (squad), ``prompts`` and ``input_tokens``
    (chat), ``input_tokens`` (long_context); ``vary_prefix`` puts a line drawn from the seed, ``round`` (a number or
    any text) and the prompt's place in front of each. The first n of more prompts are the same n. Data that has fewer
    than `count` is used again in the same order. Raises `ConfigError` for a bad file, `UsageError` for the rest.
    """
    if kind not in _KINDS:
        raise UsageError(f"unknown kind of prompts {kind!r}{nearest(kind, _KINDS)}")
    found = _KINDS[kind](parameters, count)
    return varied([found[index % len(found)] for index in range(count)], parameters)


def varied(prompts: Sequence[Prompt], parameters: Mapping[str, Any]) -> list[Prompt]:
    """Put in front of each prompt what ``vary_prefix`` asks for, if it does; see `make`."""
    if not parameters.get("vary_prefix"):
        return list(prompts)
    start = f"{parameters['seed']}/{parameters.get('round', 0)}"
    return [_varied(prompt, f"{start}/{index}") for index, prompt in enumerate(prompts)]


def _varied(prompt: Prompt, key: str) -> Prompt:
    """Put a line in front that differs from its first letter: a cache holds the beginning that prompts share."""
    (role, content), *others = prompt.messages
    line = f"{hashlib.sha256(key.encode()).hexdigest()[:16]} is the number of this request."
    messages = ((role, f"{line}\n\n{content}"), *others)
    put = prompt.put
    if put is not None:
        put = replace(put, text=f"{line}\n\n{put.text}") if put.text else replace(put, messages=messages)
    return replace(prompt, messages=messages, put=put)


def _squad(parameters: Mapping[str, Any], _: int) -> list[Prompt]:
    """Read SQuAD's questions, in an order drawn from the seed.

    The order hangs on each question's text, so that a local file and the hub give the same one.
    """
    name, seed = str(parameters["data"]), parameters["seed"]
    if not name:
        raise UsageError("data: name a file in SQuAD's format, or a data set of the hub such as rajpurkar/squad")
    try:
        asked = _squad_file(Path(name))
    except FileNotFoundError:
        if name.endswith((".json", ".jsonl")) or not _HUB_NAME.fullmatch(name):
            raise ConfigError("data: there is no such file", name) from None
        asked = _squad_hub(name, str(parameters.get("split") or "validation"))
    prompts = [
        Prompt((("user", f"Context: {context}\n\nQuestion: {question}\n\nAnswer:"),), tuple(dict.fromkeys(answers)))
        for context, question, answers in asked
        if answers  # SQuAD 2.0 asks what its context does not answer, too
    ]
    if not prompts:
        raise ConfigError("holds no question with an answer", name)
    return sorted(prompts, key=lambda prompt: hashlib.sha256(f"{seed}/{prompt.id}".encode()).digest())


def _squad_file(file: Path) -> list[tuple[str, str, list[str]]]:
    """Read context, question and answers from a file of SQuAD 1.1 or 2.0; raises `FileNotFoundError` as well."""
    squad = _checked(_Squad, _json(_read(file), file), file)
    return [
        (paragraph.context, asked.question, [] if asked.is_impossible else [answer.text for answer in asked.answers])
        for article in squad.data
        for paragraph in article.paragraphs
        for asked in paragraph.qas
    ]


def _squad_hub(name: str, split: str) -> list[tuple[str, str, list[str]]]:
    """Read context, question and answers of a data set on the Hugging Face hub, or in its cache on this machine."""
    try:
        datasets: Any = importlib.import_module("datasets")
        datasets.disable_progress_bars()
        importlib.import_module("huggingface_hub.utils").disable_progress_bars()
    except (ImportError, AttributeError):  # AttributeError: a folder of that name stands for the package
        raise UsageError(
            f"data: {name} is no file, and the hub is read by the package datasets, which is not installed: "
            "pip install 'hpcbench[datasets]'"
        ) from None
    for library in ("datasets", "huggingface_hub"):  # they print each of their attempts
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        rows = [_checked(_Row, row, name) for row in datasets.load_dataset(name, split=split)]
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise UsageError(
            f"data: {name} ({split}) cannot be had from the hub: {shown(str(error).rstrip('.'), 200)}; "
            "a file in SQuAD's format needs no network"
        ) from None
    return [(row.context, row.question, row.answers.text) for row in rows]


def _chat(parameters: Mapping[str, Any], count: int) -> list[Prompt]:
    """Read the user's own prompts in the order of their file, or write some."""
    if name := str(parameters.get("prompts") or ""):
        return _own(Path(name))
    tokens, seed = parameters["input_tokens"], parameters["seed"]
    room = _room(tokens, _GO_ON)
    keys = (f"chat/{seed}/{tokens}/{index}" for index in range(count))
    return [Prompt((("user", f"{' '.join(_sentences(room, key))}\n\n{_GO_ON}"),)) for key in keys]


def _own(file: Path) -> list[Prompt]:
    """Read JSON objects (``.jsonl``) or plain prompts, one a line."""
    if file.suffix == ".json":
        raise ConfigError("prompts: one JSON object a line is read from a .jsonl, one prompt a line from a .txt", file)
    try:
        text = _read(file)
    except FileNotFoundError:
        raise ConfigError("prompts: there is no such file", file) from None
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise ConfigError("holds no prompt", file)
    if file.suffix != ".jsonl":
        return [Prompt((("user", line),)) for _, line in lines]
    return [_checked(_Line, _json(line, file, number), file, number).prompt_of() for number, line in lines]


def _long_context(parameters: Mapping[str, Any], count: int) -> list[Prompt]:
    """Write long texts, one sentence of which holds what is asked; all depths are equally likely."""
    tokens, seed = parameters["input_tokens"], parameters["seed"]
    prompts = []
    for index in range(count):
        key = f"long_context/{seed}/{tokens}/{index}"
        colour = _COLOURS[_drawn(len(_COLOURS), f"{key}/colour")]
        number = str(1000 + _drawn(9000, f"{key}/number"))
        hidden = f"The code of the {colour} box is {number}."
        question = f"What is the code of the {colour} box? Answer with the number alone."
        sentences = _sentences(_room(tokens, f"{hidden} {question}"), key)
        sentences.insert(_drawn(len(sentences) + 1, f"{key}/depth"), hidden)
        prompts.append(Prompt((("user", f"{' '.join(sentences)}\n\n{question}"),), (number,)))
    return prompts


_KINDS: dict[str, Callable[[Mapping[str, Any], int], list[Prompt]]] = {
    "squad": _squad,
    "chat": _chat,
    "long_context": _long_context,
}


def _room(tokens: int, said: str) -> int:
    """Return how many of `tokens` are left beside what is `said`; words and marks are counted, as tokenizers do."""
    taken = len(re.findall(r"\w+|[^\w\s]", said))
    least = taken + 2 * _SENTENCE
    if tokens < least:
        raise UsageError(f"input_tokens: {tokens} is too few for such a prompt, which takes {least} or more")
    return tokens - taken


def _sentences(tokens: int, key: str) -> list[str]:
    """Write sentences of so many tokens, or one less, drawn by `key`; the last one may be shorter."""
    drawn = hashlib.shake_256(key.encode()).digest(tokens)
    pieces = (drawn[start : min(start + _SENTENCE, tokens) - 1] for start in range(0, tokens - 1, _SENTENCE))
    return [" ".join(_WORDS[byte] for byte in piece) + "." for piece in pieces]


def _drawn(below: int, key: str) -> int:
    """Draw a whole number from 0 to `below` - 1 by `key`: Python's generators differ between its versions."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") % below


def _read(file: Path) -> str:
    """Read a text file; raises `FileNotFoundError`, and `ConfigError` for all else."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file) from None
    if len(data) > _MAX_BYTES:
        raise ConfigError(f"is larger than {_MAX_BYTES >> 30} GiB", file)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", file, data.count(b"\n", 0, error.start) + 1) from None


def _json(text: str, file: Path, line: int = 1) -> Any:
    """Read JSON that begins on `line` of `file`."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"not valid JSON: {error.msg}", file, line + error.lineno - 1) from None
    except RecursionError:
        raise ConfigError("not valid JSON: nested too deeply", file, line) from None
    except ValueError:
        raise ConfigError("not valid JSON: a number of too many digits", file, line) from None


class _Model(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


_ModelT = TypeVar("_ModelT", bound=_Model)


def _checked(model: type[_ModelT], value: Any, file: Path | str, line: int | None = None) -> _ModelT:
    """Check `value` against `model`; raises `ConfigError` with the first complaint."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
        if first["type"] == "missing":
            message = f"the key {where!r} is missing"
        elif where:
            message = f"{where}: {message}"
        raise ConfigError(shown(message, 200), file, line) from None


class _Answer(_Model):
    text: str


class _Asked(_Model):
    question: str
    answers: list[_Answer]
    is_impossible: bool = False


class _Paragraph(_Model):
    context: str
    qas: list[_Asked]


class _Article(_Model):
    paragraphs: list[_Paragraph]


class _Squad(_Model):
    data: list[_Article]


class _Answers(_Model):
    text: list[str]


class _Row(_Model):
    """A row of SQuAD as the hub has it."""

    context: str
    question: str
    answers: _Answers


class _Message(_Model):
    role: Literal["system", "developer", "user", "assistant"]
    content: str = Field(min_length=1)


class _Line(_Model):
    """A line of the user's own prompts; keys that are not ours are theirs, unless they look like a mistake."""

    model_config = ConfigDict(extra="allow")

    prompt: str | None = Field(None, min_length=1)
    messages: list[_Message] | None = Field(None, min_length=1)
    answers: list[str] = []
    max_tokens: int | None = Field(None, ge=1)

    @model_validator(mode="after")
    def _says_one_thing(self) -> _Line:
        for key in self.model_extra or ():
            if near := difflib.get_close_matches(key, _Line.model_fields, n=1, cutoff=0.8):
                raise ValueError(f"unknown key {key!r}; did you mean {near[0]!r}?")
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("expected either 'prompt' or 'messages'")
        return self

    def prompt_of(self) -> Prompt:
        """Return the prompt that the line describes."""
        said = [(message.role, message.content) for message in self.messages or ()]
        return Prompt(tuple(said) or (("user", self.prompt or ""),), tuple(self.answers), self.max_tokens)


_GO_ON = "Go on writing this text."
_COLOURS = ("red", "blue", "green", "black", "white", "brown", "yellow", "orange")
_SENTENCE = 12  # tokens: eleven words and the full stop
# 256 words, one for each value of a byte; frequent enough to be one token each
_WORDS = """\
the of and to in is that it was for on are as with his they at be this have from or had by word but what some we can
out other were all there when up use your how said an each she which do their time if will way about many then them
write would like so these her long make thing see him two has look more day could go come did number sound no most
people my over know water than call first who may down side been now find any new work part take get place made live
where after back little only round man year came show every good me give our under name very through just form much
great think say help low line before turn cause same mean differ move right boy old too does tell set three want air
well also play small end put home read hand port large add even land here must big high such follow act why ask men
change went light kind off need house picture try us again animal point mother world near build self earth father
head stand own page should country found answer school grow study still learn plant cover food sun
between state keep eye never last let thought city tree cross farm hard start might story saw far sea draw left late
run while press close night real life few north open seem together next begin walk ease paper group always music
those both mark often letter
""".split()  # noqa: SIM905
