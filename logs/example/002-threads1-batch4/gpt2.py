"""Train a GPT-2 on a CPU or a GPU and print every measurement as one JSON object a line.

Stand-alone: Python >= 3.10 and torch, plus transformers where --tokenizer is given. Each line of stdout is a row
of the table that its key "record" names (event, counter, step, eval), in SI units; all else goes to stderr.
The last line is the event "finished", and only a run that did everything prints it.

A step is what llm.c calls one (https://github.com/karpathy/llm.c): forward, backward and update of one batch, with
the device idle at both readings of the clock. Cutting the batch and reading the loss are outside it. As there, the
learning rate is constant, nothing decays, and the gradient is clipped at norm 1.
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
MATMULS = {  # choice: the device it is for
    "default": "",  # what torch picks by itself
    "no-onednn": "cpu",  # by the BLAS that torch was built with (MKL, OpenBLAS, ...), bfloat16 too
    "onednn-bf16": "cpu",  # float32 by oneDNN, free to round factors to bfloat16 (which it does where there is AMX)
    "tf32": "cuda",  # float32 on tensor cores, factors rounded to TensorFloat32
    "cublas": "cuda",
    "cublaslt": "cuda",
}
CONTEXT = 1024  # positions that GPT-2 has, however short the sequences of the training
DEFAULT_DATA_LIMIT = 8_000_000  # bytes
TEMPERATURE = 0.8  # of the sample


class Options(argparse.Namespace):
    """The command line; `--help` says what each one means."""

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
    compile: str  # true or false
    matmul: str
    device: str
    data: str
    tokenizer: str
    seed: int
    learning_rate: float
    sample_tokens: int


def fail(message: str) -> NoReturn:
    """Report a mistake in the options or the data in one line and leave with exit status 2."""
    print("gpt2: error:", *message.split(), file=sys.stderr)
    raise SystemExit(2)


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, without the usage above it."""

    def error(self, message: str) -> NoReturn:
        """Leave as every other mistake does."""
        fail(message)


def at_least(minimum: int) -> Callable[[str], int]:
    """Return the argument type of whole numbers from `minimum` up."""

    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {minimum}, found {text!r}")
        return int(text)

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
    option = parser.add_argument
    shapes = "; ".join("{} {}/{}/{}".format(name, *shape) for name, shape in SIZES.items())
    option("--size", choices=SIZES, default="micro", help=f"layers/heads/channels: {shapes}")
    for part in ("layers", "heads", "channels"):
        option(f"--{part}", type=at_least(0), default=0, help=f"{part} of the model; 0 = as the size says")
    option("--threads", type=at_least(1), default=cores, help="threads of one operation on the CPU")
    option("--batch", type=at_least(1), default=4, help="sequences a step")
    option("--sequence-length", type=at_least(1), default=64, help="tokens a sequence")
    option("--steps", type=at_least(1), default=40, help="training steps, warm-up included")
    option("--warmup-steps", type=at_least(0), default=3, help="first steps, flagged so that no mean counts them")
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
    if options.steps <= options.warmup_steps:
        fail(f"--steps {options.steps}: no step would be left after --warmup-steps {options.warmup_steps}")
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
    if options.device == "cuda" and not torch.cuda.is_available():
        fail("--device cuda: this torch finds no CUDA device (see nvidia-smi and torch.version.cuda)")
    device = torch.device("cuda" if options.device != "cpu" and torch.cuda.is_available() else "cpu")
    choose_matmul(options.matmul, device)
    corpus = read_corpus(options)
    emit_event("environment", environment(options, device, corpus))

    model = build(options, corpus.vocabulary, device)
    emit("counter", name="parameters", value=sum(weight.numel() for weight in model.parameters()), unit="")
    emit("counter", name="flops_per_token", value=flops_per_token(model, options.sequence_length), unit="")
    train(model, corpus, options, device)
    if options.sample_tokens:
        emit_event("sample", sample(model, corpus, options, device))
    # getrusage counts KiB on Linux and bytes on macOS.
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    emit("counter", name="max_memory", value=resident, unit="B")
    if device.type == "cuda":
        emit("counter", name="max_device_memory", value=torch.cuda.max_memory_allocated(), unit="B")
    emit_event("finished", "completed")


def train(model: GPT2, corpus: Corpus, options: Options, device: torch.device) -> None:
    """Run the steps, each timed by itself, and the validations between them."""
    optimizer = adamw(model, options.learning_rate)
    # Validation and sample stay with the plain model (the weights are shared): compiling them too would only wait.
    forward: Callable[[Tensor, Tensor], Tensor] = torch.compile(model) if options.compile == "true" else model
    generator = torch.Generator().manual_seed(options.seed)  # for the batches alone: step s always sees the same
    tokens = options.batch * options.sequence_length
    saw_nan = False
    for step in range(options.steps):
        if options.validate_every and step % options.validate_every == 0:
            validate(model, corpus, options, device, step)
        starts = torch.randint(len(corpus.train) - options.sequence_length, (options.batch,), generator=generator)
        inputs, targets = cut(corpus.train, starts, options.sequence_length, device)
        compiles = options.compile == "true" and step == 0
        if compiles:
            emit_event("compile_start", "torch.compile, within step 0")

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
        if compiles:
            emit_event("compile_end", "torch.compile, within step 0")
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
            emit_event("nan_loss", "the loss is not a finite number", step=step)
    if options.validate_every:
        validate(model, corpus, options, device, options.steps)


@torch.no_grad()
def validate(model: GPT2, corpus: Corpus, options: Options, device: torch.device, step: int) -> None:
    """Emit the mean loss (nats a token) after `step` updates, over the same evenly spaced sequences every time."""
    sequences = options.batch * options.validation_batches
    starts = torch.arange(sequences) * (len(corpus.validation) - options.sequence_length) // sequences
    total = torch.zeros((), dtype=torch.float64)
    for batch in starts.view(options.validation_batches, options.batch):
        with autocast(options, device):
            total += model(*cut(corpus.validation, batch, options.sequence_length, device)).cpu()
    value = finite(total / options.validation_batches)
    count = sequences * options.sequence_length
    emit("eval", step=step, task="validation", metric="loss", value=value, count=count)


@torch.no_grad()
def sample(model: GPT2, corpus: Corpus, options: Options, device: torch.device) -> str:
    """Return text drawn token by token after a newline.

    A draw is the argmax of p / e with exponential e: what torch.multinomial does, which however refuses the NaN of a
    diverged model. The randomness comes from the CPU, so the text depends on threads and device by rounding alone.
    """
    generator = torch.Generator().manual_seed(options.seed)
    tokens = list(corpus.prompt)
    for _ in range(options.sample_tokens):
        window = torch.tensor([tokens[-options.sequence_length :]], device=device)
        with autocast(options, device):
            logits = model(window)
        chances = functional.softmax(logits.double().cpu() / TEMPERATURE, dim=-1)
        race = torch.empty_like(chances).exponential_(generator=generator)
        tokens.append(int((chances / race).argmax()))
    return corpus.decode(tokens[len(corpus.prompt) :])


class LayerNorm(nn.LayerNorm):
    """Layer normalization whose gradients do not depend on the number of threads.

    On a CPU, torch sums the gradients of its weight and bias thread by thread: the one reason, measured on torch 2.13,
    why 1 and 2 threads gave losses that differ (by 5e-7 and more). With the scaling as an operation of its own they
    agree to the last bit, for up to 8 % of a step of the smallest size, 1 to 2 % of `mini`, nothing measurable of 124M.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., channels) to the same shape."""
        if x.is_cuda:
            return super().forward(x)
        return torch.addcmul(self.bias, functional.layer_norm(x, self.normalized_shape), self.weight)


class Block(nn.Module):
    """A pre-LayerNorm transformer layer: causal self-attention, then a GELU MLP of four times the width."""

    def __init__(self, heads: int, channels: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.attention_out = nn.Linear(channels, channels)
        self.norm_2 = LayerNorm(channels)
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
    """GPT-2 as published: learned positions, biases everywhere, a head tied to the token embedding; no dropout."""

    def __init__(self, layers: int, heads: int, channels: int, vocabulary: int, context: int = CONTEXT) -> None:
        super().__init__()
        # Not nn.Embedding: drawing its weight on the meta device would import torch._dynamo (0.9 s).
        self.tokens = nn.Parameter(torch.empty(vocabulary, channels))
        self.positions = nn.Parameter(torch.empty(context, channels))
        self.blocks = nn.ModuleList(Block(heads, channels) for _ in range(layers))
        self.norm = LayerNorm(channels)

    def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """Map tokens (batch, sequence) to the mean loss in nats, or without targets to the last logits (batch, V)."""
        x = functional.embedding(tokens, self.tokens) + self.positions[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        if targets is None:
            return functional.linear(self.norm(x[:, -1]), self.tokens)
        logits = functional.linear(self.norm(x), self.tokens)
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
                deviation = 0.02 / math.sqrt(2 * len(self.blocks)) if joins else 0.02
                nn.init.normal_(weight, std=deviation, generator=generator)


def build(options: Options, vocabulary: int, device: torch.device) -> GPT2:
    """Return the model with its initial weights, which are the same on every device."""
    with torch.device("meta"):  # no time and no memory for the weights that torch would draw
        context = max(CONTEXT, options.sequence_length)
        model = GPT2(options.layers, options.heads, options.channels, vocabulary, context)
    model.to_empty(device="cpu")
    model.initialize(options.seed)
    return model.to(device)


def adamw(model: GPT2, learning_rate: float) -> torch.optim.AdamW:
    """Return AdamW with betas 0.9 and 0.999 and no decay, in one kernel (on a CPU from torch 2.4 on)."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0, fused=True)
    optimizer.step()  # no gradients, no change; but here, not in the first step, torch loads what an update needs
    return optimizer


def flops_per_token(model: GPT2, sequence_length: int) -> int:
    """Return the floating-point operations that training on one token takes: 6 N + 12 L C T.

    PaLM (https://arxiv.org/abs/2204.02311), appendix B, with L layers, C channels and T tokens a sequence. N leaves
    out the position embedding, which is only looked up, but not the tied token embedding: as the head, it is
    multiplied with every token (nanoGPT counts the same way).
    """
    multiplied = sum(weight.numel() for weight in model.parameters()) - model.positions.numel()
    return 6 * multiplied + 12 * len(model.blocks) * model.tokens.shape[1] * sequence_length


@dataclass(frozen=True)
class Corpus:
    """A text as tokens, split by position, and where it came from."""

    train: Tensor  # the first nine tenths, one dimension
    validation: Tensor  # the rest
    vocabulary: int
    prompt: Sequence[int]  # the tokens of a newline
    decode: Callable[[Sequence[int]], str]
    origin: dict[str, object]


def read_corpus(options: Options) -> Corpus:
    """Read and tokenize the text; a file that is missing, unreadable or too short ends the program."""
    paths = [Path(options.data)] if options.data else sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    try:
        text = b"".join(path.read_bytes() for path in paths)
    except OSError as error:
        fail(f"--data {error.filename}: {error.strerror}")
    if not options.data:
        text = text[:DEFAULT_DATA_LIMIT]
    encode, decode, vocabulary = load_tokenizer(options.tokenizer)
    tokens = encode(text) if text else torch.empty(0, dtype=torch.uint8)
    split = len(tokens) * 9 // 10
    train, validation = tokens[:split], tokens[split:]
    for name, part in (("training", train), ("validation", validation)):
        if len(part) <= options.sequence_length:
            source = options.data or "of the standard library"
            need = f"--sequence-length {options.sequence_length} needs {options.sequence_length + 1}"
            fail(f"--data {source}: its {len(tokens)} tokens leave {len(part)} for {name}, and {need}")
    origin = {"files": len(paths), "bytes": len(text), "sha256": hashlib.sha256(text).hexdigest()}
    origin |= {"tokens": len(tokens), "vocabulary": vocabulary}
    return Corpus(train, validation, vocabulary, encode(b"\n").tolist(), decode, origin)


def load_tokenizer(folder: str) -> tuple[Callable[[bytes], Tensor], Callable[[Sequence[int]], str], int]:
    """Return encoder, decoder and vocabulary: of bytes without a folder, else of the GPT-2 tokenizer in it."""
    if not folder:
        return (
            lambda text: torch.frombuffer(bytearray(text), dtype=torch.uint8),
            lambda tokens: bytes(tokens).decode(errors="replace"),
            256,
        )
    # Looked for here, because transformers 5 answers with an empty tokenizer where the files are missing.
    found = [(Path(folder) / name).is_file() for name in ("tokenizer.json", "vocab.json", "merges.txt")]
    if not (found[0] or all(found[1:])):
        fail(f"--tokenizer {folder}: expected a folder with tokenizer.json, or with vocab.json and merges.txt")
    try:
        from transformers import GPT2TokenizerFast  # type: ignore[attr-defined]

        tokenizer = GPT2TokenizerFast.from_pretrained(folder, local_files_only=True)
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a broken file surfaces as a bare Exception from Rust
        fail(f"--tokenizer {folder}: {error}")
    return (
        lambda text: torch.tensor(tokenizer.encode(text.decode(errors="replace"), verbose=False), dtype=torch.int32),
        tokenizer.decode,
        len(tokenizer),
    )


def cut(tokens: Tensor, starts: Tensor, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the sequences at `starts` and the same shifted by one token, both (batch, length) int64."""
    pieces = tokens[starts[:, None] + torch.arange(length + 1)].long().to(device)
    return pieces[:, :-1].contiguous(), pieces[:, 1:].contiguous()


def choose_matmul(choice: str, device: torch.device) -> None:
    """Set how torch computes matrix products; a choice that would change nothing here ends the program."""
    if MATMULS[choice] not in ("", device.type):
        fail(f"--matmul {choice} is for {MATMULS[choice]}, and this run is on {device.type}")
    if choice == "no-onednn":
        torch.backends.mkldnn.enabled = False  # type: ignore[assignment]
    elif choice == "onednn-bf16":
        # Elsewhere torch would ignore the setting without a word.
        if not getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", bool)():
            fail("--matmul onednn-bf16: this torch lacks oneDNN or this CPU the instructions (AVX-512 on x86)")
        torch.set_float32_matmul_precision("medium")
    elif choice == "tf32":
        if torch.cuda.get_device_capability() < (8, 0):
            fail(f"--matmul tf32: {torch.cuda.get_device_name()} has none (compute capability below 8.0)")
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


def environment(options: Options, device: torch.device, corpus: Corpus) -> str:
    """Return what this run stands on, as JSON: versions, device, build of torch, data and all options."""
    built = dict(re.findall(r"\b(BLAS_INFO|USE_MKL|USE_MKLDNN)=(\w+)", torch.__config__.show()))
    built |= {"cpu_capability": torch.backends.cpu.get_cpu_capability(), "cuda": torch.version.cuda}
    facts = {
        "program": "gpt2",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else cpu_name(),
        "threads": torch.get_num_threads(),
        "dtype": options.dtype,
        "build": built,
        "data": corpus.origin,
        "options": vars(options),
    }
    return json.dumps(facts, separators=(",", ":"))


def cpu_name() -> str:
    """Return the model of the CPU; on Linux platform.processor() knows its architecture at best."""
    try:
        model = re.search(r"^model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(errors="replace"), re.MULTILINE)
    except OSError:
        model = None
    return model[1] if model else platform.processor() or platform.machine()


def finite(value: Tensor) -> float | None:
    """Return the number, or None for NaN and infinity, which JSON has no words for."""
    number = value.item()
    return number if math.isfinite(number) else None


def emit(record: str, **columns: object) -> None:
    """Print one row of the table `record`."""
    print(json.dumps({"record": record, **columns}, allow_nan=False), flush=True)


def emit_event(kind: str, message: str, **columns: object) -> None:
    """Print that something happened just now."""
    emit("event", kind=kind, time=time.time(), **columns, message=message)


if __name__ == "__main__":
    main(OPTIONS)
