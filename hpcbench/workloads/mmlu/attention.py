"""Attention of rows that begin alike: what they begin with is computed once, and every row sees that and itself.

The two parts are computed apart and put together by their log-sum-exps, as FlashAttention does with its blocks (Dao et
al. 2022, arXiv:2205.14135, section 3.1). So there is neither a mask nor a copy of the keys and values that all share,
and no row pays for the others that go through the model with it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

_NAME = "hpcbench-common-beginning"
_OTHER = ("softcap", "s_aux", "position_bias")  # what transformers calls changes to the logits that are not made here


class UnfitError(Exception):
    """A model does not take a part of a prompt on its own; says why."""


class CommonBeginning:
    """What rows begin with: its keys and values by layer, filled by the first call of each, seen by all later ones."""

    def __init__(self) -> None:
        self.length = 0
        self._kept: dict[Any, tuple[Tensor, Tensor]] = {}
        self._rows: _Rows | None = None

    @contextlib.contextmanager
    def filled(self, model: Any, length: int) -> Iterator[None]:
        """Keep what the model computes of its one row, which is `length` tokens long."""
        with _attending(model, self._first):
            yield
        if not self._kept:
            raise UnfitError("its attention cannot be given")
        self.length = length

    @contextlib.contextmanager
    def seen(self, model: Any, lengths: Sequence[int]) -> Iterator[None]:
        """Let the model compute rows of these lengths, one behind the other in one row."""
        self._rows = _Rows(lengths, next(model.parameters()).device)
        with _attending(model, self._later):
            yield

    def _first(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int
    ) -> Tensor:
        self._kept[module] = key, value
        places = torch.arange(query.shape[2], device=query.device)
        return _attention(query, key, value, scale, _hidden(places, places, len(places), window, query, causal=True))[0]

    def _later(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scale: float | None, window: int
    ) -> Tensor:
        rows = self._rows
        assert rows is not None
        apart, within = rows.apart(query), torch.arange(rows.longest, device=query.device)
        hidden = _hidden(within, within, rows.longest, window, apart, causal=True)
        own, weight = _attention(apart, rows.apart(key), rows.apart(value), scale, hidden)
        own, weight = rows.joined(own), rows.joined(weight[..., None])[..., 0]
        if not self.length:
            return own
        before = torch.arange(self.length, device=query.device)
        end = self.length + rows.longest
        outside = _hidden(rows.places + self.length, before, end, window, query, causal=False)
        common, of_common = _attention(query, *self._kept[module], scale, outside)
        # of both, each weighs what it has of the sum of exponentials
        share = torch.sigmoid(of_common - weight)[..., None]
        return (own + (common - own) * share).to(query.dtype)


class _Rows:
    """Rows of a model that stand behind each other in one; apart they are padded to the longest."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.longest = max(lengths)
        sizes = torch.tensor(lengths)
        starts = sizes.cumsum(0) - sizes
        within = torch.arange(self.longest)
        self._shape = len(lengths), self.longest
        self._apart = (starts[:, None] + within).clamp(max=int(sizes.sum()) - 1).flatten().to(device)
        real = within < sizes[:, None]
        self._joined = real.flatten().nonzero()[:, 0].to(device)
        self.places = within.expand(self._shape)[real].to(device)  # of every token within its row

    def apart(self, tensor: Tensor) -> Tensor:
        """Turn (1, heads, tokens, channels) into (rows, heads, longest, channels)."""
        _, heads, _, channels = tensor.shape
        return tensor[0].index_select(1, self._apart).view(heads, *self._shape, channels).transpose(0, 1)

    def joined(self, tensor: Tensor) -> Tensor:
        """Turn (rows, heads, longest, channels) into (1, heads, tokens, channels)."""
        return tensor.transpose(0, 1).flatten(1, 2).index_select(1, self._joined)[None]


def _hidden(places: Tensor, seen: Tensor, end: int, window: int, query: Tensor, *, causal: bool) -> Tensor | bool:
    """Return what is added to logits of tokens at `places`, all before `end`, that look at `seen` ones.

    Where the window hides none of these that is `causal` alone.
    """
    if end <= window:
        return causal
    back = places[:, None] - seen[None]
    width = -(-len(seen) // 8) * 8  # CUDA wants lines of 16 bytes
    added = torch.zeros(len(places), width, dtype=query.dtype, device=query.device)[:, : len(seen)]
    added.masked_fill_((back < 0) | (back >= window), torch.finfo(query.dtype).min)
    return added.expand(query.shape[0], query.shape[1], -1, -1)


def _attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None, added: Tensor | bool
) -> tuple[Tensor, Tensor]:
    """Return attention (rows, heads, tokens, channels) and its log-sum-exps (rows, heads, tokens).

    `added` is what is added to the logits; true is causal, false adds nothing.
    """
    shared = query.shape[1] // key.shape[1]  # query heads that look at the same keys
    if shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    causal = added is True
    mask = added if isinstance(added, Tensor) else None
    operations = torch.ops.aten
    if query.is_cuda:
        found = operations._scaled_dot_product_efficient_attention(
            query, key, value, mask, True, 0.0, causal, scale=scale
        )
    else:
        found = operations._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=mask, scale=scale
        )
    return found[0], found[1][..., : query.shape[2]]


@contextlib.contextmanager
def _attending(model: Any, attend: Any) -> Iterator[None]:
    """Let a model compute its attention by `attend`."""
    try:
        from transformers import AttentionInterface
    except ImportError:
        raise UnfitError("this transformers takes no attention from outside: 4.51 and later do") from None

    def called(
        module: Any, query: Tensor, key: Tensor, value: Tensor, _: Any, scaling: float | None = None, **options: Any
    ) -> tuple[Tensor, None]:
        if other := [name for name in _OTHER if options.get(name) is not None]:
            raise UnfitError(f"its attention has {', '.join(other)}")
        found = attend(module, query, key, value, scaling, options.get("sliding_window") or 1 << 60)
        return found.transpose(1, 2).contiguous(), None

    AttentionInterface.register(_NAME, called)
    config = model.config.get_text_config()
    before = config._attn_implementation
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before
