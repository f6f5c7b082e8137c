import json

import pytest
import written
from said import parameters, read

from hpcbench.parse.content import read_bytes, records

FILE = "inference/guidellm/guidellm_benchmarks_stripped.json"


def counters(found):
    return {record.values["name"]: record.values["value"] for record in found if record.table == "counters"}


def test_a_report_of_an_old_version_is_read(corpus):
    content = read_bytes((corpus / FILE).read_bytes())
    assert (content.formats, content.unread) == (["guidellm"], 0)
    found = counters(records(content))
    expected = {
        "completed": 46, "failed": 0, "incomplete": 1, "duration": 29.997201442718506,
        "requests_per_second": 1.5481806532737452, "latency_mean": 0.6444743664368339,
        "ttft_mean": 0.016792535781860348, "ttft_std": 0.0011303385708366516, "input_tokens_mean": 257.1086956521739,
        "token_gap_mean": 0.004941609043733832, "concurrency_max": 1,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected


def test_what_it_calls_itl_and_tpot_has_names_of_its_own(corpus):
    found = counters(records(read_bytes((corpus / FILE).read_bytes())))
    assert not [name for name in found if name.startswith(("tpot", "chunk_gap", "latency_per_token"))]
    assert found["decode_time_per_token_mean"] == 0.00490300272307966


def test_its_requests_have_the_tpot_of_everyone(corpus):
    found = [record for record in records(read_bytes((corpus / FILE).read_bytes())) if record.table == "requests"]
    assert [record.values for record in found] == [{
        "status": "completed", "started": 1749157168.1827004, "first_token": 1749157168.2039824,
        "last_token": 1749157168.8717923, "finished": 1749157168.871885, "ttft": 0.021281957626342773,
        "tpot": 0.005258346167136365, "latency": 0.6891846656799316, "input_tokens": 257, "output_tokens": 128,
    }]  # fmt: skip


def test_a_report_on_many_lines_names_them(corpus):
    text = json.dumps(json.loads((corpus / FILE).read_bytes()), indent=1)
    lines = text.split("\n")
    found = records(read_bytes(text.encode()))
    by_name = {record.values["name"]: record.line for record in found if record.table == "counters"}
    assert lines[by_name["ttft_mean"] - 1].strip() == '"mean": 16.792535781860348,'
    assert lines[by_name["token_gap_p99"] - 1].strip().startswith('"p99": ')
    assert lines[by_name["duration"] - 1].strip() == '"duration": 29.997201442718506'
    request = next(record.line for record in found if record.table == "requests")
    assert '"request_id"' in lines[request - 1]


def report(*benchmarks):
    return json.dumps({"metadata": {"version": 1}, "benchmarks": list(benchmarks)})


def benchmark(strategy, **metrics):
    metrics = {"requests_per_second": {"successful": {"mean": 2.0, "count": 4}}, "request_concurrency": {}, **metrics}
    return {"type_": "generative_benchmark", "config": {"strategy": strategy}, "metrics": metrics}


def test_a_recent_versions_tpot_is_the_latency_of_a_token():
    time = {"successful": {"mean": 12.5, "count": 4, "percentiles": {"p50": 12.0, "p99": 15.0, "p999": 16.0}}}
    data = report(benchmark({"type_": "concurrent", "streams": 4}, time_per_output_token_ms=time))
    found, unread = written.read("guidellm", data)
    assert unread == 0
    assert counters(found) == {
        "requests_per_second": 2, "max_concurrency": 4, "latency_per_token_mean": 0.0125,
        "latency_per_token_median": 0.012, "latency_per_token_p99": 0.015, "latency_per_token_p99.9": 0.016,
    }  # fmt: skip


@pytest.mark.parametrize(("key", "kind", "column"), [
    ("rate", "constant", "request_rate"), ("streams", "concurrent", "concurrency"),
])  # fmt: skip
def test_the_benchmarks_of_a_sweep_are_told_apart_by_their_load(key, kind, column):
    data = report(benchmark({"type_": kind, key: 2}), benchmark({"type_": kind, key: 4}))
    found, _ = read("guidellm", data)
    rates = [row.values for row in found if row.values["name"] == "requests_per_second"]
    assert [(row[column], row["strategy"], "part" in row) for row in rates] == [(2, kind, False), (4, kind, False)]
    assert column not in parameters(data)


def test_benchmarks_of_the_same_load_are_numbered():
    data = report(*[benchmark({"type_": "constant", "rate": 2.0})] * 2)
    found, _ = read("guidellm", data)
    assert [(r.values["name"], r.values["value"], r.values["part"]) for r in found] == [
        ("requests_per_second", 2, 1), ("request_rate", 2, 1), ("requests_per_second", 2, 2), ("request_rate", 2, 2),
    ]  # fmt: skip


def test_what_a_run_says_of_itself_is_its_parameters(corpus):
    assert parameters((corpus / FILE).read_bytes()) == {
        "model": "example_model", "input_tokens": 256, "output_tokens": 128,
    }  # fmt: skip
    new = benchmark({"type_": "concurrent", "streams": 4})
    assert parameters(report(new)) == {"concurrency": 4}


def test_requests_of_a_recent_version_that_failed_say_why():
    timings = {"request_start": 10.0, "first_token_iteration": None, "request_end": 12.0}
    one = benchmark({"type_": "synchronous"})
    one["requests"] = {"successful": [], "errored": [{"request_id": "a", "info": {"timings": timings, "error": "503"}}]}
    found, _ = written.read("guidellm", report(one))
    assert [record.values for record in found if record.table == "requests"] == [
        {"status": "failed", "started": 10, "finished": 12, "error": "503"}
    ]


def test_statistics_of_no_request_are_unknown():
    none = {"successful": {"mean": 0.0, "median": 0.0, "count": 0}}
    found, _ = written.read("guidellm", report(benchmark({}, time_to_first_token_ms=none)))
    assert list(counters(found)) == ["requests_per_second"]


def test_a_report_that_was_cut_gives_nothing(corpus):
    assert read_bytes((corpus / FILE).read_bytes()[:-200]).formats == []
