"""The clients that are held against the truth: how each is run, and what it says of each request."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hpcbench.inference import prompts
from hpcbench.inference.server import prompt_key

WARMUP = 2  # requests that come first and do not count, as hpcbench has it
RAMP = 0.004  # seconds between the opening of two streams, likewise
TOKENIZER = "local/tiny"


@dataclass(frozen=True)
class Load:
    """What each contender is asked for."""

    streams: int
    rate: int  # tokens a second of each stream
    tokens: int = 64  # of each request

    @property
    def requests(self) -> int:
        return max(64, 4 * self.streams)

    @property
    def ramp(self) -> float:
        return RAMP * self.streams


@dataclass(frozen=True)
class Place:
    """Where a contender runs: an empty folder, the server, the prompts and, where it needs one, a tokenizer."""

    folder: Path
    url: str
    prompts: Path  # one a line
    hub: Path  # as the Hugging Face hub keeps what was fetched from it

    @property
    def environment(self) -> dict[str, str]:
        home = {f"XDG_{name}_HOME": str(self.folder / name.lower()) for name in ("CONFIG", "CACHE")}
        return {**os.environ, **home, "HF_HUB_CACHE": str(self.hub), "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


@dataclass(frozen=True)
class Told:
    """What a contender says of one request: its prompt's key, and seconds; `started` is of the monotonic clock."""

    prompt: str
    started: float
    ttft: float
    latency: float


@dataclass(frozen=True)
class Contender:
    """One client: `command` also writes the files that it wants, `read` reads those that it has written."""

    name: str
    command: Callable[[Place, Load], list[str]]
    read: Callable[[Place], Iterator[Told]]


def contenders(peers: str | None) -> list[Contender]:
    """Return hpcbench, and what runs in the environment of the Python `peers`."""
    found = [Contender("hpcbench", _hpcbench, _read_hpcbench)]
    if peers:
        there = str(Path(peers).parent)
        found += [
            Contender("guidellm", lambda place, load: [f"{there}/guidellm", *_guidellm(place, load)], _read_guidellm),
            Contender("aiperf", lambda place, load: [f"{there}/aiperf", *_aiperf(place, load)], _read_aiperf),
            Contender("`openai` SDK, asyncio", lambda place, load: [peers, *_plain(place, load)], _read_plain),
        ]
    return found


def _hpcbench(place: Place, load: Load) -> list[str]:
    (place.folder / "sites").mkdir()
    site = f"title: A server that knows the truth\nendpoint: {{base_url: {place.url}, model: tiny}}\n"
    (place.folder / "sites" / "truth.yaml").write_text(site)
    return [
        sys.executable, "-m", "hpcbench", "submit", "--site", "truth", "--benchmark", "chat", "--wait",
        f"--prompts={place.prompts}", f"--concurrency={load.streams}", f"--requests={load.requests}",
        f"--max-tokens={load.tokens}", f"--warmup={WARMUP}",
    ]  # fmt: skip


def _read_hpcbench(place: Place) -> Iterator[Told]:
    (file,) = place.folder.glob("logs/*/*/requests.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    asked = prompts.make("chat", {"prompts": str(place.prompts), "seed": 1}, len(rows))
    for row in rows:
        if row["phase"] == "measured" and not row["error"]:
            ((_, text),) = asked[row["request"]].messages
            yield Told(prompt_key(text), row["started"] - _epoch(), row["ttft"], row["latency"])


def _guidellm(place: Place, load: Load) -> list[str]:
    """It has no warm-up that comes before; that of others is of two requests, one after the other."""
    data = place.folder / "prompts.jsonl"
    lines = place.prompts.read_text().splitlines()[WARMUP:]
    data.write_text("".join(f"{json.dumps({'prompt': line})}\n" for line in lines))
    return [
        "run", "--disable-console-interactive",
        "--backend", f"kind=openai_http,target={place.url},model=tiny,max_tokens={load.tokens}",
        "--profile", f"kind=concurrent,streams={load.streams},rampup_duration={load.ramp}",
        "--constraint", f"kind=max_requests,count={load.requests}",
        "--tokenizer", f"kind=huggingface_auto,model={snapshot(place.hub)}",
        "--data", f"kind=json_file,path={data}",
        "--output", f"kind=json,path={place.folder / 'report.json'}",
    ]  # fmt: skip


def _read_guidellm(place: Place) -> Iterator[Told]:
    (found,) = json.loads((place.folder / "report.json").read_text())["benchmarks"]
    for each in found["requests"]["successful"]:
        (message,) = json.loads(each["request_args"])["body"]["messages"]
        times = each["info"]["timings"]
        start = times["request_start"]
        first, last = times["first_token_iteration"] - start, times["last_token_iteration"] - start
        yield Told(prompt_key(message["content"][0]["text"]), start - _epoch(), first, last)


def _aiperf(place: Place, load: Load) -> list[str]:
    """Tokens are counted by the server, as the others have it."""
    data = place.folder / "prompts.jsonl"
    lines = place.prompts.read_text().splitlines()
    data.write_text("".join(f"{json.dumps({'text': line})}\n" for line in lines))
    return [
        "profile", "--model=tiny", f"--url={place.url.removesuffix('/v1')}", "--endpoint-type=chat", "--streaming",
        f"--input-file={data}", "--custom-dataset-type=single_turn", "--dataset-sampling-strategy=sequential",
        f"--concurrency={load.streams}", f"--concurrency-ramp-duration={load.ramp}",
        f"--request-count={load.requests}", f"--warmup-request-count={WARMUP}",
        f"--extra-inputs=max_tokens:{load.tokens}", f"--tokenizer={TOKENIZER}", "--use-server-token-count",
        "--no-gpu-telemetry", "--no-server-metrics", "--ui-type=none", f"--output-artifact-dir={place.folder}",
    ]  # fmt: skip


def _read_aiperf(place: Place) -> Iterator[Told]:
    """Its latency is until the last piece of the stream, which the server sends together with the last token."""
    sessions = json.loads((place.folder / "inputs.json").read_text())["data"]
    texts = {each["session_id"]: each["payloads"][0]["messages"][0]["content"] for each in sessions}
    for line in (place.folder / "profile_export.jsonl").read_text().splitlines():
        row = json.loads(line)
        about, metrics = row["metadata"], row["metrics"]
        if about["benchmark_phase"] == "profiling" and not row.get("error"):
            first, last = (metrics[name]["value"] / 1e3 for name in ("time_to_first_token", "request_latency"))
            start = about["request_start_ns"] / 1e9 - _epoch()
            yield Told(prompt_key(texts[about["conversation_id"]]), start, first, last)


def _plain(place: Place, load: Load) -> list[str]:
    numbers = (load.streams, WARMUP, load.ramp, load.tokens)
    return [str(Path(__file__).with_name("plain.py")), place.url, str(place.prompts), *map(str, numbers)]


def _read_plain(place: Place) -> Iterator[Told]:
    for line in (place.folder / "stdout").read_text().splitlines():
        row = json.loads(line)
        yield Told(prompt_key(row["prompt"]), row["start"], row["ttft"], row["latency"])


def make_hub(hub: Path) -> None:
    """Make what guidellm and aiperf insist on: the tokenizer of a model, as if it had been fetched from the hub."""
    from hpcbench.inference.embedded import make_model

    folder = snapshot(hub)
    folder.parent.mkdir(parents=True)
    make_model(folder)
    refs = folder.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(folder.name)


def snapshot(hub: Path) -> Path:
    """Return the folder that holds the tokenizer."""
    return hub / f"models--{TOKENIZER.replace('/', '--')}" / "snapshots" / f"{1:040d}"


def _epoch() -> float:
    """Return when the monotonic clock was at zero, in Unix seconds."""
    return time.time() - time.monotonic()
