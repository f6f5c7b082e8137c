"""Small models with random weights of the families that MMLU is answered with, each with a byte-level tokenizer."""

import json
from functools import cache

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
FAMILIES = {  # class of the configuration: what makes it one of its family
    "LlamaConfig": {"num_key_value_heads": 2},
    "Olmo2Config": {"num_key_value_heads": 4},
    "Qwen2Config": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "GPTNeoXConfig": {"rotary_pct": 0.25},
    "MistralConfig": {"num_key_value_heads": 2, "sliding_window": 24},
    "GPT2Config": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "Qwen3Config": {  # a layer that sees all, and one that sees a window
        "num_key_value_heads": 2, "head_dim": 8, "use_sliding_window": True, "sliding_window": 24,
        "max_window_layers": 1,
    },
    "PhiConfig": {},
}  # fmt: skip
UNFIT = {  # the attention goes by a token's place in its row, not by its position; of Gemma 2 its logits are capped
    "BloomConfig": {"n_layer": 2, "n_head": 4},
    "MptConfig": {"n_layers": 2, "n_heads": 4, "d_model": 32},
    "Gemma2Config": {"num_key_value_heads": 2, "head_dim": 8},
}
TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<assistant>"


@cache
def tokenizer(*, whole_letters=True):
    text = "What is the answer of the question with the choices and the letter that follows? Answer: A B C D\n" * 20
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    cut = text if whole_letters else text.replace(" A B C D", "")
    made.train_from_iterator(
        [cut],
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )  # fmt: skip
    return made


def write(folder, family="LlamaConfig", *, context=2048, whole_letters=True, seed=0, chat=False):
    """Write a model into a folder."""
    made = tokenizer(whole_letters=whole_letters)
    own = {**FAMILIES, **UNFIT}[family]
    learned = {"n_positions": context} if family == "GPT2Config" else {}
    torch.manual_seed(seed)
    config = getattr(transformers, family)(
        vocab_size=made.get_vocab_size(), bos_token_id=0, eos_token_id=1, pad_token_id=0,
        **{**SIZE, "max_position_embeddings": context, **learned, **own},
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for weight in model.parameters():  # wide enough that choices differ
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.4)
    model.save_pretrained(folder)
    made.save(str(folder / "tokenizer.json"))
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
    if chat:
        told["chat_template"] = (
            "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}<assistant>"
        )
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    return folder
