import json

import pytest
import written
from said import parameters, read, records

from hpcbench.parse.content import read_bytes

FILE = "inference/lm_eval/lmeval_pythia160m_step63000.json"


def test_results_with_old_keys_are_read(corpus):
    data = (corpus / FILE).read_bytes()
    content = read_bytes(data)
    assert (content.formats, content.unread) == (["lm-eval"], 0)
    found = records(content)
    assert {record.table for record in found} == {"evals"}
    assert found[0].values == {
        "task": "hendrycksTest", "subject": "high_school_mathematics", "metric": "acc", "value": 0.18888888888888888,
        "stderr": 0.023865318862285326, "shots": 0, "version": 0,
    }  # fmt: skip
    tasks = json.loads(data)["results"]
    assert len(found) == sum(not key.endswith("_stderr") for scores in tasks.values() for key in scores)
    lines = data.decode().split("\n")
    for record in found:
        assert f'"{record.values["metric"]}": {float(record.values["value"])!r}' in lines[record.line - 1]


NEW = {
    "results": {
        "mmlu": {"acc,none": 0.5, "acc_stderr,none": 0.004, "alias": "mmlu"},
        "mmlu_stem": {"acc,none": 0.4, "acc_stderr,none": 0.008, "alias": " - stem"},
        "mmlu_abstract_algebra": {"alias": "  - abstract_algebra", "acc,none": 0.25, "acc_stderr,none": 0.0435},
        "mmlu_pro_math": {"exact_match,custom-extract": 0.125, "alias": "math"},
        "gsm8k": {
            "alias": "gsm8k", "exact_match,strict-match": 0.75, "exact_match_stderr,strict-match": 0.0125,
            "exact_match,flexible-extract": 0.8125, "exact_match_stderr,flexible-extract": "N/A",
        },
    },
    "n-shot": {"mmlu_abstract_algebra": 5, "gsm8k": 8},
    "versions": {"mmlu": 2, "mmlu_abstract_algebra": 1.0, "gsm8k": 3.0},
    "n-samples": {"mmlu_abstract_algebra": {"original": 100, "effective": 40}},
    "config": {"model": "hf", "limit": 40.0},
    "total_evaluation_time_seconds": "1234.5",
}  # fmt: skip


@pytest.mark.parametrize("indent", [None, 2])
def test_results_with_new_keys_are_read(indent):
    content = read_bytes(json.dumps(NEW, indent=indent).encode())
    assert (content.formats, content.unread) == (["lm-eval"], 0)
    found = records(content)
    evals = [record.values for record in found if record.table == "evals"]
    assert [(row["task"], row.get("subject"), row["metric"], row["value"]) for row in evals] == [
        ("mmlu", None, "acc", 0.5), ("mmlu_stem", None, "acc", 0.4), ("mmlu", "abstract_algebra", "acc", 0.25),
        ("mmlu_pro_math", None, "exact_match,custom-extract", 0.125),
        ("gsm8k", None, "exact_match,strict-match", 0.75), ("gsm8k", None, "exact_match,flexible-extract", 0.8125),
    ]  # fmt: skip
    assert (evals[2]["shots"], evals[2]["version"], evals[2]["count"], evals[2]["stderr"]) == (5, 1, 40, 0.0435)
    assert "stderr" not in evals[-1]
    times = [record.values for record in found if record.table == "counters"]
    assert [(row["name"], row["value"], row["unit"]) for row in times] == [("duration", 1234.5, "s")]


@pytest.mark.parametrize(("name", "task", "subject"), [
    ("mmlu_business_ethics", "mmlu", "business_ethics"),
    ("mmlu_business_ethics_generative", "mmlu_generative", "business_ethics"),
    ("mmlu_world_religions_continuation", "mmlu_continuation", "world_religions"),
    ("mmlu_generative", "mmlu_generative", None),
    ("mmlu_social_sciences_generative", "mmlu_social_sciences_generative", None),
    ("mmlu_flan_cot_fewshot_anatomy", "mmlu_flan_cot_fewshot_anatomy", None),
])  # fmt: skip
def test_a_subject_asked_in_another_way_is_the_same_subject_of_another_task(name, task, subject):
    report = {"results": {name: {"exact_match,get_response": 0.5, "alias": "a"}}, "versions": {name: 3.0}}
    [record] = written.read("lm-eval", json.dumps(report))[0]
    assert (record.values["task"], record.values.get("subject")) == (task, subject)


def test_results_may_be_a_list():
    rows = [{"task_name": "wic", "prompt_name": "question", "acc": 0.5, "acc_stderr": 0.02, "subset": None}]
    found, _ = read("lm-eval", json.dumps({"results": rows, "config": {"num_fewshot": 2}}))
    assert [record.values for record in found] == [
        {"task": "wic", "prompt": "question", "metric": "acc", "value": 0.5, "stderr": 0.02, "shots": 2}
    ]


def test_other_results_are_none():
    other = {"results": {"run": {"time": 1.5, "time_stderr": 0.1}}}
    assert read_bytes(json.dumps(other).encode()).formats == []


TABLE = """hf (pretrained=m), gen_kwargs: (None), limit: None, num_fewshot: None, batch_size: 8
|      Tasks      |Version|     Filter     |n-shot|  Metric   |   |Value |   |Stderr|
|-----------------|------:|----------------|-----:|-----------|---|-----:|---|-----:|
|gsm8k            |      3|flexible-extract|     5|exact_match|↑  |0.4200|±  |0.0490|
|                 |       |strict-match    |     5|exact_match|↑  |0.3900|±  |0.0480|
|mmlu             |      2|none            |      |acc        |↑  |0.5010|±  |0.0040|
| - humanities    |      2|none            |      |acc        |↑  |0.4410|±  |0.0070|
|  - formal_logic |      1|none            |     0|acc        |↑  |0.2510|±  |   N/A|

|Groups|Version|Filter|n-shot|Metric|   |Value|   |Stderr|
|------|------:|------|------|------|---|----:|---|-----:|
|mmlu  |      2|none  |      |acc   |↑  |0.501|±  |0.0040|
"""


def test_the_printed_table_is_read_and_that_of_groups_is_not_read_again():
    content = read_bytes(TABLE.encode())
    assert (content.formats, content.unread) == (["lm-eval-table"], 0)
    found = records(content)
    assert [record.line for record in found] == [4, 5, 6, 7, 8]
    rows = [record.values for record in found]
    assert [(row["task"], row.get("subject"), row["metric"], row["value"]) for row in rows] == [
        ("gsm8k", None, "exact_match,flexible-extract", 0.42), ("gsm8k", None, "exact_match,strict-match", 0.39),
        ("mmlu", None, "acc", 0.501), ("mmlu", "humanities", "acc", 0.441), ("mmlu", "formal_logic", "acc", 0.251),
    ]  # fmt: skip
    assert (rows[1]["stderr"], rows[1]["shots"], rows[1]["version"]) == (0.048, 5, 3)
    assert "stderr" not in rows[4]


@pytest.mark.parametrize(("head", "expected"), [
    (TABLE.partition("\n")[0], {"model": "m", "batch": 8}),
    ("vllm (pretrained=openai/gpt-oss-20b,dtype=bfloat16), gen_kwargs: (None), limit: None, num_fewshot: 5, "
     "batch_size: auto", {"model": "openai/gpt-oss-20b", "precision": "BF16", "shots": 5, "batch": "auto"}),
    ("local-completions (model=a/b,base_url=http://h:1/v1), gen_kwargs: (None), limit: 40.0, num_fewshot: 0, "
     "batch_size: 1", {"model": "a/b", "shots": 0, "batch": 1}),
    ("hf-causal (pretrained=a/b,revision=step3), limit: None, provide_description: False, num_fewshot: 0, "
     "batch_size: None", {"model": "a/b", "revision": "step3", "shots": 0}),
    ("gpt2 (), limit: None, provide_description: False, num_fewshot: 0, batch_size: None", {"model": "gpt2",
                                                                                           "shots": 0}),
    ("Its limit, num_fewshot: 5, is low", {}),
])  # fmt: skip
def test_the_line_above_the_table_is_its_parameters(head, expected):
    assert parameters(f"{head}\n{TABLE.partition(chr(10))[2]}") == expected


def test_what_the_results_say_of_their_run_is_its_parameters(corpus):
    assert parameters((corpus / FILE).read_bytes()) == {
        "model": "EleutherAI/pythia-v1.1-160m-deduped", "revision": "step63000", "shots": 0, "batch": 16,
    }  # fmt: skip
    config = {"model": "hf", "model_args": {"pretrained": "a/b", "dtype": "float16"}, "batch_size": "auto"}
    assert parameters(json.dumps({**NEW, "config": config})) == {
        "model": "a/b", "precision": "FP16", "batch": "auto",
    }  # fmt: skip
    assert parameters(json.dumps({**NEW, "model_name": "a/c"})) == {"model": "a/c"}


def test_the_table_of_an_old_version_is_read():
    table = "|Task |Version|Metric|Value |   |Stderr|\n|-----|------:|------|-----:|---|-----:|\n"
    table += "|piqa |      0|acc   |0.6250|±  |0.0110|\n|     |       |acc_norm|0.6310|±  |0.0110|\n"
    found, unread = written.read("lm-eval-table", table)
    assert unread == 0
    assert [(r.values["task"], r.values["metric"], r.values["value"]) for r in found] == [
        ("piqa", "acc", 0.625), ("piqa", "acc_norm", 0.631),
    ]  # fmt: skip


@pytest.mark.parametrize("row", [
    "|gsm8k|      3|none  |     5|acc   |↑  |0.42",
    "|gsm8k|      3|none  |     5|acc   |↑  |0.4200|±  |0.04",
    "|gsm8k|      3|none  |     5|acc   |↑  |     |±  |0.0490|",
])  # fmt: skip
def test_a_damaged_row_is_counted_and_gives_no_number(row):
    head = (
        "|Tasks|Version|Filter|n-shot|Metric|   |Value |   |Stderr|\n|-----|------:|---|---:|---|---|---:|---|---:|\n"
    )
    assert written.read("lm-eval-table", head + row) == ([], 1)
