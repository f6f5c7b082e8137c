import pytest
import written
from said import parameters, records

from hpcbench.parse.content import read_bytes

FOLDER = "inference/mlperf_inference"
LATENCIES = {
    "samples_per_second": 21.0563, "valid": 1, "latency_min": 6.06194439, "latency_max": 23.745810228,
    "latency_mean": 14.875703031, "latency_median": 12.393446157, "latency_p90": 23.724530891,
    "latency_p99.9": 23.745810228, "samples_per_query": 500, "target_queries_per_second": 1,
}  # fmt: skip


@pytest.mark.parametrize(("file", "name", "count", "line"), [
    ("mlperf_log_summary_resnet50_tf220_offline.txt", "mlperf-inference-summary", 13, 7),
    ("mlperf_log_detail_resnet50_tf220_offline.txt", "mlperf-inference-detail", 15, 80),
])  # fmt: skip
def test_both_logs_say_the_same(corpus, file, name, count, line):
    content = read_bytes((corpus / FOLDER / file).read_bytes())
    assert (content.formats, content.unread) == ([name], 0)
    found = records(content)
    values = {record.values["name"]: record.values["value"] for record in found}
    assert LATENCIES.items() <= values.items()
    assert len(found) == count
    assert [record.line for record in found if record.values["name"] == "samples_per_second"] == [line]


@pytest.mark.parametrize("log", ["summary", "detail"])
def test_the_scenario_is_a_parameter(corpus, log):
    file = corpus / FOLDER / f"mlperf_log_{log}_resnet50_tf220_offline.txt"
    assert parameters(file.read_bytes()) == {"scenario": "Offline"}


def test_the_rate_of_requests_is_a_parameter_of_a_server_alone():
    assert parameters(f"{SERVER}target_qps : 10.5\n") == {"scenario": "Server", "request_rate": 10.5}


def test_the_logs_of_training_are_not_taken(corpus):
    for file in (corpus / "training/mllog").iterdir():
        data = file.read_bytes()
        assert not [name for name in read_bytes(data).formats if name.startswith("mlperf-inference")]
        assert written.read("mlperf-inference-detail", data) == ([], 0)


SERVER = """================================================
MLPerf Results Summary
================================================
Scenario : Server
Scheduled samples per second : 10.50
Completed samples per second    : 9.75
Completed tokens per second: 3200.50
Result is : INVALID
  Performance constraints satisfied : NO

Completed tokens per second                 : 3200.50
Mean First Token latency (ns)               : 300000000
99.00 percentile first token latency (ns)   : 850000000
Mean Time per Output Token (ns)             : 25000000
99.90 percentile time to output token (ns)  : 45000000

1 ERROR encountered. See detailed log.
"""


def test_a_server_run_of_a_language_model_that_was_invalid():
    content = read_bytes(SERVER.encode())
    assert (content.formats, content.unread) == (["mlperf-inference-summary"], 0)
    found = records(content)
    assert {r.values["name"]: r.values["value"] for r in found if r.table == "counters"} == {
        "scheduled_samples_per_second": 10.5, "samples_per_second": 9.75, "output_tokens_per_second": 3200.5,
        "valid": 0, "ttft_mean": 0.3, "ttft_p99": 0.85, "tpot_mean": 0.025, "tpot_p99.9": 0.045,
    }  # fmt: skip
    assert [(r.line, r.values["kind"]) for r in found if r.table == "events"] == [(8, "invalid"), (17, "error")]


def test_a_number_that_the_end_of_the_file_cuts_is_not_read():
    text = SERVER[: SERVER.index("850000000") + 4]
    names = [r.values["name"] for r in written.read("mlperf-inference-summary", text)[0] if r.table == "counters"]
    assert names[-1] == "ttft_mean"


DETAIL = ':::MLLOG {{"key": "{}", "value": {}, "time_ms": 1.5, "metadata": {{"is_error": {}, "file": "a.cc"}}}}\n'


def test_errors_are_events_and_damaged_lines_are_counted():
    text = DETAIL.format("result_first_token_99.00_percentile_latency_ns", 850000000, "false")
    text += DETAIL.format("error_runtime", '"no answer"', "true")
    text += DETAIL.format("result_mean_latency_ns", 5, "false")[:-4] + "\n"
    content = read_bytes(text.encode())
    assert (content.formats, content.unread) == (["mlperf-inference-detail"], 1)
    assert [(r.table, r.line, r.values.get("value"), r.values.get("message")) for r in records(content)] == [
        ("counters", 1, 0.85, None), ("events", 2, None, "error_runtime: no answer"),
    ]  # fmt: skip
