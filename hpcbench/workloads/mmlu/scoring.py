"""How likely a model finds each choice: in batches that share what stands before all questions of a subject.

The beginning that the prompts of a subject have in common, which is most of them, is computed once. What is left of the
questions then goes through the model one after another in one row, without padding: each token has the position that
it has in its prompt and sees the common beginning and its own question alone. That wants a model that takes positions
and an attention from outside; whether it does is tried, not believed.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .attention import CommonBeginning, UnfitError

# Tokens that go through the model together. Measured on 2 cores with 110 M parameters: 256 took 29.2 s for what took
# 24.8 s with 1024 and 24.0 s with 2048, and 140 MB more.
TOKENS = {"cpu": 2048, "cuda": 4096}
# How far a log-likelihood may lie from that of the whole prompt computed alone: rounding, by the digits of the type.
BOUNDS = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.5}


class TooLargeError(Exception):
    """Memory does not hold even one question."""


@dataclass(frozen=True)
class Asked:
    """A prompt and the four choices that may follow, as tokens."""

    context: tuple[int, ...]
    choices: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Batch:
    """What came of questions that were computed together: `scores` are log-likelihoods in nats, by question and choice.

    `places` are the questions' places among those that were given; `tokens` how many were computed for each.
    """

    places: tuple[int, ...]
    scores: tuple[tuple[float, ...], ...]
    tokens: tuple[int, ...]
    seconds: float


def common(asked: Sequence[Asked]) -> int:
    """Return how many tokens all contexts begin with; each keeps at least one of its own."""
    if len(asked) < 2:
        return 0
    first, last = min(each.context for each in asked), max(each.context for each in asked)
    length = min(len(each.context) for each in asked) - 1
    return next((place for place in range(length) if first[place] != last[place]), length)


class Scorer:
    """Scores questions with one model, in batches of `batch` questions, or of as many as suit it (0).

    Out of memory, a batch is halved, for good, and `halved` is told what it is from then on. `computed` counts the
    tokens that went through the model, padding and repetitions included.
    """

    def __init__(self, model: Any, batch: int, halved: Callable[[str], object]) -> None:
        self._model, self._batch, self._halved = model, batch, halved
        self._device = next(model.parameters()).device
        self._tokens = _fitting(model, self._device)
        self.computed = 0
        self._header: tuple[int, ...] = ()
        self._beginning = CommonBeginning()

    @torch.inference_mode()
    def prefill(self, header: tuple[int, ...]) -> None:
        """Compute what stands before the questions that come next, unless it is there.

        Raises `UnfitError` where the model does not take it, `TooLargeError` where memory does not.
        """
        if header == self._header:
            return
        if kind := _by_length(self._model.config):
            raise UnfitError(f"its positions depend on the length of what is computed ({kind})")
        beginning = CommonBeginning()
        if header:
            try:
                with beginning.filled(self._model, len(header)):
                    self._row(header, range(len(header)), [0])
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                raise TooLargeError(f"the {len(header)} tokens before the questions") from None
        self._header, self._beginning = header, beginning

    def with_header(self, asked: Sequence[Asked]) -> Iterator[Batch]:
        """Score questions that begin with the header, shortest first; raises `UnfitError` or `TooLargeError`."""
        start = len(self._header)
        yield from self._batches(asked, lambda each: _size(each, start), self._packed)

    def whole(self, asked: Sequence[Asked]) -> Iterator[Batch]:
        """Score questions each by its whole prompt, in rows padded on the right; raises `TooLargeError`."""
        yield from self._batches(asked, lambda each: _size(each, 0), self._padded)

    def _batches(
        self,
        asked: Sequence[Asked],
        size: Callable[[Asked], int],
        score: Callable[[Sequence[Asked]], list[tuple[float, ...]]],
    ) -> Iterator[Batch]:
        left = sorted(range(len(asked)), key=lambda place: (size(asked[place]), place))
        while left:
            count = self._batch or 1 + sum(
                total <= self._tokens for total in list(accumulate(size(asked[place]) for place in left))[1:]
            )
            places = tuple(left[:count])
            began = time.perf_counter()
            try:
                scores = tuple(score([asked[place] for place in places]))
            except (MemoryError, RuntimeError) as error:
                if not _out_of_memory(error):
                    raise
                if len(places) == 1:
                    raise TooLargeError(f"one question of {size(asked[places[0]])} tokens") from None
                if self._batch:
                    self._batch = len(places) // 2
                    self._halved(f"{self._batch} questions")
                else:
                    self._tokens = sum(size(asked[place]) for place in places) // 2
                    self._halved(f"{self._tokens} tokens")
            else:
                tokens = tuple(size(asked[place]) for place in places)
                yield Batch(places, scores, tokens, time.perf_counter() - began)
                left = left[count:]

    @torch.inference_mode()
    def _packed(self, asked: Sequence[Asked]) -> list[tuple[float, ...]]:
        """Score questions without the header, their rows behind each other."""
        start = len(self._header)
        rows, wanted = _rows(asked)
        lengths = [len(row) - start for row in rows]
        ends = list(accumulate(lengths))
        kept, found = _compact(wanted, lambda row, place: ends[row] - len(rows[row]) + place)
        tokens = [token for row in rows for token in row[start:]]
        positions = [place for row in rows for place in range(start, len(row))]
        with self._beginning.seen(self._model, lengths):
            return _sums(self._row(tokens, positions, kept), found)

    def _row(self, tokens: Sequence[int], positions: Sequence[int], kept: Sequence[int]) -> Tensor:
        """Return the logits (kept, vocabulary) behind tokens of one row."""
        self.computed += len(tokens)
        try:
            logits: Tensor = self._model(
                input_ids=torch.tensor([list(tokens)], device=self._device),
                position_ids=torch.tensor([list(positions)], device=self._device),
                use_cache=False,
                logits_to_keep=torch.tensor(list(kept), device=self._device),
            ).logits[0]
        except (TypeError, ValueError, NotImplementedError, AttributeError, LookupError, RuntimeError) as error:
            if _out_of_memory(error):
                raise
            raise UnfitError(f"{type(error).__name__}: {error}") from error
        if len(logits) != len(kept):
            raise UnfitError("it gives other logits than those that are asked for")
        return logits

    @torch.inference_mode()
    def _padded(self, asked: Sequence[Asked]) -> list[tuple[float, ...]]:
        """Score questions by whole rows, padded on the right."""
        rows, wanted = _rows(asked)
        longest = max(map(len, rows))
        first = min(len(each.context) for each in asked) - 1  # no logit before it is wanted
        width = longest - first
        kept, found = _compact(wanted, lambda row, place: row * width + place - first)
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        real = torch.zeros(len(rows), longest, dtype=torch.long)
        for place, row in enumerate(rows):
            tokens[place, : len(row)] = torch.tensor(row)
            real[place, : len(row)] = 1
        self.computed += tokens.numel()
        known = inspect.signature(self._model.forward).parameters
        name = next((each for each in ("logits_to_keep", "num_logits_to_keep") if each in known), None)
        logits = self._model(
            input_ids=tokens.to(self._device),
            attention_mask=real.to(self._device),
            use_cache=False,
            **({name: width} if name else {}),
        ).logits[:, -width:]
        return _sums(logits.flatten(0, 1)[torch.tensor(kept, device=self._device)], found)


# By question and choice: of each of its tokens the row and the place that tell of it, and the token.
_Wanted = list[list[list[tuple[int, int, int]]]]
# The same, with the place among the logits that are computed.
_Found = list[list[list[tuple[int, int]]]]


def _rows(asked: Sequence[Asked]) -> tuple[list[tuple[int, ...]], _Wanted]:
    """Return the rows to compute, and where in them the tokens of every choice are told of.

    A question has one row where every choice is one token, else one for each choice that begins otherwise.
    """
    rows: dict[tuple[int, ...], int] = {}
    wanted: _Wanted = []
    for each in asked:
        end = len(each.context) - 1
        of_choices = []
        for choice in each.choices:
            row = rows.setdefault((*each.context, *choice[:-1]), len(rows))
            of_choices.append([(row, end + at, token) for at, token in enumerate(choice)])
        wanted.append(of_choices)
    return list(rows), wanted


def _compact(wanted: _Wanted, flat: Callable[[int, int], int]) -> tuple[list[int], _Found]:
    """Return where logits are wanted when rows are laid out by `flat`, in order, and `wanted` among these."""
    kept = sorted({flat(row, place) for choices in wanted for choice in choices for row, place, _ in choice})
    among = {place: at for at, place in enumerate(kept)}
    return kept, [
        [[(among[flat(row, place)], token) for row, place, token in choice] for choice in choices] for choices in wanted
    ]


def _sums(logits: Tensor, wanted: _Found) -> list[tuple[float, ...]]:
    """Return log-likelihoods from logits (n, vocabulary): of each choice the sum over its tokens."""
    logits = logits.float()
    flat = [(place, token) for choices in wanted for choice in choices for place, token in choice]
    places, tokens = (torch.tensor(each, device=logits.device) for each in zip(*flat, strict=True))
    found = (logits[places, tokens] - logits.logsumexp(-1)[places]).double().tolist()
    values = iter(found)
    return [tuple(sum(next(values) for _ in choice) for choice in choices) for choices in wanted]


def _size(asked: Asked, start: int) -> int:
    """Return how many tokens a question has in its rows, without a header of `start`."""
    return sum(len(row) - start for row in _rows([asked])[0])


def _out_of_memory(error: Exception) -> bool:
    said = str(error)
    return (
        isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
        or "can't allocate memory" in said
        or "not enough memory" in said
        or "out of memory" in said
        or "CUBLAS_STATUS_ALLOC_FAILED" in said
    )


def text_config(config: Any) -> Any:
    """Return the part of a model's configuration that is about text; before transformers 4.45 there is but one."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def _by_length(config: Any) -> str:
    """Return the kind of a model's rotary positions where they are other ones for longer prompts; else ''."""
    told = text_config(config)
    for name in ("rope_parameters", "rope_scaling"):
        if isinstance(found := getattr(told, name, None), dict):
            # one for all layers, or one for each kind of layer
            for each in (found, *(part for part in found.values() if isinstance(part, dict))):
                kind = each.get("rope_type") or each.get("type")
                if kind in ("dynamic", "longrope", "su"):
                    return str(kind)
    return ""


def _fitting(model: Any, device: torch.device) -> int:
    """Return how many tokens to compute together: those that suit the device, or half of what its memory holds."""
    config = text_config(model.config)
    width = getattr(config, "hidden_size", 4096)
    inner = getattr(config, "intermediate_size", None) or 4 * width
    layers = getattr(config, "num_hidden_layers", 32)
    size = next(model.parameters()).element_size()
    # of a token: its activations within a layer, and its keys and values in all of them
    each = size * (8 * width + 3 * inner + 2 * layers * width)
    free = int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else _available()
    return max(1, min(TOKENS[device.type], int(free // (2 * each))))


def _available() -> int:
    """Return the memory that this process may still take, in bytes."""
    try:
        said = Path("/proc/meminfo").read_text(encoding="ascii")
        return next(int(line.split()[1]) << 10 for line in said.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
