"""MMLU against lm-evaluation-harness: the same folder of a model, the same questions, the same machine, in turn.

measure.py --peers PYTHON --data FOLDER [--rounds 3] [--same | --device]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

HERE = Path(__file__).parent
MODELS = HERE.parents[1] / ".venv-peers-mmlu" / "models"
BATCHES = ("1", "2", "4", "8", "16")


@dataclass(frozen=True)
class Took:
    """What one run took: seconds of scoring and of the whole process, peak memory in bytes, scores by subject."""

    scoring: float
    process: float
    peak: float
    scores: dict[str, list[list[float]]]
    tokens: int = 0


def hpcbench(
    model: Path, data: Path, subjects: str, *, shots: int = 5, limit: int = 0, options: Sequence[str] = ()
) -> Took:
    """Run the program as a job does."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "mmlu").symlink_to(HERE.parents[1] / "hpcbench" / "workloads" / "mmlu")
        argv = [
            sys.executable, "-B", "-m", "mmlu", f"--model={model}", f"--data={data}", f"--subjects={subjects}",
            f"--shots={shots}", f"--limit={limit}", "--dtype=float32", *options,
        ]  # fmt: skip
        began = time.monotonic()
        done = _run(argv, cwd=folder)
        whole = time.monotonic() - began
        rows = [json.loads(line) for line in done.stdout.splitlines()]
        scores: dict[str, list[list[float]]] = {name: [] for name in subjects.split(",")}
        answers = [json.loads(line) for line in (Path(folder) / "answers.jsonl").read_text().splitlines()]
        for row in sorted(answers, key=lambda row: int(row["number"])):
            scores[row["subject"]].append([row[f"score_{letter}"] for letter in "abcd"])
    for row in rows:
        if row.get("kind") == "note":
            print("note:", row["message"], file=sys.stderr)
    counters = {row["name"]: row["value"] for row in rows if row["record"] == "counter"}
    scoring = len(answers) / counters["questions_per_second"]
    return Took(scoring, whole, counters["max_memory"], scores, int(counters["computed_tokens"]))


def harness(
    python: str, model: Path, data: Path, subjects: str, *, shots: int = 5, batch: str = "8", limit: int = 0
) -> Took:
    """Run lm-evaluation-harness by its own Python."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "scores.json"
        threads = str(len(os.sched_getaffinity(0)))
        argv = [python, str(HERE / "harness.py"), str(model), str(data), subjects, str(shots), batch, str(limit)]
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        began = time.monotonic()
        done = _run([*argv, threads, str(output)], env=environment)
        whole = time.monotonic() - began
        told = json.loads(done.stdout.splitlines()[-1])
        return Took(told["scoring"], whole, told["peak"], json.loads(output.read_text()))


def _run(argv: Sequence[str], **options: object) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, **options)
    if done.returncode:
        sys.exit(f"{argv[1]} ended with status {done.returncode}:\n{done.stderr[-2000:]}")
    return done


def warm(model: Path) -> None:
    """Read the model's files, so that whoever comes first does not wait for the disk."""
    for file in model.iterdir():
        file.read_bytes()


def compare(ours: Took, theirs: Took) -> str:
    """Hold predictions and log-likelihoods against each other; ties are where two choices are equally likely."""
    count = other = 0
    ties: list[str] = []
    most = 0.0
    for subject, rows in theirs.scores.items():
        for number, (one, two) in enumerate(zip(ours.scores[subject], rows, strict=True)):
            count += 1
            most = max(most, *(abs(a - b) for a, b in zip(one, two, strict=True)))
            best, second = sorted(two)[:-3:-1]
            if one.index(max(one)) != two.index(max(two)):
                other += 1
                ties += [f"{subject} {number}"] if best - second < 1e-5 else []
    named = f" ({', '.join(ties)}: ties)" if ties else ""
    return f"{count - other} of {count} predictions the same{named}, log-likelihoods within {most:.1e}"


def matmul_rate() -> float:
    """Return the FLOP/s of a float32 product as the model has most of: (256, 768) by (768, 2048)."""
    import torch

    left, right = torch.randn(256, 768), torch.randn(768, 2048)
    for _ in range(50):
        left @ right
    best = 0.0
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(200):
            left @ right
        best = max(best, 200 * 2 * 256 * 768 * 2048 / (time.perf_counter() - began))
    return best


def floor(model: Path, data: Path, subjects: str) -> tuple[int, float]:
    """Return how many tokens of all 5-shot prompts are distinct as beginnings, and the FLOPs that these take.

    Of a token 2 for each weight of the layers and 4 for each channel, layer and token before it (Kaplan et al. 2020,
    arXiv:2001.08361, table 1); of a question 2 for each weight of the head.
    """
    from transformers import AutoConfig, AutoTokenizer

    from hpcbench.workloads.mmlu.prompts import put
    from hpcbench.workloads.mmlu.questions import read

    config, tokenizer = AutoConfig.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    width, layers = config.hidden_size, config.num_hidden_layers
    weights = layers * (4 * width * width + 3 * width * config.intermediate_size)
    seen: set[tuple[int, int]] = set()  # a node of the tree of beginnings: its parent, its token
    nodes: dict[tuple[int, int], int] = {}
    flops = 0.0
    for subject in read(str(data), subjects):
        texts = [put("harness", question, subject.shots).text for question in subject.asked]
        for tokens in tokenizer(texts)["input_ids"]:
            at = 0
            for depth, token in enumerate(tokens):
                key = (at, token)
                if key not in seen:
                    seen.add(key)
                    nodes[key] = len(nodes) + 1
                    flops += 2 * weights + 4 * layers * width * (depth + 1)
                at = nodes[key]
            flops += 2 * width * config.vocab_size
    return len(seen), flops


def _best_batch(python: str, model: Path, data: Path, subjects: str) -> str:
    """Return the batch size at which lm_eval is fastest on a part of the questions."""
    warm(model)
    pilot = {batch: harness(python, model, data, subjects, batch=batch, limit=16).scoring for batch in BATCHES}
    told = ", ".join(f"batch {batch} {took:.1f} s" for batch, took in pilot.items())
    print(f"lm_eval, 16 questions of each subject: {told}", flush=True)
    return min(pilot, key=pilot.__getitem__)


def main() -> None:
    """Print the tables of README.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", required=True, help="Python of an environment with lm_eval")
    parser.add_argument("--data", required=True, type=Path, help="folder of CSV files with a head")
    parser.add_argument("--subjects", default="abstract_algebra,astronomy,business_ethics")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", help="of lm_eval; without it the best for a part of the questions is found")
    parser.add_argument("--same", action="store_true", help="whether the answers are the same, of small models")
    options = parser.parse_args()
    sys.path.insert(0, str(HERE))
    import models

    if options.same:
        print("| model | shots | against lm-evaluation-harness |\n|---|---|---|")
        for name in ("llama", "llama-trained", "gpt2", "gpt2-trained"):
            model = models.write(MODELS, name, options.data)
            for shots in (0, 5):
                ours = hpcbench(model, options.data, options.subjects, shots=shots)
                theirs = harness(options.peers, model, options.data, options.subjects, shots=shots)
                print(f"| {name} | {shots} | {compare(ours, theirs)} |", flush=True)
        return
    model = models.write(MODELS, "llama-110M", options.data)
    best = options.batch or _best_batch(options.peers, model, options.data, options.subjects)
    distinct, flops = floor(model, options.data, options.subjects)
    ours, theirs, rates = [], [], []
    for _ in range(options.rounds):
        warm(model)
        rates.append(matmul_rate())
        ours.append(hpcbench(model, options.data, options.subjects))
        warm(model)
        rates.append(matmul_rate())
        theirs.append(harness(options.peers, model, options.data, options.subjects, batch=best))
        print(compare(ours[-1], theirs[-1]), f"{ours[-1].scoring:.1f} s, {theirs[-1].scoring:.1f} s", flush=True)
    bound = flops / median(rates)
    print(f"\n{distinct:,} distinct tokens, {ours[0].tokens:,} computed; {flops / 1e12:.2f} TFLOP, "
          f"{median(rates) / 1e9:.0f} GFLOP/s: {bound:.1f} s at least\n")  # fmt: skip
    print("| | scoring s | × hpcbench | × the floor | whole process s | × hpcbench | peak MB |")
    print("|---|---|---|---|---|---|---|")
    base = median(each.scoring for each in ours), median(each.process for each in ours)
    for title, runs in (("hpcbench", ours), (f"lm_eval, batch {best}", theirs)):
        scoring, process = median(each.scoring for each in runs), median(each.process for each in runs)
        pairs = [other.scoring / own.scoring for own, other in zip(ours, runs, strict=True)]
        spread = f"{median(pairs):.2f} ({min(pairs):.2f}–{max(pairs):.2f})"
        peak = median(each.peak for each in runs) / 1e6
        print(f"| {title} | {scoring:.1f} | {spread} | {scoring / bound:.2f} | {process:.1f} | "
              f"{process / base[1]:.2f} | {peak:.0f} |")  # fmt: skip


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
