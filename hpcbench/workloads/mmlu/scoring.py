"""How likely a model finds each choice: in batches that share what stands before all questions of a subject.

The beginning that the prompts of a subject have in common, which is most of them, is computed once and its keys and
values kept. What is left of the questions then goes through the model one after another in one row, without padding:
each token has the position that it has in its prompt and sees the common beginning and its own question alone. That
wants a model whose attention goes by positions and masks that it is given; whether it does is tried, not believed.
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
from transformers import DynamicCache

# Tokens that go through the model together. More is not faster: measured on 2 cores with 110 M parameters, 256 tokens
# took 27 s for what took 31 s with 1024, because every token is also held against those of the other questions.
TOKENS = {"cpu": 256, "cuda": 2048}
# How far a log-likelihood may lie from that of the whole prompt computed alone: rounding, by the digits of the type.
BOUNDS = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.5}


class UnfitError(Exception):
    """A model does not take a part of a prompt on its own; says why."""


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

    Out of memory, a batch is halved, for good. `halved` is called with the new size.
    """

    def __init__(self, model: Any, batch: int, halved: Callable[[int], object]) -> None:
        self._model, self._batch, self._halved = model, batch, halved
        self._device = next(model.parameters()).device
        self._tokens = _fitting(model, self._device)
        self._header: tuple[tuple[int, ...], _Header] = ((), _Header())

    @torch.inference_mode()
    def prefill(self, header: tuple[int, ...]) -> int:
        """Compute what stands before the questions that come next, unless it is there; returns how many tokens."""
        if header == self._header[0]:
            return 0
        kept = _Header()
        if header:
            positions = torch.arange(len(header))
            alike = torch.zeros(len(header), dtype=torch.long)
            self._run(header, positions, alike, alike, [0], kept)
            kept.length = len(header)
        self._header = (header, kept)
        return len(header)

    def with_header(self, asked: Sequence[Asked]) -> Iterator[Batch]:
        """Score questions that begin with the header, shortest first; raises `UnfitError` or `TooLargeError`."""
        start = len(self._header[0])
        yield from self._batches(asked, lambda each: _own(each, start), self._packed)

    def whole(self, asked: Sequence[Asked]) -> Iterator[Batch]:
        """Score questions each by its whole prompt, in rows padded on the right; raises `TooLargeError`."""
        yield from self._batches(asked, _rows, self._padded)

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
                self._batch = len(places) // 2
                self._halved(self._batch)
            else:
                tokens = tuple(size(asked[place]) for place in places)
                yield Batch(places, scores, tokens, time.perf_counter() - began)
                left = left[count:]

    @torch.inference_mode()
    def _packed(self, asked: Sequence[Asked]) -> list[tuple[float, ...]]:
        """Score questions in one row; a choice of several tokens is a branch of its own behind its question."""
        start = len(self._header[0])
        tokens: list[int] = []
        positions: list[int] = []
        owners: list[int] = []
        branches: list[int] = []
        wanted: list[_Wanted] = []
        for owner, each in enumerate(asked):
            own = each.context[start:]
            end = len(tokens) + len(own) - 1
            stretches = [(0, start, own)]
            stretches += [(1 + at, len(each.context), choice[:-1]) for at, choice in enumerate(each.choices)]
            wanted.append([[(end, choice[0])] for choice in each.choices])
            for branch, first, stretch in stretches:
                if branch:
                    followed = each.choices[branch - 1][1:]
                    wanted[-1][branch - 1] += [(len(tokens) + at, token) for at, token in enumerate(followed)]
                tokens += stretch
                positions += range(first, first + len(stretch))
                owners += [owner] * len(stretch)
                branches += [branch] * len(stretch)
        kept, wanted = _compact(wanted)
        rows = (torch.tensor(positions), torch.tensor(owners), torch.tensor(branches))
        return _sums(self._run(tokens, *rows, kept, self._header[1]), wanted)

    def _run(
        self, tokens: Sequence[int], positions: Tensor, owners: Tensor, branches: Tensor, kept: Sequence[int],
        header: _Header,
    ) -> Tensor:  # fmt: skip
        """Return the logits (kept, vocabulary) behind a row of tokens that see the header and their own question."""
        before = torch.arange(header.length)
        seen = torch.cat([before, positions])
        ahead = positions[:, None] - seen[None]  # how far back each token would look
        same = (owners[:, None] == owners[None]) & ((branches[None] == 0) | (branches[:, None] == branches[None]))
        allowed = torch.cat([torch.ones(len(positions), header.length, dtype=torch.bool), same], 1) & (ahead >= 0)
        try:
            output = self._model(
                input_ids=torch.tensor([list(tokens)], device=self._device),
                position_ids=positions[None].to(self._device),
                attention_mask=self._masks(allowed, ahead),
                past_key_values=header,
                use_cache=True,
                logits_to_keep=torch.tensor(list(kept), device=self._device),
            )
        except (TypeError, ValueError, NotImplementedError, AttributeError, IndexError, KeyError) as error:
            raise UnfitError(f"{type(error).__name__}: {error}") from error
        logits: Tensor = output.logits[0]
        if len(logits) != len(kept):
            raise UnfitError("it gives other logits than those that are asked for")
        return logits

    def _masks(self, allowed: Tensor, ahead: Tensor) -> Tensor | dict[str, Tensor]:
        """Return the mask that every layer adds, or one for each kind of layer that the model has."""
        config = self._model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        kinds = set(getattr(config, "layer_types", None) or (["sliding_attention"] if window else ["full_attention"]))
        if unknown := kinds - {"full_attention", "sliding_attention"}:
            raise UnfitError(f"it has layers of {', '.join(sorted(unknown))}")
        made = {"full_attention": allowed, "sliding_attention": allowed & (ahead < (window or 1 << 60))}
        dtype = self._model.dtype
        masks = {
            kind: torch.zeros(1, 1, *made[kind].shape, dtype=dtype)
            .masked_fill_(~made[kind], torch.finfo(dtype).min)
            .to(self._device)
            for kind in kinds
        }
        return masks if len(masks) > 1 else next(iter(masks.values()))

    @torch.inference_mode()
    def _padded(self, asked: Sequence[Asked]) -> list[tuple[float, ...]]:
        """Score each question by rows of its own: one where every choice is one token, else one for each choice."""
        rows: dict[tuple[int, ...], int] = {}
        for each in asked:
            for choice in each.choices:
                rows.setdefault((*each.context, *choice[:-1]), len(rows))
        longest = max(map(len, rows))
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        real = torch.zeros(len(rows), longest, dtype=torch.long)
        for row, place in rows.items():
            tokens[place, : len(row)] = torch.tensor(row)
            real[place, : len(row)] = 1
        first = min(len(each.context) for each in asked) - 1  # no logit before it is wanted
        known = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        logits = self._model(
            input_ids=tokens.to(self._device),
            attention_mask=real.to(self._device),
            use_cache=False,
            **({"logits_to_keep": longest - first} if known else {}),
        ).logits[:, first - longest :]
        width = logits.shape[1]
        flat = logits.reshape(-1, logits.shape[-1])
        wanted: list[_Wanted] = []
        for each in asked:
            end = len(each.context) - 1 - first
            places = [rows[(*each.context, *choice[:-1])] * width + end for choice in each.choices]
            wanted.append([
                [(place + at, token) for at, token in enumerate(choice)]
                for place, choice in zip(places, each.choices, strict=True)
            ])  # fmt: skip
        kept, wanted = _compact(wanted)
        return _sums(flat[torch.tensor(kept, device=self._device)], wanted)


class _Header(DynamicCache):
    """The keys and values of a header: taken from the first call, and put before those of every later one."""

    def __init__(self) -> None:
        super().__init__()
        self.length = 0
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}  # by layer

    def get_seq_length(self, layer_idx: int = 0) -> int:  # noqa: ARG002
        return self.length

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        if not self.length:
            self._kept[layer_idx] = (key_states, value_states)
            return key_states, value_states
        keys, values = self._kept[layer_idx]
        return torch.cat([keys, key_states], -2), torch.cat([values, value_states], -2)


# Of a question, by choice: where the logit of each of its tokens stands, and the token.
_Wanted = list[list[tuple[int, int]]]


def _compact(wanted: Sequence[_Wanted]) -> tuple[list[int], list[_Wanted]]:
    """Return the places at which logits are wanted, in order, and `wanted` with places among these alone."""
    kept = sorted({place for choices in wanted for choice in choices for place, _ in choice})
    among = {place: at for at, place in enumerate(kept)}
    return kept, [[[(among[place], token) for place, token in choice] for choice in choices] for choices in wanted]


def _sums(logits: Tensor, wanted: Sequence[_Wanted]) -> list[tuple[float, ...]]:
    """Return log-likelihoods from logits (n, vocabulary): of each choice the sum over its tokens."""
    logits = logits.float()
    flat = [(place, token) for choices in wanted for choice in choices for place, token in choice]
    places, tokens = (torch.tensor(each, device=logits.device) for each in zip(*flat, strict=True))
    found = (logits[places, tokens] - logits.logsumexp(-1)[places]).double().tolist()
    values = iter(found)
    return [tuple(sum(next(values) for _ in choice) for choice in choices) for choices in wanted]


def _own(asked: Asked, start: int) -> int:
    """Return how many tokens a question has of its own."""
    return len(asked.context) - start + sum(len(choice) - 1 for choice in asked.choices)


def _rows(asked: Asked) -> int:
    """Return how many tokens a question has in rows of its own."""
    return sum(map(len, {(*asked.context, *choice[:-1]) for choice in asked.choices}))


def _out_of_memory(error: Exception) -> bool:
    said = str(error)
    return (
        isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)
        or "can't allocate memory" in said
        or "not enough memory" in said
        or "out of memory" in said
    )


def _fitting(model: Any, device: torch.device) -> int:
    """Return how many tokens to compute together: those that suit the device, or half of what its memory holds."""
    config = model.config.get_text_config()
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
