import json

import pytest
import written

from hpcbench.formats.measurements import Text, unit_of
from hpcbench.parse.content import read_bytes, records


def requests(content):
    return [(record.line, record.values) for record in records(content) if record.table == "requests"]


def test_a_response_is_a_request_as_the_server_saw_it(corpus):
    content = read_bytes((corpus / "sites/sambanova_usage_response.json").read_bytes())
    assert (content.formats, content.unread) == (["sambanova-usage"], 0)
    assert requests(content) == [(1, {
        "model": "DeepSeek-V3-0324", "input_tokens": 10, "output_tokens": 51, "server_ttft": 0.1313478946685791,
        "server_latency": 0.3774144649505615, "server_output_tokens_per_second": 135.12995588730448,
        "server_decode_tokens_per_second": 203.1970451845694, "server_total_tokens_per_second": 161.6260256691289,
        "server_started": 1746852567.3655078, "server_finished": 1746852567.7429223,
    })]  # fmt: skip


def test_responses_between_prose_are_read(corpus):
    content = read_bytes((corpus / "inference/pnookala_metis_curl_time.md").read_bytes())
    found = requests(content)
    assert "sambanova-usage" in content.formats
    assert [(line, row["output_tokens"], row["server_output_tokens_per_second"]) for line, row in found] == [
        (15, 128, 208.6463763362214), (26, 95, 427.9359651515705),
    ]  # fmt: skip
    assert (found[1][1]["server_ttft"], found[1][1]["server_latency"]) == (0.06494784355163574, 0.22199583053588867)
    assert found[1][1]["model"] == "Llama-4-Maverick-17B-128E-Instruct"


USAGE = {
    "completion_tokens": 40, "completion_tokens_per_sec": 160.5, "prompt_tokens": 12,
    "prompt_tokens_details": {"cached_tokens": 0}, "is_last_response": True, "stop_reason": "stop",
    "time_to_first_token": 0.0625, "total_latency": 0.25, "total_tokens": 52,
}  # fmt: skip
ROW = {
    "input_tokens": 12, "output_tokens": 40, "server_ttft": 0.0625, "server_latency": 0.25,
    "server_output_tokens_per_second": 160.5,
}  # fmt: skip


@pytest.mark.parametrize("text", [
    f"The answer was {json.dumps({'usage': USAGE})} and it was quick.\n",
    json.dumps({"a": {"usage": USAGE}}, indent=2),
    f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\ndata: [DONE]\n",
    f"{ {'id': 1, 'usage': USAGE} !r}\n",
    "ChatCompletion(id='1', usage=CompletionUsage(completion_tokens=40, prompt_tokens=12, total_tokens=52, "
    "completion_tokens_details=None, prompt_tokens_details=Details(cached_tokens=0), completion_tokens_per_sec=160.5, "
    "time_to_first_token=0.0625, total_latency=0.25))\n",
])  # fmt: skip
def test_json_and_what_python_prints_are_read(text):
    content = read_bytes(text.encode())
    assert (content.formats, content.unread) == (["sambanova-usage"], 0)
    assert [row for _, row in requests(content)] == [ROW]


def test_several_on_one_line_are_told_apart():
    both = [{"model": name, "usage": USAGE} for name in ("a", "b")]
    assert [row["model"] for _, row in requests(read_bytes(json.dumps(both).encode()))] == ["a", "b"]


def test_usages_written_in_several_ways_are_read_once_each():
    printed = "ChatCompletion(usage=CompletionUsage(completion_tokens=1, total_latency=0.5))\n"
    text = printed + "{'usage': {'completion_tokens': 2, 'total_latency': 0.5}}\n"
    text += json.dumps({"usage": {"completion_tokens": 3, "total_latency": 0.5}}) + "\n"
    assert [row["output_tokens"] for _, row in requests(read_bytes(text.encode() + printed.encode()))] == [1, 2, 3, 1]


def test_a_usage_that_was_cut_is_counted_and_gives_no_number():
    text = json.dumps({"usage": USAGE})
    found, unread = written.read("sambanova-usage", text[: text.index('"total_tokens"') + 17])
    assert (found, unread) == ([], 1)


@pytest.mark.parametrize("text", [
    '{"usage": {"completion_tokens": 40, "prompt_tokens": 12, "total_tokens": 52}}',  # without times: any server's
    '{"usage": "time_to_first_token of 0.25 s"}',
    "usage: bench [-h] [--total_latency LATENCY]",
])  # fmt: skip
def test_other_usages_are_none(text):
    assert read_bytes(text.encode()).formats == []


RESPONSE = {
    "id": "chatcmpl-1", "object": "chat.completion", "created": 1764022114, "model": "openai/gpt-oss-120b",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Denver"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 12, "total_tokens": 52, "completion_tokens": 40, "prompt_tokens_details": None},
    "prompt_logprobs": None,
}  # fmt: skip
PRINTED = (
    "ChatCompletion(id='chatcmpl-1', choices=[Choice(finish_reason='stop', index=0, message=ChatCompletionMessage("
    "content='Denver', role='assistant'))], created=1764022114, model='openai/gpt-oss-120b', object='chat.completion', "
    "usage=CompletionUsage(completion_tokens=40, prompt_tokens=12, total_tokens=52, completion_tokens_details=None))"
)


@pytest.mark.parametrize("text", [
    json.dumps(RESPONSE), json.dumps(RESPONSE, indent=2), PRINTED, json.dumps({**RESPONSE, "object": "text_completion"})
])  # fmt: skip
def test_a_response_without_times_still_tells_its_tokens(text):
    content = read_bytes(f"{text}\n".encode())
    assert (content.formats, content.unread) == (["openai-response"], 0)
    row = {"model": "openai/gpt-oss-120b", "input_tokens": 12, "output_tokens": 40}
    assert [values for _, values in requests(content)] == [row]
    both = read_bytes(f"{text}\n{text}\n{json.dumps({'model': 'm', 'usage': USAGE})}\n".encode())
    assert [values for _, values in requests(both)] == [row, row, {**ROW, "model": "m"}]


@pytest.mark.parametrize("change", [
    {"object": "chat.completion.chunk"}, {"usage": None}, {"usage": {"completion_tokens": "many"}}, {"object": []},
])  # fmt: skip
def test_what_is_no_whole_response_is_none(change):
    text = json.dumps({**RESPONSE, **change, "said": '"completion_tokens"'})
    assert read_bytes(text.encode()).formats == []


def test_a_batch_of_alcf_is_read_from_a_part_of_its_json(corpus):
    content = read_bytes((corpus / "sites/alcf_batch_result.json.txt").read_bytes())
    assert (content.formats, content.unread) == (["alcf-batch"], 0)
    assert [(r.line, r.values["name"], r.values["value"]) for r in records(content)] == [
        (4, "duration", 27837.440138816833), (5, "total_tokens_per_second", 3899.833442250346),
        (6, "total_tokens", 108561380), (7, "completed", 99985), (8, "requests", 100000),
    ]  # fmt: skip


def test_a_script_that_asks_two_endpoints_is_read(corpus):
    content = read_bytes((corpus / "sites/metis_sophia_homework_stdout.txt").read_bytes())
    assert (content.formats, content.unread) == (["endpoint-test"], 0)
    assert [(line, row["output_tokens"]) for line, row in requests(content)][::4] == [(4, 50), (8, 44), (16, 32)]
    totals = [r.values for r in records(content) if r.table == "counters"]
    assert [(row["endpoint"], row["name"], row["value"]) for row in totals] == [
        ("Metis (SambaNova)", "duration", 5.95), ("Metis (SambaNova)", "output_tokens_per_second", 34.6),
        ("Sophia (NVIDIA)", "duration", 9.99), ("Sophia (NVIDIA)", "output_tokens_per_second", 15.42),
    ]  # fmt: skip


def test_objects_are_found_in_any_text():
    text = Text(b'{ no\n[{"a": 1}, {"a": {"a": 2}}] {"b": 3} {"a": NaN}\n{"a": ' + b'{"a": ' * 5000)
    found = [(text.line(at), value["a"]) for value, at in text.objects("a")]
    assert found[:2] == [(2, 1), (2, {"a": 2})]
    assert len(found) == 3


@pytest.mark.parametrize(("name", "unit"), [
    ("ttft_mean", "s"), ("latency_per_token_p99", "s"), ("pp512_time_std", "s"), ("send_duration", "s"),
    ("output_tokens_per_second", "tokens/s"), ("pp512_tokens_per_second_std", "tokens/s"), ("output_tokens", ""),
    ("request_rate", "requests/s"), ("completed", ""), ("target_queries_per_second", "queries/s"),
])  # fmt: skip
def test_the_name_of_a_counter_tells_its_unit(name, unit):
    assert unit_of(name) == unit
