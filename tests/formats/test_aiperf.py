import json

import written

from hpcbench.parse.content import read_bytes, records


def counters(found):
    return {record.values["name"]: record.values["value"] for record in found if record.table == "counters"}


def test_a_run_is_read_with_its_lines(corpus):
    data = (corpus / "inference/aiperf/profile_export_aiperf_wellflat.json").read_bytes()
    content = read_bytes(data)
    assert (content.formats, content.unread) == (["aiperf"], 0)
    found = counters(records(content))
    expected = {
        "requests_per_second": 0.19245648570156926, "completed": 100, "output_tokens_per_second": 54.55756456668085,
        "ttft_mean": 0.08284651240000001, "latency_p99": 6.433625476000005, "tpot_mean": 0.01803231861805396,
        "chunk_gap_mean": 0.01801533642036886, "output_tokens_mean": 283.48, "output_tokens": 28348,
        "content_tokens": 2781, "duration": 519.597973721, "max_concurrency": 1, "ttfo_mean": 3.6682807246999996,
    }  # fmt: skip
    assert {name: float(f"{found[name]:.15g}") for name in expected} == {
        name: float(f"{value:.15g}") for name, value in expected.items()
    }
    assert "failed" not in found  # null
    lines = data.decode().split("\n")
    for record in records(content):
        value = json.loads(lines[record.line - 1].partition(":")[2].strip().rstrip(","))
        assert record.values["value"] in (value, value / 1000) or abs(record.values["value"] / value - 1e-3) < 1e-15


def test_the_page_that_explains_the_exports_is_no_run(corpus):
    assert read_bytes((corpus / "excerpts/aiperf_profile_exports.md").read_bytes()).formats == []


def test_genai_perf_is_read():
    run = {
        "request_throughput": {"unit": "requests/sec", "avg": 2.5},
        "request_latency": {"unit": "ms", "avg": 800.5, "p50": 790.0, "p99": 950.25, "std": 10.0},
        "inter_token_latency": {"unit": "ms", "avg": 8.5},
        "input_config": {"perf_analyzer": {"stimulus": {"concurrency": 8}}},
    }
    content = read_bytes(json.dumps(run).encode())
    assert content.formats == ["aiperf"]
    assert counters(records(content)) == {
        "requests_per_second": 2.5, "latency_mean": 0.8005, "latency_median": 0.79, "latency_p99": 0.95025,
        "latency_std": 0.01, "tpot_mean": 0.0085, "max_concurrency": 8,
    }  # fmt: skip


def line(error=None, *, cancelled=False, **metrics):
    metadata = {"request_start_ns": 1700000000250000000, "request_end_ns": 1700000001000000000}
    metadata |= {"was_cancelled": cancelled, "benchmark_phase": "profiling"}
    return json.dumps({"metadata": metadata, "metrics": metrics, "error": error}) + "\n"


def test_a_line_is_a_request():
    good = line(
        time_to_first_token={"value": 80.5, "unit": "ms"},
        request_latency={"value": 750.0, "unit": "ms"},
        inter_token_latency={"value": 5.25, "unit": "ms"},
        inter_chunk_latency={"value": [5.0, 6.0], "unit": "ms"},
        output_sequence_length={"value": 9, "unit": "tokens"},
        input_sequence_length={"value": 550, "unit": "tokens"},
    )
    error = {"code": 499, "type": "RequestCancellationError", "message": "cancelled"}
    bad = line(error, cancelled=True, error_isl={"value": 550, "unit": "tokens"})
    content = read_bytes((good + bad + good[:-30] + "\n").encode())
    assert (content.formats, content.unread) == (["aiperf-requests"], 1)
    found = records(content)
    assert [record.line for record in found] == [1, 2]
    both = {"started": 1700000000.25, "finished": 1700000001, "input_tokens": 550, "phase": "profiling"}
    assert [record.values for record in found] == [
        {**both, "ttft": 0.0805, "latency": 0.75, "tpot": 0.00525, "output_tokens": 9, "status": "completed"},
        {**both, "status": "cancelled", "error": "RequestCancellationError: cancelled"},
    ]


def test_odd_types_are_counted():
    odd = '{"metadata": [], "metrics": 1, "error": "request_start_ns"}\n{"request_start_ns": 1}\n["request_start_ns"]\n'
    odd = odd.replace('"error": "request_start_ns"', '"error": null, "request_start_ns": 1')
    assert written.read("aiperf-requests", odd) == ([], 2)
