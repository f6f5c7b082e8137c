"""A real llama.cpp server, by llama-cpp-python where that is installed (it compiles for ten minutes)."""

import json
import subprocess
import sys
import urllib.request

import numpy as np
import pytest
import toy
from toy import hpcbench, until

pytest.importorskip("llama_cpp.server", reason="llama-cpp-python[server] is not installed")
gguf = pytest.importorskip("gguf", reason="gguf is not installed")

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "in",
    "is",
    "that",
    "it",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "have",
    "from",
    "or",
    "had",
    "by",
]
WIDTH, HEADS, INNER = 64, 4, 128


def make_model(file) -> None:
    """Write a Llama of one layer and random weights that says plain words and never ends by itself."""
    draw = np.random.default_rng(0)
    kinds = gguf.TokenType
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *(f"▁{word}" for word in WORDS)]
    special = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL, *[kinds.BYTE] * 256]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(4096)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(place) for place in range(len(tokens))])
    writer.add_token_types([*special, *[kinds.NORMAL] * len(WORDS)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template("{% for message in messages %}{{ message['content'] }}{% endfor %}")
    shapes = {
        "token_embd": (len(tokens), WIDTH), "output": (len(tokens), WIDTH), "output_norm": (WIDTH,),
        **{f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (INNER, WIDTH), "blk.0.ffn_up": (INNER, WIDTH), "blk.0.ffn_down": (WIDTH, INNER),
        "blk.0.attn_norm": (WIDTH,), "blk.0.ffn_norm": (WIDTH,),
    }  # fmt: skip
    for name, shape in shapes.items():
        weights = draw.standard_normal(shape).astype(np.float32) * 0.2
        if name == "output":
            weights[: len(special)] = 0.0  # a logit of 0 is not the largest
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32) if len(shape) == 1 else weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    make_model(folder / "tiny.gguf")
    port = toy.free_port()
    options = ["--model", "tiny.gguf", "--host", "127.0.0.1", "--port", f"{port}", "--n_ctx", "4096"]
    argv = [sys.executable, "-m", "llama_cpp.server", *options, "--interrupt_requests", "false"]
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(argv, cwd=folder, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}/v1"

    def answers() -> bool:
        try:
            return urllib.request.urlopen(f"{address}/models", timeout=1).status == 200
        except OSError:
            return False

    try:
        until(answers, 60)
        yield address
    finally:
        server.kill()
        server.wait()


@pytest.mark.parametrize("stream", ["true", "false"])
def test_it_is_measured_streaming_and_not(url, stream, tmp_path):
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "llama.yaml").write_text(
        f"title: llama.cpp\nendpoint: {{base_url: '{url}', model: tiny.gguf}}\n"
    )
    size = ("--input-tokens", "32", "--max-tokens", "40", "--requests", "12", "--concurrency", "3", "--stream", stream)
    hpcbench("submit", "--site", "llama", "--benchmark", "chat", *size, "--name", "r", "--wait", cwd=tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "logs" / "r" / "001" / "requests.jsonl").read_text().splitlines()]
    assert len(rows) == 14
    assert all(row["error"] == "" and row["output_tokens"] == 40 for row in rows)
    assert all(("ttft" in row) is (stream == "true") for row in rows)
