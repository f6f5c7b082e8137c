import json

import pytest
import written
from said import parameters, records

from hpcbench.parse.content import read_bytes

FOLDER = "inference/vllm_json"


def counters(found):
    return {record.values["name"]: record.values["value"] for record in found if record.table == "counters"}


def rows(found, table):
    return [record.values for record in found if record.table == table]


def test_the_json_of_a_run_gives_each_number_in_seconds_and_its_line(corpus):
    data = (corpus / FOLDER / "vllm_bench_serve_v0.25.1_opt125m.json").read_bytes()
    content = read_bytes(data)
    assert (content.formats, content.unread) == (["vllm-bench-json"], 0)
    found = counters(records(content))
    assert len(found) == 25
    expected = {
        "completed": 8, "failed": 0, "requests": 8, "max_concurrency": 2, "input_tokens": 256, "output_tokens": 128,
        "duration": 1.5441598830002476, "requests_per_second": 5.180810671273421,
        "output_tokens_per_second": 82.89297074037474, "ttft_mean": 0.21553594200008774,
        "ttft_p99": 0.7344049174101428, "chunk_gap_median": 0.010492878499917424, "peak_concurrency": 6,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    lines = {record.values["name"]: record.line for record in records(content)}
    assert (lines["completed"], lines["ttft_mean"], lines["total_tokens_per_second"]) == (4, 15, 35)
    assert "request_rate" not in found  # without limit


def test_means_of_a_run_in_which_all_failed_are_unknown(corpus):
    found, unread = written.read("vllm-bench-json", (corpus / FOLDER / "vllm_bench_serve_all_failed.json").read_bytes())
    values = counters(found)
    assert (values["completed"], values["failed"], values["requests_per_second"], unread) == (0, 8, 0, 0)
    assert not [name for name in values if name.startswith(("ttft", "tpot", "chunk_gap"))]


@pytest.mark.parametrize(("file", "count", "expected", "first_line"), [
    (
        "inference/vllm_console/vllm_bench_h100_minimax_i512_o256.log", 23,
        {"completed": 1000, "failed": 0, "max_concurrency": 8, "duration": 327.03, "requests_per_second": 3.06,
         "output_tokens_per_second": 782.80, "ttft_mean": 0.12534, "chunk_gap_p99": 0.01091, "tpot_p95": 0.00995}, 146,
    ),
    (
        "excerpts/vllm_bench_pr18566_console.txt", 16,
        {"requests_per_second": 32.42, "output_tokens_per_second": 6582.87, "total_tokens_per_second": 14029.44,
         "ttft_mean": 9.62613, "chunk_gap_p99": 0.21435}, 2,
    ),
])  # fmt: skip
def test_the_printed_block_is_read_whole(corpus, file, count, expected, first_line):
    content = read_bytes((corpus / file).read_bytes())
    assert (content.formats, content.unread) == (["vllm-bench"], 0)
    found = records(content)
    assert (len(found), found[0].line) == (count, first_line)
    assert expected.items() <= counters(found).items()


RESULT = {
    "backend": "vllm", "model_id": "m", "completed": 2, "failed": 1, "request_rate": 4.0, "request_throughput": 1.5,
    "mean_ttft_ms": 20.5, "p50_ttft_ms": 20.0, "median_ttft_ms": 20.0, "p99.9_ttft_ms": 30.5, "mean_tpot_ms": 0.0,
    "median_tpot_ms": 0.0, "p99_tpot_ms": 0.0, "mean_e2el_ms": 400.0,
}  # fmt: skip


def test_a_sweep_appended_to_one_file_is_told_apart_by_its_load():
    loads = [{"max_concurrency": 1, "request_rate": "inf"}, {"max_concurrency": 2, "request_rate": 8.0}]
    text = "".join(f"{json.dumps({**RESULT, **load})}\n" for load in loads)
    found = [row for row in rows(records(read_bytes(text.encode())), "counters") if row["name"] == "ttft_mean"]
    assert [(row["concurrency"], row.get("request_rate"), "part" in row) for row in found] == [
        (1, None, False), (2, 8, False),
    ]  # fmt: skip
    assert parameters(text) == {"backend": "vllm", "model": "m"}


def test_blocks_of_one_log_are_told_apart_by_their_load():
    load = "Maximum request concurrency:             {}         \nRequest rate configured (RPS):           2.00      \n"
    text = "".join(BLOCK + load.format(number) + "=" * 50 + "\n" for number in (1, 2))
    found = [row for row in rows(records(read_bytes(text.encode())), "counters") if row["name"] == "completed"]
    assert [(row["concurrency"], row["request_rate"], "part" in row) for row in found] == [(1, 2, False), (2, 2, False)]
    assert parameters(text) == {"request_rate": 2}


@pytest.mark.parametrize(("file", "expected"), [
    ("inference/vllm_json/vllm_bench_serve_v0.25.1_opt125m.json",
     {"backend": "vllm", "model": "facebook/opt-125m", "concurrency": 2, "request_rate": "inf"}),
    ("inference/vllm_json/vllm_bench_serve_all_failed.json",
     {"backend": "vllm", "model": "facebook/opt-125m", "request_rate": "inf"}),
    ("inference/vllm_console/vllm_bench_h100_minimax_i512_o256.log",
     {"backend": "openai-chat", "model": "/userdata/llms/MiniMax/MiniMax-M2.5", "concurrency": 8, "request_rate": "inf",
      "input_tokens": 512, "output_tokens": 256}),
    ("excerpts/vllm_bench_pr18566_console.txt", {}),
])  # fmt: skip
def test_what_a_real_run_says_of_itself_is_its_parameters(corpus, file, expected):
    assert parameters((corpus / file).read_bytes()) == expected


def test_lengths_are_parameters_of_random_prompts_alone():
    words = "dataset_name='{}', random_input_len=512, random_output_len=256, input_len={}, model='m')\n"
    for dataset, own, expected in (("random", None, 512), ("random", 64, 64), ("sharegpt", None, None)):
        text = f"Namespace(subparser='bench', {words.format(dataset, own)}{BLOCK}"
        assert parameters(text).get("input_tokens") == expected
    assert parameters(f"The line Namespace(model='m') is no argument of it\n{BLOCK}") == {}


def test_results_appended_to_one_file_are_numbered_and_keep_their_lines():
    content = read_bytes(f"{json.dumps(RESULT)}\n{json.dumps(RESULT)}\n".encode())
    assert content.formats == ["vllm-bench-json"]
    found = records(content)
    assert [(r.line, r.values["part"], r.values["value"]) for r in found if r.values.get("name") == "ttft_mean"] == [
        (1, 1, 0.0205), (2, 2, 0.0205),
    ]  # fmt: skip
    values = counters(found)
    assert (values["request_rate"], values["ttft_p99.9"], values["latency_mean"]) == (4, 0.0305, 0.4)
    assert "tpot_mean" not in values  # no answer had two tokens


def test_a_result_that_was_cut_is_counted_and_gives_nothing():
    content = read_bytes(f"{json.dumps(RESULT)}\n{json.dumps(RESULT)[:-20]}\n".encode())
    assert {record.line for record in records(content)} == {1}
    assert content.unread == 1


@pytest.mark.parametrize(("failed", "message"), [
    (0, []), (1, ["1 request failed"]), (98, ["98 requests failed"]), (-1, []), ("x", []),
])  # fmt: skip
def test_requests_that_failed_are_an_event_where_they_are_counted(failed, message):
    text = json.dumps({**RESULT, "failed": failed}, indent=1)
    found = [record for record in records(read_bytes(text.encode())) if record.table == "events"]
    assert [record.values for record in found] == [{"kind": "failed", "message": each} for each in message]
    assert all('"failed"' in text.splitlines()[record.line - 1] for record in found)
    block = BLOCK + f"Failed requests:                         {failed}        \n" + "=" * 50 + "\n"
    found = [record for record in records(read_bytes(block.encode())) if record.table == "events"]
    assert [(record.line, record.values["message"]) for record in found] == [(3, each) for each in message]


def test_details_give_each_request():
    details = {
        "ttfts": [0.25, 0.0, 0.5], "itls": [[0.25, 0.5], [], []], "input_lens": [10, 11, 12],
        "output_lens": [3, 0, 1], "errors": ["", "Service Unavailable", ""], "start_times": [7.0, 8.0, 9.0],
    }  # fmt: skip
    found, unread = written.read("vllm-bench-json", json.dumps({**RESULT, **details}))
    assert unread == 0
    assert rows(found, "requests") == [
        {"status": "completed", "input_tokens": 10, "started": 7, "output_tokens": 3, "ttft": 0.25, "latency": 1,
         "tpot": 0.375},
        {"status": "failed", "input_tokens": 11, "started": 8, "error": "Service Unavailable"},
        {"status": "completed", "input_tokens": 12, "started": 9, "output_tokens": 1, "ttft": 0.5, "latency": 0.5},
    ]  # fmt: skip


BLOCK = "============ Serving Benchmark Result ============\nSuccessful requests:                     20        \n"


@pytest.mark.parametrize("end", [
    "Mean TTFT (ms):                          120.2",
    "Mean TTFT (ms):                          120.25",  # the number may go on
    "Mean TTFT (ms):                          ",
])  # fmt: skip
def test_a_line_cut_short_gives_no_number(end):
    found, unread = written.read("vllm-bench", BLOCK + end)
    assert (list(counters(found)), unread) == (["completed"], 1)


def test_a_time_printed_as_zero_was_not_measured():
    found, _ = written.read("vllm-bench", BLOCK + "Mean ITL (ms):      0.00      \nP99 ITL (ms):      0.00      \n")
    assert list(counters(found)) == ["completed"]


@pytest.mark.parametrize("prefix", ["# ", "> ", "[rank0]: ", "\x1b[32m"])
def test_what_stands_before_a_line_does_no_harm(prefix):
    block = "".join(f"{prefix}{line}\n" for line in (BLOCK + "Mean TTFT (ms):      120.25    ").splitlines())
    content = read_bytes(block.encode())
    assert (content.formats, counters(records(content))) == (["vllm-bench"], {"completed": 20, "ttft_mean": 0.12025})


def test_prose_about_a_result_is_none():
    text = "The mean TTFT (ms) was 20.5 and the request throughput: 3.06.\nMean TTFT (ms): 20.50\n"
    assert read_bytes(text.encode()).formats == []


def test_deep_or_odd_json_is_no_result():
    deep = '{"model_id": 1, "request_throughput": ' * 3000
    odd = '{"model_id": [], "request_throughput": {}, "mean_ttft_ms": "x", "ttfts": 3, "itls": null}'
    assert read_bytes(deep.encode()).formats == []
    assert read_bytes(odd.encode()).formats == []
