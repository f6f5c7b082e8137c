import json

import pytest
from said import parameters, records

from hpcbench.parse.content import read_bytes


def counters(content):
    return {record.values["name"]: record.values["value"] for record in records(content) if record.table == "counters"}


def test_a_line_of_json_is_read_though_its_rate_is_a_bare_infinity(corpus):
    content = read_bytes((corpus / "inference/sglang/sglang_pd_local.jsonl").read_bytes())
    assert (content.formats, content.unread, len(records(content))) == (["sglang-bench-jsonl"], 0, 30)
    found = counters(content)
    expected = {
        "completed": 200, "requests_per_second": 22.49436306687912, "output_tokens_per_second": 4831.451771319632,
        "total_tokens_per_second": 12052.704674864503, "ttft_mean": 1.7525851068040357, "max_concurrency": 200,
        "concurrency_mean": 61.30706411779631, "chunk_gap_p95": 0.005469976924359798,
    }  # fmt: skip
    assert expected.items() <= found.items()
    assert "request_rate" not in found


BLOCK = """============ Serving Benchmark Result ============
Backend:                                 {backend}
Traffic request rate:                    inf
Max request concurrency:                 not set
Successful requests:                     64
Benchmark duration (s):                  15.50
Total generated tokens:                  101
Total generated tokens (retokenized):    89
Input token throughput (tok/s):          1370.25
Output token throughput (tok/s):         6.60
Concurrency:                             49.12
----------------End-to-End Latency----------------
Mean E2E Latency (ms):                   11746.50
---------------Inter-Token Latency----------------
Mean ITL (ms):                           8132.50
Max ITL (ms):                            13753.25
==================================================
"""


@pytest.mark.parametrize("backend", ["sglang", "vllm"])  # it measures vLLM as well
def test_the_block_that_names_its_backend_is_sglangs(backend):
    content = read_bytes(BLOCK.format(backend=backend).encode())
    assert (content.formats, content.unread) == (["sglang-bench"], 0)
    assert counters(content) == {
        "completed": 64, "duration": 15.5, "output_tokens": 101, "output_tokens_retokenized": 89,
        "input_tokens_per_second": 1370.25, "output_tokens_per_second": 6.6, "concurrency_mean": 49.12,
        "latency_mean": 11.7465, "chunk_gap_mean": 8.1325, "chunk_gap_max": 13.75325,
    }  # fmt: skip


def test_vllms_block_is_not_taken(corpus):
    for file in ("excerpts/vllm_bench_pr18566_console.txt", "inference/vllm_json/vllm_bench_serve_all_failed.json"):
        assert not set(read_bytes((corpus / file).read_bytes()).formats) & {"sglang-bench", "sglang-bench-jsonl"}


def test_what_a_real_server_says_of_itself_is_its_parameters(corpus):
    data = (corpus / "inference/sglang/sglang_pd_local.jsonl").read_bytes()
    assert parameters(data) == {
        "backend": "sglang", "model": "Qwen/Qwen2.5-3B-Instruct", "concurrency": 200, "request_rate": "inf",
        "tensor_parallel": 1, "pipeline_parallel": 1, "data_parallel": 1,
    }  # fmt: skip


def test_a_sweep_in_one_file_is_told_apart_by_its_load(corpus):
    line = json.loads((corpus / "inference/sglang/sglang_pd_local.jsonl").read_bytes())
    text = "".join(f"{json.dumps({**line, 'max_concurrency': load})}\n" for load in (1, 2, 4, 8))
    found = [record.values for record in records(read_bytes(text.encode())) if record.values["name"] == "completed"]
    assert [(row["concurrency"], "part" in row) for row in found] == [(1, False), (2, False), (4, False), (8, False)]
    assert "concurrency" not in parameters(text)


@pytest.mark.parametrize(("rate", "expected"), [("inf", {"request_rate": "inf"}), ("4.0", {"request_rate": 4})])
def test_the_block_says_its_load(rate, expected):
    assert parameters(BLOCK.format(backend="sglang").replace("inf", rate)) == expected


def test_two_blocks_in_a_file_are_two_parts():
    content = read_bytes(BLOCK.format(backend="sglang").encode() * 2)
    parts = [record.values["part"] for record in records(content) if record.values["name"] == "completed"]
    assert parts == [1, 2]
