import json

import pytest
import written
from said import parameters, read, records

from hpcbench.parse.content import read_bytes


def test_responses_inside_a_page_are_requests(corpus):
    content = read_bytes((corpus / "inference/ollama/ollama_generate_json_demo.md").read_bytes())
    assert (content.formats, content.unread) == (["ollama"], 0)
    assert [(record.table, record.line, record.values) for record in records(content)] == [
        (
            "requests",
            line,
            {
                "model": "gpt-oss:20b", "input_tokens": 81, "output_tokens": tokens, "server_latency": time,
                "server_started": pytest.approx(ended - time, abs=1e-6),
                "server_finished": pytest.approx(ended, abs=1e-6),
            },
        )
        for line, tokens, time, ended in (
            (17, 104, 0.502221716, 1757454671.077965361), (46, 77, 0.501412829, 1757454672.130788847),
        )
    ]  # fmt: skip


def test_the_model_is_a_parameter_where_all_responses_name_the_same(corpus):
    data = (corpus / "inference/ollama/ollama_generate_json_demo.md").read_bytes()
    assert parameters(data) == {"model": "gpt-oss:20b"}
    assert parameters(data.replace(b'"model": "gpt-oss:20b",\n  "c', b'"model": "m",\n  "c', 1)) == {}


@pytest.mark.parametrize(("text", "seconds"), [
    ("2025-10-17T23:14:07.414671Z", 1760742847.414671),
    ("2025-10-17T23:14:07.5Z", 1760742847.5),
    ("2025-10-17T23:14:07Z", 1760742847),
    ("2025-10-17T16:14:07.414671123-07:00", 1760742847.414671123),
])  # fmt: skip
def test_a_request_ends_when_its_response_was_made(text, seconds):
    response = {"model": "m", "created_at": text, "done": True, "total_duration": 250000000, "eval_count": 2}
    [record] = read("ollama", json.dumps(response))[0]
    times = (record.values["server_started"], record.values["server_finished"])
    assert times == pytest.approx((seconds - 0.25, seconds), abs=1e-6, rel=0)


@pytest.mark.parametrize("stamp", ["yesterday", "2025-02-31T00:00:00Z", 5, None])
def test_an_odd_stamp_costs_only_itself(stamp):
    response = {"model": "m", "created_at": stamp, "total_duration": 250000000, "eval_count": 2}
    [record] = read("ollama", json.dumps(response))[0]
    assert record.values == {"model": "m", "server_latency": 0.25, "output_tokens": 2}


def test_what_verbose_prints_is_a_request(corpus):
    content = read_bytes((corpus / "inference/ollama/ollama_verbose_qwen2.5_7b_4060Ti.md").read_bytes())
    assert (content.formats, content.unread) == (["ollama-verbose"], 0)
    assert [(record.line, record.values) for record in records(content)] == [
        (35, {
            "server_latency": 6.8323566, "server_load_time": 0.0190565, "input_tokens": 36,
            "server_prefill_time": 0.154, "server_prefill_tokens_per_second": 233.77, "output_tokens": 312,
            "server_decode_time": 6.394, "server_decode_tokens_per_second": 48.80,
        })
    ]  # fmt: skip


def test_a_stream_has_its_numbers_in_the_last_line():
    last = {"model": "m", "done": True, "total_duration": 2500000000, "eval_count": 100, "eval_duration": 2000000000}
    text = '{"model": "m", "response": "a", "done": false}\n' * 2 + json.dumps(last)
    found, unread = read("ollama", text)
    assert ([record.line for record in found], unread) == ([3], 0)
    assert found[0].values["server_decode_tokens_per_second"] == 50


@pytest.mark.parametrize(("text", "seconds"), [
    ("1m2.5s", 62.5), ("1h2m3s", 3723), ("950µs", 0.00095), ("500ns", 5e-7), ("19.0565ms", 0.0190565),
])  # fmt: skip
def test_durations_are_read_as_go_writes_them(text, seconds):
    block = f"total duration:       {text}\neval count: 10 token(s)\neval duration: 1s\n"
    found, _ = written.read("ollama-verbose", block)
    assert found[0].values["server_latency"] == pytest.approx(seconds, rel=1e-15)


@pytest.mark.parametrize("text", [
    "total duration: 2 weeks\n",
    "total duration:       6.8s\nWe were happy.\neval duration: 2s\n",
    "The total duration: 6.8s of the run\n",
    '{"total_duration": 5, "name": "a build"}',
])  # fmt: skip
def test_other_texts_are_none(text):
    assert read_bytes(text.encode()).formats == []


@pytest.mark.parametrize("end", ["eval count:   31", "eval duration:   1m"])  # of 1m2.5s
def test_a_block_that_was_cut_is_counted(end):
    assert written.read("ollama-verbose", f"total duration:  6.8s\nload duration:  19ms\n{end}") == ([], 1)
