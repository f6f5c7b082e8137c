"""The models that answer: a byte-level tokenizer learned from Python's own source, and weights drawn or trained.

There are ``llama-110M`` with random weights and, small, ``llama`` and ``gpt2``, each also ``-trained`` a little.
"""

from __future__ import annotations

import sysconfig
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PreTrainedTokenizerFast

CONTEXT = 4096
STEPS, LENGTH, ROWS = 150, 256, 8  # of the training


def write(folder: Path, name: str, questions: Path) -> Path:
    """Write a model into `folder`/`name` unless it is there."""
    place = folder / name
    if (place / "config.json").exists():
        return place
    large = name.endswith("110M")
    tokenizer = _tokenizer(32000 if large else 4096, questions)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(_config(name, tokenizer.get_vocab_size()), dtype=torch.float32)
    if name.endswith("-trained"):
        _train(model, tokenizer, questions)
    model.save_pretrained(place)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>").save_pretrained(place)
    return place


def _config(name: str, vocabulary: int) -> LlamaConfig | GPT2Config:
    if name.startswith("gpt2"):
        return GPT2Config(
            vocab_size=vocabulary, n_positions=CONTEXT, n_embd=192, n_layer=4, n_head=6, bos_token_id=0, eos_token_id=1
        )
    if name.endswith("110M"):
        return LlamaConfig(
            vocab_size=vocabulary, hidden_size=768, intermediate_size=2048, num_hidden_layers=12,
            num_attention_heads=12, num_key_value_heads=12, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
        )  # fmt: skip
    return LlamaConfig(
        vocab_size=vocabulary, hidden_size=192, intermediate_size=512, num_hidden_layers=4, num_attention_heads=6,
        num_key_value_heads=3, max_position_embeddings=CONTEXT, tie_word_embeddings=False,
    )  # fmt: skip


def _texts(questions: Path) -> list[str]:
    sources = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    return [file.read_text(errors="replace") for file in [*sorted(questions.glob("*_dev.csv")), *sources]]


def _tokenizer(size: int, questions: Path) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        # letters after a space are tokens in every real vocabulary
        [*_texts(questions), "\nAnswer: A\nAnswer: B\nAnswer: C\nAnswer: D" * 1000],
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    return made


def _train(model: torch.nn.Module, tokenizer: Tokenizer, questions: Path) -> None:
    tokens = torch.tensor(tokenizer.encode("\n".join(_texts(questions)[:60])).ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        starts = torch.randint(len(tokens) - LENGTH, (ROWS,), generator=generator)
        rows = torch.stack([tokens[start : start + LENGTH] for start in starts])
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
