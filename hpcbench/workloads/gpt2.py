"""Train a GPT-2 on a CPU or a GPU and print every measurement as one JSON object a line.

Stand-alone: Python >= 3.10 and torch, plus transformers where --tokenizer is given. Each line of stdout is a row
of the table that its key "record" names (event, counter, step, eval), in SI units; all else goes to stderr.
The last line is the event "finished", and only a run that did everything prints it.

A step is what llm.c calls one (https://github.com/karpathy/llm.c): forward, backward and update of one batch, with
the device idle at both readings of the clock. Cutting the batch and reading the loss are outside it. As there, the
learning rate is constant, AdamW decays nothing and the gradient is clipped at norm 1.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import re
import resource
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

SIZES = {  # layers, heads, channels
    "nano": (3, 3, 48),
    "micro": (4, 4, 128),
    "mini": (6, 6, 192),
    "small": (6, 6, 384),
    "124M": (12, 12, 768),
}
CONTEXT = 1024  # positions GPT-2 has, whatever the length of the sequences it is trained on
MATMULS = {  # choice: the device it applies to
    "default": "",  # what torch picks
    "no-onednn": "cpu",  # the BLAS that torch was built with (MKL, OpenBLAS, ...), also for bfloat16
    "onednn-bf16": "cpu",  # float32 products by oneDNN, which may round factors to bfloat16 (it does where AMX is)
    "tf32": "cuda",  # float32 products on tensor cores, factors rounded to TensorFloat32
    "cublas": "cuda",
    "cublaslt": "cuda",
}
DEFAULT_DATA_LIMIT = 8_000_000  # bytes
TEMPERATURE = 0.8


class Options(argparse.Namespace):
    """The command line; `--help` says what each means."""

    size: str
    layers: int
    heads: int
    channels: int
    threads: int
    batch: int
    sequence_length: int
    steps: int
    warmup_steps: int
    validate_every: int
    validation_batches: int
    dtype: str
    compile: str
    matmul: str
    device: str
    data: str
    tokenizer: str
    seed: int
    learning_rate: float
    sample_tokens: int


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        fail(message)


def fail(message: str) -> NoReturn:
    """Report a mistake in the options or the data in one line and leave with exit status 2."""
    print("gpt2: error:", *message.split(), file=sys.stderr)
    raise SystemExit(2)


def at_least(minimum: int) -> Callable[[str], int]:
    """Return the argument type of whole numbers from `minimum` up."""

    def whole(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = minimum - 1
        if number < minimum:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {minimum}, found {text!r}")
        return number

    return whole


def read_options(arguments: Sequence[str]) -> Options:
    """Parse the command line; layers, heads and channels come back resolved. A mistake ends the program."""
    # What the process may use, not what the node has: a job often owns a part of its node.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = Parser(
        prog="gpt2.py",
        description="Train a GPT-2 and print what was measured as JSON lines.",
        allow_abbrev=False,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    sizes = "; ".join("{} {}/{}/{}".format(name, *shape) for name, shape in SIZES.items())
    option = parser.add_argument
    option("--size", choices=SIZES, default="micro", help=f"layers/heads/channels: {sizes}")
    for part in ("layers", "heads", "channels"):
        option(f"--{part}", type=at_least(0), default=0, help=f"{part} of the model; 0 = as the size says")
    option("--threads", type=at_least(1), default=cores, help="threads of one operation on the CPU")
    option("--batch", type=at_least(1), default=4, help="sequences a step")
    option("--sequence-length", type=at_least(1), default=64, help="tokens a sequence")
    option("--steps", type=at_least(1), default=40, help="training steps, warm-up included")
    option("--warmup-steps", type=at_least(0), default=1, help="first steps, flagged so that no mean counts them")
    option("--validate-every", type=at_least(0), default=10, help="steps between validations; 0 = never")
    option("--validation-batches", type=at_least(1), default=5, help="batches a validation")
    option("--dtype", choices=("float32", "bfloat16"), default="float32", help="bfloat16: by torch.autocast")
    option("--compile", choices=("true", "false"), default="false", help="train through torch.compile")
    option("--matmul", choices=MATMULS, default="default", help="how matrix products are computed")
    option("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: cuda where there is one")
    option("--data", default="", help="a text file; empty = the modules of Python's own standard library")
    option("--tokenizer", default="", help="folder of a GPT-2 tokenizer; empty = a token a byte, vocabulary 256")
    option("--seed", type=at_least(0), default=1337, help="of the weights, the batches and the sample")
    option("--learning-rate", type=float, default=6e-4, help="of AdamW, constant")
    option("--sample-tokens", type=at_least(0), default=64, help="tokens generated at the end; 0 = none")
    options = parser.parse_args(arguments, namespace=Options())
    layers, heads, channels = SIZES[options.size]
    options.layers = options.layers or layers
    options.heads = options.heads or heads
    options.channels = options.channels or channels
    if options.channels % options.heads:
        fail(f"--heads {options.heads} does not divide the {options.channels} channels")
    if not 0 < options.learning_rate < math.inf:
        fail(f"--learning-rate {options.learning_rate}: expected a finite number above 0")
    return options


if __name__ == "__main__":
    OPTIONS = read_options(sys.argv[1:])
    # OpenMP and MKL read these once, when torch loads them: hence between the imports.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(OPTIONS.threads)

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional  # noqa: E402


def main(options: Options) -> None:
    """Train as the options say, printing records on the way."""
    torch.set_num_threads(options.threads)
    torch.set_num_interop_threads(1)
    device = choose_device(options)
    choose_matmul(options.matmul, device)
    corpus = read_corpus(options)
    emit_environment(options, device, corpus)

    model = build(options, corpus.vocabulary, device)
    parameters = sum(weight.numel() for weight in model.parameters())
    emit("counter", name="parameters", value=parameters, unit="")
    emit("counter", name="flops_per_token", value=flops_per_token(model, options.sequence_length), unit="")

    train(model, corpus, options, device)
    if options.sample_tokens:
        emit("event", kind="sample", time=time.time(), message=sample(model, corpus, options, device))
    # getrusage counts in KiB on Linux and in bytes on macOS.
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    emit("counter", name="max_memory", value=resident, unit="B")
    if device.type == "cuda":
        emit("counter", name="max_device_memory", value=torch.cuda.max_memory_allocated(), unit="B")
    emit("event", kind="finished", time=time.time(), message="completed")


def train(model: GPT2, corpus: Corpus, options: Options, device: torch.device) -> None:
    """Run the steps, each timed by itself, and the validations between them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.0, fused=True)
    # Validation and sample stay with the plain model (the weights are shared): compiling them too would only wait.
    forward: Callable[[Tensor, Tensor], Tensor] = torch.compile(model) if options.compile == "true" else model
    generator = torch.Generator().manual_seed(options.seed)  # used for batches alone, so step s always sees the same
    last_start = len(corpus.train) - options.sequence_length
    tokens = options.batch * options.sequence_length
    saw_nan = False
    for step in range(options.steps):
        if options.validate_every and step % options.validate_every == 0:
            validate(model, corpus, options, device, step)
        starts = torch.randint(last_start, (options.batch,), generator=generator)
        inputs, targets = cut(corpus.train, starts, options.sequence_length, device)
        compiling = options.compile == "true" and step == 0
        if compiling:
            emit("event", kind="compile_start", time=time.time())

        synchronize(device)
        started = time.perf_counter()
        with autocast(options, device):
            loss = forward(inputs, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        synchronize(device)
        step_time = time.perf_counter() - started

        now = time.time()
        if compiling:
            emit("event", kind="compile_end", time=now)
        loss_value = finite(loss)
        emit(
            "step",
            step=step,
            time=now,
            loss=loss_value,
            lr=options.learning_rate,
            grad_norm=finite(norm),
            step_time=step_time,
            tokens=tokens,
            tokens_per_second=tokens / step_time,
            warmup=step < options.warmup_steps,
        )
        if loss_value is None and not saw_nan:
            saw_nan = True
            emit("event", kind="nan_loss", step=step, time=now, message=f"the loss of step {step} is not finite")
    if options.validate_every:
        validate(model, corpus, options, device, options.steps)


@torch.no_grad()
def validate(model: GPT2, corpus: Corpus, options: Options, device: torch.device, step: int) -> None:
    """Emit the mean loss (nats a token) after `step` updates, over the same evenly spaced sequences every time."""
    sequences = options.batch * options.validation_batches
    starts = torch.arange(sequences) * (len(corpus.validation) - options.sequence_length) // sequences
    total = torch.zeros((), dtype=torch.float64)
    for part in starts.split(options.batch):
        with autocast(options, device):
            total += model(*cut(corpus.validation, part, options.sequence_length, device)).cpu()
    value = finite(total / options.validation_batches)
    count = sequences * options.sequence_length
    emit("eval", step=step, task="validation", metric="loss", value=value, count=count)


@torch.no_grad()
def sample(model: GPT2, corpus: Corpus, options: Options, device: torch.device) -> str:
    """Return text that follows a newline, drawn token by token from the model.

    The draw is the argmax of p / e with exponential e, as in torch.multinomial, taken here because it has no
    objection to NaN. All randomness comes from a CPU generator, so another number of threads or another device gives
    the same text unless two candidates tie within rounding.
    """
    generator = torch.Generator().manual_seed(options.seed)
    tokens = list(corpus.prompt)
    for _ in range(options.sample_tokens):
        window = torch.tensor([tokens[-options.sequence_length :]], device=device)
        with autocast(options, device):
            logits = model(window)
        chances = functional.softmax(logits.flatten().double().cpu() / TEMPERATURE, dim=0)
        race = torch.empty_like(chances).exponential_(generator=generator)
        tokens.append(int((chances / race).argmax()))
    return corpus.decode(tokens[len(corpus.prompt) :])


class Block(nn.Module):
    """A pre-LayerNorm transformer layer: causal self-attention, then a GELU MLP of four times the width."""

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.attention_out = nn.Linear(channels, channels)
        self.norm_2 = nn.LayerNorm(channels)
        self.mlp_in = nn.Linear(channels, 4 * channels)
        self.mlp_out = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map activations (batch, sequence, channels) to the same shape."""
        batch, length, channels = x.shape
        qkv = self.qkv(self.norm_1(x)).view(batch, length, 3, self.heads, channels // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (batch, heads, sequence, channels of a head)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.attention_out(mixed.transpose(1, 2).reshape(batch, length, channels))
        hidden = functional.gelu(self.mlp_in(self.norm_2(x)), approximate="tanh")
        return x + self.mlp_out(hidden)  # type: ignore[no-any-return]


class GPT2(nn.Module):
    """GPT-2 as published: learned positions, biases everywhere, a head tied to the token embedding, no dropout."""

    def __init__(self, layers: int, heads: int, channels: int, vocabulary: int, context: int = CONTEXT) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, channels)
        self.positions = nn.Embedding(context, channels)
        self.blocks = nn.ModuleList(Block(heads, channels) for _ in range(layers))
        self.norm = nn.LayerNorm(channels)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Map tokens (batch, sequence) to the mean loss in nats, or without targets to the last logits (batch, 1, V)."""
        x = self.tokens(tokens) + self.positions.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        if targets is None:
            x = x[:, -1:]
        logits = functional.linear(self.norm(x), self.tokens.weight)
        if targets is None:
            return logits
        return functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten())

    def initialize(self, seed: int) -> None:
        """Draw the weights as GPT-2 does: N(0, 0.02), narrower by sqrt(2 layers) where a branch joins the residual."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif weight.dim() == 1:
                nn.init.ones_(weight)
            else:
                joins = name.endswith(("attention_out.weight", "mlp_out.weight"))
                scale = 0.02 / math.sqrt(2 * len(self.blocks)) if joins else 0.02
                nn.init.normal_(weight, std=scale, generator=generator)


def build(options: Options, vocabulary: int, device: torch.device) -> GPT2:
    """Return the model with its initial weights, which are the same on every device."""
    with torch.device("meta"):  # no memory and no time for the default weights of torch
        context = max(CONTEXT, options.sequence_length)
        model = GPT2(options.layers, options.heads, options.channels, vocabulary, context)
    model.to_empty(device="cpu")
    model.initialize(options.seed)
    return model.to(device)


def flops_per_token(model: GPT2, sequence_length: int) -> int:
    """Return the floating-point operations that training on one token takes: 6 N + 12 L C T.

    PaLM (https://arxiv.org/abs/2204.02311), appendix B, with L layers, C channels and T tokens a sequence. N leaves
    out the positions, which are only looked up, but not the token embedding: as the tied head it is multiplied with
    every token (nanoGPT counts the same way).
    """
    products = sum(weight.numel() for weight in model.parameters()) - model.positions.weight.numel()
    return 6 * products + 12 * len(model.blocks) * model.tokens.embedding_dim * sequence_length


@dataclass(frozen=True)
class Corpus:
    """A text as tokens, split by position, and where it came from."""

    train: Tensor  # the first nine tenths, one dimension
    validation: Tensor  # the rest
    vocabulary: int
    prompt: Sequence[int]  # the tokens of a newline
    decode: Callable[[Sequence[int]], str]
    origin: dict[str, object]  # files, bytes, sha256, tokens, vocabulary


def read_corpus(options: Options) -> Corpus:
    """Read and tokenize the text; a file that is missing, unreadable or too short ends the program."""
    texts: list[bytes] = []
    try:
        for path in [Path(options.data)] if options.data else sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
            texts.append(path.read_bytes())
            if not options.data and sum(map(len, texts)) > DEFAULT_DATA_LIMIT:
                break
    except OSError as error:
        fail(f"--data {error.filename}: {error.strerror}")
    whole = b"".join(texts)

    encode, decode, vocabulary = load_tokenizer(options.tokenizer) if options.tokenizer else BYTES
    tokens = torch.cat([encode(text) for text in texts if text] or [torch.empty(0, dtype=torch.uint8)])
    boundary = len(tokens) * 9 // 10
    train, validation = tokens[:boundary], tokens[boundary:]
    for name, part in (("training", train), ("validation", validation)):
        if len(part) <= options.sequence_length:
            fail(
                f"--data {options.data or 'of the standard library'}: {len(tokens)} tokens leave {len(part)} for "
                f"{name}, and --sequence-length {options.sequence_length} needs {options.sequence_length + 1}"
            )
    origin = {"files": len(texts), "bytes": len(whole), "sha256": hashlib.sha256(whole).hexdigest()}
    origin |= {"tokens": len(tokens), "vocabulary": vocabulary}
    return Corpus(train, validation, vocabulary, encode(b"\n").tolist(), decode, origin)


Encode = Callable[[bytes], Tensor]
Decode = Callable[[Sequence[int]], str]


def encode_bytes(text: bytes) -> Tensor:
    """Return a token (uint8) a byte."""
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def decode_bytes(tokens: Sequence[int]) -> str:
    """Return the bytes as UTF-8, with U+FFFD for what is not."""
    return bytes(tokens).decode(errors="replace")


BYTES: tuple[Encode, Decode, int] = (encode_bytes, decode_bytes, 256)


def load_tokenizer(folder: str) -> tuple[Encode, Decode, int]:
    """Return encoder, decoder and vocabulary of a GPT-2 tokenizer; a folder that holds none ends the program."""
    # Looked for here, because transformers 5 answers with an empty tokenizer where the files are missing.
    names = [("tokenizer.json",), ("vocab.json", "merges.txt")]
    if not any(all((Path(folder) / name).is_file() for name in group) for group in names):
        fail(f"--tokenizer {folder}: expected a folder with tokenizer.json, or with vocab.json and merges.txt")
    try:
        from transformers import GPT2TokenizerFast
    except ImportError as error:
        fail(f"--tokenizer needs transformers: {error}")
    try:
        tokenizer = GPT2TokenizerFast.from_pretrained(folder, local_files_only=True)
    except MemoryError:
        raise
    except Exception as error:  # a broken file surfaces as a bare Exception from the Rust side
        fail(f"--tokenizer {folder}: {error}")

    def encode(text: bytes) -> Tensor:
        return torch.tensor(tokenizer.encode(text.decode(errors="replace"), verbose=False), dtype=torch.int32)

    return encode, tokenizer.decode, len(tokenizer)


def cut(tokens: Tensor, starts: Tensor, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the sequences at `starts` and the same shifted by one token, both (batch, length) int64."""
    pieces = tokens[starts[:, None] + torch.arange(length + 1)].long().to(device)
    return pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()


def choose_device(options: Options) -> torch.device:
    """Return the device asked for; one that is absent ends the program."""
    if options.device == "cuda" and not torch.cuda.is_available():
        fail("--device cuda: this torch finds no CUDA device (nvidia-smi, torch.version.cuda)")
    return torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")


def choose_matmul(choice: str, device: torch.device) -> None:
    """Set how torch computes matrix products; a choice that has no effect here ends the program."""
    if MATMULS[choice] not in ("", device.type):
        fail(f"--matmul {choice} is for {MATMULS[choice]}, and this run is on {device.type}")
    if choice == "no-onednn":
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    elif choice == "onednn-bf16":
        # Elsewhere torch would ignore the setting without a word.
        if not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()):
            fail("--matmul onednn-bf16: this torch has no oneDNN, or this CPU lacks the instructions (AVX-512)")
        torch.set_float32_matmul_precision("medium")
    elif choice == "tf32":
        if torch.cuda.get_device_capability() < (8, 0):
            fail(f"--matmul tf32: {torch.cuda.get_device_name()} has no TensorFloat32 (compute capability 8.0)")
        torch.set_float32_matmul_precision("high")
    elif choice != "default":
        torch.backends.cuda.preferred_blas_library(choice)


def autocast(options: Options, device: torch.device) -> torch.autocast:
    """Return the context in which the model computes in --dtype."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=options.dtype == "bfloat16")


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def finite(value: Tensor) -> float | None:
    """Return the number, or None for NaN and infinity, which JSON has no words for."""
    number = float(value)
    return number if math.isfinite(number) else None


def emit(record: str, **columns: object) -> None:
    """Print one row of the table `record`."""
    print(json.dumps({"record": record, **columns}, allow_nan=False), flush=True)


def emit_environment(options: Options, device: torch.device, corpus: Corpus) -> None:
    """Emit what this run stands on: program, versions, device, build of torch, data and all options."""
    blas = re.search(r"BLAS_INFO=(\w+)", torch.__config__.show())
    build = {
        "blas": blas[1] if blas else "",
        "mkl": torch.backends.mkl.is_available(),
        "onednn": torch.backends.mkldnn.is_available(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.version.cuda,
    }
    message = {
        "program": "gpt2",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "dtype": options.dtype,
        "build": build,
        "data": corpus.origin,
        "options": vars(options),
    }
    text = json.dumps(message, separators=(",", ":"))
    emit("event", kind="environment", time=time.time(), message=text)


def cpu_name() -> str:
    """Return the model of the CPU; platform.processor() knows only its architecture on Linux."""
    try:
        model = re.search(r"^model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        model = None
    return model[1] if model else platform.processor() or platform.machine()


if __name__ == "__main__":
    main(OPTIONS)
