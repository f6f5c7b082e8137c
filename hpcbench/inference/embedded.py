"""An inference endpoint on this machine, with no account: one that is started for a while, or one that runs already."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from hpcbench import process
from hpcbench.errors import SiteError, UsageError
from hpcbench.metrics import shown

MODEL = "tiny-llama-1"  # the number goes up when `make_model` makes another one
_NEEDED = ("torch", "transformers", "accelerate", "fastapi", "uvicorn", "openai")
# Without a GPU, continuous batching sizes its cache by the whole memory: 14 GB of 23, and 28 s for the first request.
_SMALL_CACHE = ("--cb-num-blocks", "256", "--cb-max-batch-tokens", "1024")
_PATIENCE = 120.0  # seconds for a server to come up
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy stands before this machine itself
_KNOWN = {"Ollama": 11434, "llama.cpp": 8080, "vLLM or transformers serve": 8000, "LM Studio": 1234}  # default ports


@dataclass(frozen=True)
class Served:
    """A server that answers; `started_in` is how long that took, in seconds, its model's making included."""

    base_url: str
    model: str
    started_in: float


@contextlib.contextmanager
def serving(model: str = "", *, continuous_batching: bool = False, log: Path) -> Iterator[Served]:
    """Run `transformers serve` on a model folder, or on a tiny model of our own, for as long as the context lasts.

    It listens on loopback alone, writes into `log` and has answered a request before it is yielded. It is ended with
    all that it started, also where this process is killed. Raises `SiteError` where it does not come up.
    """
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise SiteError(f"{', '.join(missing)} not installed: pip install 'hpcbench[serve]'")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "hpcbench"
    folder = Path(model).expanduser().absolute() if model else cache / "models" / MODEL
    if model and not (folder / "config.json").is_file():
        raise UsageError(f"{folder} is no folder of a model: there is no config.json in it")
    hub = cache / "hub"  # stays empty; where the folder is missing, /v1/models answers 500
    try:
        for each in (cache / "models", hub):
            each.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SiteError(f"cannot write in {cache}: {error.strerror}") from None
    argv = [sys.executable, "-m", __name__, str(os.getpid()), str(folder)]
    began = time.monotonic()
    with log.open("ab") as output:
        before = output.tell()
        child = subprocess.Popen(
            [*argv, *(["--continuous-batching"] if continuous_batching else [])],
            cwd=log.parent,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub), "HF_HUB_DISABLE_UPDATE_CHECK": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    job = process.identify(child.pid)
    try:
        base_url = _address(child, log, before, began + _PATIENCE)
        _warm(base_url, folder.name, log, began + _PATIENCE)
        yield Served(base_url, folder.name, time.monotonic() - began)
    finally:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(5.0)
        child.kill()
        child.wait()
        if job is not None:
            process.sweep(job)


def running() -> Iterator[tuple[str, str, str]]:
    """Yield the servers that run on this machine at their usual ports: name, base URL, first model."""
    for name, port in _KNOWN.items():
        base_url = f"http://127.0.0.1:{port}/v1"
        try:
            with _DIRECT.open(f"{base_url}/models", timeout=0.3) as answer:
                listed = json.loads(answer.read(1 << 20))
            first = listed["data"][0]["id"]
        except (OSError, HTTPException, ValueError, RecursionError, LookupError, TypeError):
            continue  # nobody there, or somebody else
        if isinstance(first, str):
            yield name, base_url, first


def make_model(folder: Path) -> None:
    """Write a Llama with two layers, random weights and a tokenizer, the same each time; whole or not at all.

    Under greedy decoding every token it gives is plain text and none is the end: an answer is as long as was asked for.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    special = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [_TEXT],
        trainers.BpeTrainer(vocab_size=1024, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    size = tokenizer.get_vocab_size()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=_CONTEXT,
            pad_token_id=0, bos_token_id=1, eos_token_id=2, tie_word_embeddings=False,
        )
    )  # fmt: skip
    texts = [tokenizer.decode([token]) for token in range(size)]
    unfit = [token for token, text in enumerate(texts) if not (text and text.isascii() and text.isprintable())]
    with torch.no_grad():
        model.lm_head.weight[unfit] = 0.0  # a logit of 0 is never the largest among hundreds on both sides of it
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    try:
        model.save_pretrained(aside)
        tokenizer.save(str(aside / "tokenizer.json"))
        (aside / "tokenizer_config.json").write_text(json.dumps(_TOKENIZER))
        with contextlib.suppress(OSError):
            aside.rename(folder)
        if not folder.is_dir():  # else another process was first with the same
            raise SiteError(f"cannot write {folder}")
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _address(child: subprocess.Popen[bytes], log: Path, before: int, deadline: float) -> str:
    """Wait until the server says where it listens: it takes a port of the system's choice once its model is loaded."""
    while True:
        ended = child.poll() is not None
        with log.open("rb") as said:
            said.seek(before)
            if found := re.search(rb"running on (http://127\.0\.0\.1:\d+)", said.read()):
                return f"{found[1].decode()}/v1"
        if ended:
            raise SiteError(f"transformers serve ended with status {child.returncode}: {_last_line(log)}")
        if time.monotonic() > deadline:
            raise SiteError(f"transformers serve is not up after {_PATIENCE:.0f} s: {_last_line(log)}")
        time.sleep(0.05)


def _warm(base_url: str, model: str, log: Path, deadline: float) -> None:
    """Send one request: the first takes seconds longer than all others."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{base_url}/chat/completions", json.dumps(body).encode(), headers)  # noqa: S310
    try:
        with _DIRECT.open(request, timeout=max(1.0, deadline - time.monotonic())) as answer:
            answer.read()
    except (OSError, HTTPException) as error:
        time.sleep(0.5)  # it answers first, and then it writes down why
        raise SiteError(f"transformers serve: {shown(str(error))}: {_last_line(log)}") from None


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    said = (line for line in reversed(lines) if line and not line.startswith("INFO:"))
    return shown(next(said, "it said nothing"), 300)


def _serve(parent: str, model: str, *options: str) -> None:
    """Be the server; runs in the child."""
    threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    import torch

    if options and not torch.cuda.is_available():
        options = (*options, *_SMALL_CACHE)
    folder = Path(model)
    if not folder.is_dir():
        make_model(folder)
    os.chdir(folder.parent)  # its name alone is then what requests call the model
    sys.argv = ["transformers", "serve", folder.name, "--host", "127.0.0.1", "--port", "0", *options]
    runpy.run_module("transformers.cli.transformers", run_name="__main__")


def _end_with(parent: int) -> None:
    """Kill this process and all that it started once its parent is gone, in whatever way it went."""
    job = process.identify(parent)
    while job is not None and os.getppid() == parent and process.alive(job):
        process.wait_any([job], 3600.0)
    os.killpg(0, signal.SIGKILL)


_CONTEXT = 32768  # tokens
_TOKENIZER = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "pad_token": "<pad>",
    "model_max_length": _CONTEXT,
    "chat_template": "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}"
    "{{ eos_token }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
}
_TEXT = """\
A server that answers questions reads the words it is given, and then writes its own, one after the other. How long a
reader waits for the first of them is one number; how fast the others follow is a second one. Neither tells the other.
A short question may wait behind a long one, and a server that is quick when it is alone can be slow in company.

To measure is to ask the same thing many times and to write down when each answer came. The clock must never go back.
What the machine did before it was warm does not count, but it should be kept, because somebody will ask. When two
machines are compared they should be given the same work in the same minutes, first the one and then the other, so that
the weather in the network is the same for both. A mean without its spread says little, and ten requests say less than
people think. If the requests arrive by a plan, the time is counted from the plan and not from the moment when the
client got around to sending them; otherwise a client that is late makes the server look good.

There are many ways to be wrong. The answer may have been kept from the last time. The connection may have been opened
for one request and used again for the next. Several words may come in one piece, so that the gaps between pieces are
no longer the gaps between words. The token that was counted by one program is two tokens to another. A number that is
missing is not zero. An error is an answer as well: it took its time, it has a reason, and it belongs to the count.

What is the largest city on the coast? Who wrote the book, and in which year was it printed? Where does the river end?
Name three animals that live under water. Tell me about the history of the steam engine, the telescope and the printing
press. Explain how a bridge carries its load, why the sky is blue, and what happens to bread when it is left in the sun.
Write a letter to a friend about the garden: the apple trees, the old wall, the cat that sleeps on it, and the rain
which fell all night. Summarise the following text in two sentences. Translate it into plain words. Say hello.
"""


if __name__ == "__main__":
    _serve(*sys.argv[1:])
