import json

from said import parameters
from said import records as all_records

from hpcbench.parse.content import read_bytes

# the form of summarize_requests in inference_perf/reportgen/base.py
REPORT = {
    "load_summary": {
        "count": 10, "schedule_delay": {"mean": 0.001, "min": 0.0, "max": 0.002, "median": 0.001, "p99": 0.002},
        "send_duration": 4.5, "requested_rate": 2.0, "achieved_rate": 2.25, "concurrency": 3,
    },
    "successes": {
        "count": 9,
        "latency": {
            "request_latency": {"mean": 1.5, "median": 1.25, "p99": 2.5},
            "normalized_time_per_output_token": {"mean": 0.015},
            "time_per_output_token": {"mean": 0.0125, "p99.9": 0.02},
            "time_to_first_token": {"mean": 0.25, "min": 0.125},
            "inter_token_latency": {"mean": 0.0126, "min": 0.0},
        },
        "throughput": {"output_tokens_per_sec": 180.5, "requests_per_sec": 1.8},
        "prompt_len": {"mean": 128.0},
        "output_len": {"mean": 100.0},
    },
    "failures": {"count": 1, "request_latency": {"mean": 0.5}, "prompt_len": None},
}  # fmt: skip


def records(content):
    return [record for record in all_records(content) if record.table == "counters"]


def test_a_report_is_read_in_seconds():
    content = read_bytes(json.dumps(REPORT, indent=2).encode())
    assert (content.formats, content.unread) == (["inference-perf"], 0)
    found = {record.values["name"]: record.values["value"] for record in records(content)}
    assert found == {
        "requests": 10, "schedule_delay_mean": 0.001, "schedule_delay_min": 0, "schedule_delay_max": 0.002,
        "schedule_delay_median": 0.001, "schedule_delay_p99": 0.002, "send_duration": 4.5, "request_rate": 2,
        "sent_requests_per_second": 2.25, "max_concurrency": 3, "completed": 9, "failed": 1, "latency_mean": 1.5,
        "latency_median": 1.25, "latency_p99": 2.5, "latency_per_token_mean": 0.015, "tpot_mean": 0.0125,
        "tpot_p99.9": 0.02, "ttft_mean": 0.25, "ttft_min": 0.125, "token_arrival_gap_mean": 0.0126,
        "token_arrival_gap_min": 0, "output_tokens_per_second": 180.5, "requests_per_second": 1.8,
        "input_tokens_mean": 128, "output_tokens_mean": 100,
    }  # fmt: skip


def test_each_number_names_its_line():
    text = json.dumps(REPORT, indent=2)
    lines = text.split("\n")
    by_name = {record.values["name"]: record.line for record in records(read_bytes(text.encode()))}
    assert lines[by_name["ttft_mean"] - 1].strip() == '"mean": 0.25,'
    assert lines[by_name["completed"] - 1].strip() == '"count": 9,'
    assert lines[by_name["failed"] - 1].strip() == '"count": 1,'
    assert lines[by_name["requests_per_second"] - 1].strip() == '"requests_per_sec": 1.8'


def test_the_load_is_a_parameter_and_tells_stages_in_one_file_apart():
    assert parameters(json.dumps(REPORT)) == {"request_rate": 2, "concurrency": 3}
    stages = [{**REPORT, "load_summary": {"count": 10, "requested_rate": rate}} for rate in (2.0, 4.0)]
    text = "".join(json.dumps(stage) + "\n" for stage in stages)
    rows = [record.values for record in records(read_bytes(text.encode())) if record.values["name"] == "ttft_mean"]
    assert [(row["request_rate"], "part" in row) for row in rows] == [(2, False), (4, False)]
    assert parameters(text) == {}


def test_a_run_in_which_all_failed_has_no_latencies():
    none = {"load_summary": {"count": 2}, "successes": {"count": 0, "latency": None}, "failures": {"count": 2}}
    found = records(read_bytes(json.dumps(none).encode()))
    assert {r.values["name"]: r.values["value"] for r in found} == {"requests": 2, "completed": 0, "failed": 2}


def test_words_alone_are_no_report():
    assert read_bytes(b'["load_summary", "successes", "failures"]\n').formats == []
