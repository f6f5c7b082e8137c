import json

import pytest
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


CSV = """Metric,avg,sum,min,max,p1,p50,p99,std
Input Sequence Length (tokens),550.00,5500.00,550.00,550.00,550.00,550.00,550.00,0.00
Inter Token Latency (ms),27.50,275.00,22.25,34.75,22.50,27.75,33.50,3.75
OSL Mismatch Diff % (%),-21.09,,-21.09,-21.09,-21.09,-21.09,-21.09,0.00
Request Latency (ms),"9,059.65",,"7,936.97","9,299.77","8,180.93","9,097.35","9,297.61",220.22
Time to First Token (ms),2343.25,,464.50,3853.75,581.25,2369.50,,1049.75
Time to Second Token (ms),0.00,0.00,0.00,0.00,0.00,0.00,0.00,0.00

Metric,Value
Benchmark Duration (sec),9.25
Error Request Count,11.00
Maximum Response Timestamp (ns),1759522428472357888.00
Output Token Throughput (tokens/sec),2320.75
Request Count,89
Request Throughput (requests/sec),9.50
Total Input Sequence Length (tokens),48950.00


Endpoint,GPU_Index,GPU_Name,GPU_UUID,Metric,avg,min,max
localhost:9400,0,NVIDIA H100,GPU-1,GPU Power Usage (W),300.00,100.00,400.00
"""


def test_the_csv_of_a_run_is_read():
    content = read_bytes(CSV.replace("\n", "\r\n").encode())
    assert (content.formats, content.unread) == (["aiperf-csv"], 0)
    assert counters(records(content)) == {
        "input_tokens_mean": 550, "input_tokens_min": 550, "input_tokens_max": 550, "input_tokens_p1": 550,
        "input_tokens_median": 550, "input_tokens_p99": 550, "input_tokens_std": 0,
        "tpot_mean": 0.0275, "tpot_min": 0.02225, "tpot_max": 0.03475, "tpot_p1": 0.0225, "tpot_median": 0.02775,
        "tpot_p99": 0.0335, "tpot_std": 0.00375,
        "latency_mean": 9.05965, "latency_min": 7.93697, "latency_max": 9.29977, "latency_p1": 8.18093,
        "latency_median": 9.09735, "latency_p99": 9.29761, "latency_std": 0.22022,
        "ttft_mean": 2.34325, "ttft_min": 0.4645, "ttft_max": 3.85375, "ttft_p1": 0.58125, "ttft_median": 2.3695,
        "ttft_std": 1.04975,
        "duration": 9.25, "failed": 11, "output_tokens_per_second": 2320.75, "completed": 89,
        "requests_per_second": 9.5, "input_tokens": 48950,
    }  # fmt: skip
    lines = {record.values.get("name"): record.line for record in records(content)}
    assert (lines["latency_std"], lines["completed"]) == (5, 14)


@pytest.mark.parametrize(("line", "wrong"), [
    ("Inter Token Latency (ms),27.50", "Inter Token Latency (ms),27.5x"),
    ("Inter Token Latency (ms)", "Inter Token Latency (parsecs)"),
    ("Inter Token Latency (ms),27.50,", "Inter Token Latency (ms),"),
    ('"9,059.65"', "9,059.65"),
    ("Request Count,89", "Request Count,8,9"),
    ("Request Count,89", "Request Count,8e9"),
])  # fmt: skip
def test_a_damaged_row_of_the_csv_is_counted_and_gives_nothing(line, wrong):
    found, unread = written.read("aiperf-csv", CSV.replace(line, wrong))
    whole, _ = written.read("aiperf-csv", CSV)
    damaged = 1 + CSV[: CSV.index(line)].count("\n")
    kept = [record for record in whole if record.line != damaged]
    assert (counters(found), unread) == (counters(kept), 1)


def test_a_csv_that_was_cut_gives_no_half_number():
    whole = counters(written.read("aiperf-csv", CSV)[0])
    for at in range(CSV.index("Input"), len(CSV)):
        found, unread = written.read("aiperf-csv", CSV[:at])
        assert counters(found).items() <= whole.items()
        assert unread == 0 or CSV[at - 1] != "\n"
    assert written.read("aiperf-csv", CSV[: CSV.index("Count,89") + 7])[1] == 1


@pytest.mark.parametrize("text", [
    "Metric,Value\nAccuracy,0.95\n", "Metric,avg,min\nSpeed (km/h),3.5,3.0\n", "Metric,avg,\n",
    "# Metric,Value\nRequest Count,5\n",
])  # fmt: skip
def test_other_tables_of_metrics_are_not_taken(text):
    assert read_bytes(text.encode()).formats == []


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
