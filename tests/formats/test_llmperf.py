from said import parameters, records

from hpcbench.parse.content import read_bytes


def test_a_summary_is_read_in_seconds_with_its_lines(corpus):
    data = (corpus / "inference/llmperf/llmperf_together_70b.json").read_bytes()
    content = read_bytes(data)
    assert (content.formats, content.unread) == (["llmperf"], 0)
    found = {record.values["name"]: record.values["value"] for record in records(content)}
    expected = {
        "ttft_mean": 0.622329721273333, "ttft_median": 0.6352748079999628, "ttft_std": 0.09040484094587684,
        "latency_mean": 2.4906428459, "request_output_tokens_per_second_mean": 59.88706863756876,
        "output_tokens_per_second": 216.45553311958628, "max_concurrency": 5, "completed": 150, "failed": 0,
        "input_tokens_min": 550, "output_tokens_max": 188, "requests_per_second": 81.89078137274691 / 60,
    }  # fmt: skip
    assert {name: found[name] for name in expected} == expected
    assert len(found) == 67
    lines = data.decode().split("\n")
    at = {record.values["name"]: record.line for record in records(content)}
    assert '"results_ttft_s_quantiles_p99"' in lines[at["ttft_p99"] - 1]
    assert '"results_number_errors"' in lines[at["failed"] - 1]


def test_its_inter_token_latency_is_the_latency_of_a_token(corpus):
    """It is the mean of all waits of a request, that for the first token included: e2e / output tokens."""
    content = read_bytes((corpus / "inference/llmperf/llmperf_together_70b.json").read_bytes())
    found = {record.values["name"]: record.values["value"] for record in records(content)}
    assert found["latency_per_token_mean"] == 0.01578128072700586
    assert abs(found["latency_mean"] / found["output_tokens_mean"] / found["latency_per_token_mean"] - 1) < 0.01
    assert not [name for name in found if name.startswith(("tpot", "chunk_gap"))]


def test_what_was_asked_for_is_a_parameter(corpus):
    assert parameters((corpus / "inference/llmperf/llmperf_together_70b.json").read_bytes()) == {
        "model": "together_ai/togethercomputer/llama-2-70b-chat", "concurrency": 5, "input_tokens": 550,
        "output_tokens": 150,
    }  # fmt: skip


def test_a_summary_that_was_cut_gives_nothing(corpus):
    data = (corpus / "inference/llmperf/llmperf_together_70b.json").read_bytes()
    assert read_bytes(data[:-3]).formats == []
