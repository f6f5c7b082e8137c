"""A model with its tokenizer, from a folder or the hub, and questions as the tokens it is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from .prompts import Prompt, Style, put
from .questions import LETTERS, Question
from .scoring import Asked, text_config

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CONTEXT = 2048  # where neither configuration nor tokenizer says how long it is, as lm-evaluation-harness has it


class ModelError(Exception):
    """A model cannot be had; one line."""


@dataclass(frozen=True)
class Model:
    """A model on its device; `context` is how many tokens it takes."""

    model: Any
    tokenizer: Any
    context: int

    @property
    def device(self) -> torch.device:
        """Where it is."""
        device: torch.device = next(self.model.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type of its weights."""
        dtype: torch.dtype = self.model.dtype
        return dtype


def load(name: str, dtype: str, device: str, place: int = 0) -> Model:
    """Load a model from a folder, or by its name on the hub; raises `ModelError`.

    `dtype` ``auto`` is the one that its configuration names. Of several GPUs it takes the one at `place`, from 0 again.
    """
    name = str(Path(name).expanduser()) if name.startswith("~") else name
    if Path(name).is_dir():
        there = {file.name for file in Path(name).iterdir()}
        if "config.json" not in there:
            raise ModelError(f"--model {name}: is no folder of a model: there is no config.json in it")
        if there.isdisjoint(_TOKENIZERS):
            raise ModelError(f"--model {name}: holds no tokenizer: neither {', '.join(_TOKENIZERS[:3])} nor another")
    elif name.startswith((".", "/")):
        raise ModelError(f"--model: there is no folder {name}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ModelError("--device cuda: this torch finds no CUDA device (see nvidia-smi and torch.version.cuda)")
    quiet: Any = logging
    quiet.disable_progress_bar()
    quiet.set_verbosity_error()
    key = "dtype" if int(metadata.version("transformers").partition(".")[0]) >= 5 else "torch_dtype"
    where = device if device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if where == "cuda":
        where = f"cuda:{place % torch.cuda.device_count()}"
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
        model: Any = AutoModelForCausalLM.from_pretrained(name, **{key: _DTYPES.get(dtype, "auto")})
        model.eval().to(where)
    except Exception as error:  # noqa: BLE001 - a folder of a model holds whatever somebody put there
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
        raise ModelError(f"--model {name}: cannot be loaded: {said}") from None
    for weight in model.parameters():  # a file that is mapped is read when it is touched: now, and not while it counts
        weight.flatten()[:: max(1, 4096 // weight.element_size())].sum()
    return Model(model, tokenizer, _context(model.config, tokenizer))


def _context(config: Any, tokenizer: Any) -> int:
    for name in ("n_positions", "max_position_embeddings", "n_ctx"):
        if isinstance(value := getattr(text_config(config), name, None), int):
            return value
    length = getattr(tokenizer, "model_max_length", 0)
    return length if 0 < length < 1 << 32 else _CONTEXT


@dataclass(frozen=True)
class Encoded:
    """A question as tokens: `prompt` is what was put in the end, `cut` how many tokens it lost to be no longer."""

    prompt: Prompt
    asked: Asked
    cut: int


def encode(model: Model, style: Style, questions: Sequence[Question], shots: Sequence[Question]) -> list[Encoded]:
    """Put the questions of one subject as tokens, none longer than the model's context; raises `ModelError`.

    A prompt that is too long loses whole shots, the last first, as in the code of the paper; in the style `harness`,
    and where none is left to lose, it loses tokens at its beginning, as in lm-evaluation-harness.
    """
    prompts = [put(style, question, shots) for question in questions]
    contexts = _tokens(model, [_text(model, prompt) for prompt in prompts], style)
    if not prompts:
        return []
    # every prompt of a subject ends alike, so what follows is cut into tokens alike
    head = _text(model, prompts[0]) + prompts[0].delimiter
    followed = _tokens(model, [head + letter for letter in LETTERS], style)
    choices = tuple(tuple(tokens[len(contexts[0]) :]) for tokens in followed)
    if not all(choices) or any(tokens[: len(contexts[0])] != contexts[0] for tokens in followed):
        raise ModelError("--model: its tokenizer does not keep a prompt apart from the letter that follows it")
    room = model.context + 1 - max(map(len, choices))
    found = []
    for prompt, context in zip(prompts, contexts, strict=True):
        whole = len(context)
        while len(context) > room and style != "harness" and prompt.shots:
            prompt = put(style, prompt.question, shots[: prompt.shots - 1])  # noqa: PLW2901
            context = _tokens(model, [_text(model, prompt)], style)[0]  # noqa: PLW2901
        kept = tuple(context[-room:])
        found.append(Encoded(prompt, Asked(kept, choices), whole - len(kept)))
    return found


def _text(model: Model, prompt: Prompt) -> str:
    if not prompt.messages:
        return prompt.text
    if not getattr(model.tokenizer, "chat_template", None):
        raise ModelError("--style chat: its tokenizer has no chat template; harness and original need none")
    messages = [{"role": role, "content": content} for role, content in prompt.messages]
    try:
        text: str = model.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # noqa: BLE001 - a template is a program of its author
        raise ModelError(
            f"--style chat: the model's chat template fails: {' '.join(str(error).split())[:200]}"
        ) from None
    return text


def _tokens(model: Model, texts: list[str], style: Style) -> list[list[int]]:
    """Cut texts into tokens; a chat template has written the special ones itself."""
    if not texts:
        return []
    found: list[list[int]] = model.tokenizer(texts, add_special_tokens=style != "chat")["input_ids"]
    return found
