"""MMLU asked of endpoints: which protocol each offers, what is read of its answers, and what they come to."""

import json
import subprocess
import sys

import multiple_choice
import pytest
from asking import answer, saying, whole
from toy import hpcbench

import hpcbench as package
from hpcbench import benchmark
from hpcbench.analyse.summary import compare
from hpcbench.inference.choice import COMPLETIONS, LIKELIEST, WRITTEN, letters
from hpcbench.workloads.mmlu.prompts import put
from hpcbench.workloads.mmlu.questions import read

B = {"score_a": -1.5, "score_b": -0.25, "score_c": -4.0}  # what the server finds: nothing is known of D
ANSWERS = [question[-1] for questions in multiple_choice.SUBJECTS.values() for question in questions]


@pytest.fixture
def place(tmp_path):
    multiple_choice.write(tmp_path / "questions")
    return tmp_path


def ask(place, server, model: str, **parameters) -> subprocess.CompletedProcess:
    """Run the program of a case in a folder; what it printed is put where a job script would."""
    own = {"data": str(place / "questions"), "shots": 2, **parameters}
    case = {
        "parameters": {**benchmark.load("mmlu_endpoint").defaults(), **own},
        "endpoint": {"base_url": server.url, "model": model},
    }
    (place / "case.json").write_text(json.dumps(case))
    command = [sys.executable, "-m", "hpcbench.inference", "mmlu"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False)
    (place / "stdout.log").write_text(done.stdout)
    return done


def site(place, name: str, url: str) -> None:
    (place / "sites").mkdir(exist_ok=True)
    text = f"title: {name}\nendpoint: {{base_url: '{url}', model: top}}\n"
    (place / "sites" / f"{name}.yaml").write_text(text)


def records(place, file: str) -> list[dict]:
    return [json.loads(line) for line in (place / file).read_text().splitlines()]


def answers(place) -> list[dict]:
    rows = [row for row in records(place, "requests.jsonl") if row["phase"] == "measured"]
    return sorted(rows, key=lambda row: row["request"])


def said(place, kind: str) -> list[str]:
    return [row["message"] for row in records(place, "stdout.log") if row.get("kind") == kind]


def evals(place) -> dict[tuple[str, str], dict]:
    return {(row["subject"], row["metric"]): row for row in records(place, "stdout.log") if row["record"] == "eval"}


def counter(place, name: str) -> float:
    return next(row["value"] for row in records(place, "stdout.log") if row.get("name") == name)


@pytest.mark.parametrize(("model", "style", "protocol", "path"), [
    ("completions+top", "harness", COMPLETIONS, "/v1/completions"),
    ("llama+no-chat", "original", COMPLETIONS, "/v1/completions"),
    ("completions+top", "chat", LIKELIEST, "/v1/chat/completions"),
    ("top", "harness", LIKELIEST, "/v1/chat/completions"),
    ("top+five", "chat", LIKELIEST, "/v1/chat/completions"),
    ("ignores", "chat", WRITTEN, "/v1/chat/completions"),
    ("refuses+top", "chat", WRITTEN, "/v1/chat/completions"),
    ("top+one", "chat", WRITTEN, "/v1/chat/completions"),
    ("top+reasons", "chat", WRITTEN, "/v1/chat/completions"),
])  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_the_best_protocol_that_is_offered_is_taken(place, model, style, protocol, path, stream):
    with multiple_choice.serving() as server:
        ask(place, server, model, style=style, stream=stream)
        asked = server.requests[-12:]
    rows = answers(place)
    assert [row["choice"] for row in rows] == ["B"] * 10
    assert [row["answer"] for row in rows] == ANSWERS
    assert [row["correct"] for row in rows] == [int(letter == "B") for letter in ANSWERS]
    assert [(row["subject"], row["number"]) for row in rows] == [
        *(("animals", number) for number in range(6)), *(("weather", number) for number in range(4))
    ]  # fmt: skip
    assert {row["protocol"] for row in rows} == {protocol}
    assert {path for path, _ in asked} == {path}
    known = {name: value for name, value in rows[0].items() if name.startswith("score_")}
    spaced = {name: value for name, value in B.items() if name != "score_c"}  # that of C has no space before it
    assert known == {WRITTEN: {}, LIKELIEST: B, COMPLETIONS: spaced}[protocol]
    assert f"protocol: {protocol}" in said(place, "note")
    assert all("ttft" in row for row in rows) == stream
    assert {body["max_tokens"] for _, body in asked} == {16 if protocol == WRITTEN else 1}


def test_questions_are_those_of_the_local_benchmark_and_the_scores_add_up(place):
    with multiple_choice.serving() as server:
        ask(place, server, "completions", style="harness", concurrency=3)
        texts = [body["prompt"] for path, body in server.requests if path == "/v1/completions"]
    expected = [
        put("harness", question, subject.shots)
        for subject in read(str(place / "questions"), "all", shots=2)
        for question in subject.asked
    ]
    rows = answers(place)
    assert [(row["prompt"], row["question"]) for row in rows] == [(each.id, each.question.id) for each in expected]
    assert {each.text for each in expected} <= set(texts)
    found = evals(place)
    assert [(found[name, "acc"]["correct"], found[name, "acc"]["count"]) for name in ("animals", "weather", "")] == [
        (3, 6), (2, 4), (5, 10)
    ]  # fmt: skip
    assert found["", "acc_macro"]["value"] == 0.5
    assert found["", "acc"]["low"] < 0.5 < found["", "acc"]["high"]
    assert counter(place, "unparsed") == 0


def test_behind_a_text_a_letter_has_a_space_before_it_unless_none_has():
    likely = {"A": -1.0, " B": -1.5, "\u0120A": -4.0, "B": -9.0}
    assert letters(likely, COMPLETIONS) == {"A": -4.0, "B": -1.5}
    assert letters(likely, LIKELIEST) == {"A": -1.0, "B": -1.5}
    assert letters({"A": -1.0, "B": -2.0, " the": -0.5}, COMPLETIONS) == {"A": -1.0, "B": -2.0}


def test_the_warm_up_asks_none_of_the_questions(place):
    with multiple_choice.serving() as server:
        ask(place, server, "top", limit=1)
    rows = records(place, "requests.jsonl")
    assert [(row["phase"], "choice" in row) for row in rows] == [("warm-up", False)] * 2 + [("measured", True)] * 2
    assert not any("sent before" in why for why in said(place, "invalid"))


@pytest.mark.parametrize("model", ["prose", "silent"])
def test_an_answer_that_is_no_letter_is_wrong_and_counted(place, model):
    with multiple_choice.serving() as server:
        ask(place, server, model, subjects="weather")
    assert [(row["choice"], row["correct"], row["error"]) for row in answers(place)] == [("", 0, "")] * 4
    assert counter(place, "unparsed") == 4
    assert "4 of 4 answers were no letter and count as wrong" in said(place, "note")
    assert evals(place)["", "acc"]["value"] == 0


def test_a_first_token_that_is_no_letter_is_no_choice_where_the_protocol_was_named(place):
    with multiple_choice.serving() as server:
        ask(place, server, "top+reasons", protocol="top_logprobs", requests=3)
    assert [(row["choice"], row["protocol"]) for row in answers(place)] == [("", LIKELIEST)] * 3


@pytest.mark.parametrize(("model", "protocol", "words"), [
    ("top", "completions", "--protocol completions: status 404"),
    ("ignores", "top_logprobs", "--protocol top_logprobs: the answer tells of no likely tokens"),
    ("refuses", "top_logprobs", "logprobs is not supported by this model"),
])  # fmt: skip
def test_a_protocol_that_is_not_offered_is_one_line(place, model, protocol, words):
    with multiple_choice.serving() as server:
        done = ask(place, server, model, protocol=protocol, style="harness")
    assert done.returncode == 3
    (line,) = done.stderr.splitlines()
    assert words in line
    assert "auto takes the best that there is" in line


def test_what_the_endpoint_refuses_is_asked_for_once_and_told(place):
    with multiple_choice.serving() as server:
        ask(place, server, "refuses", style="harness", limit=1)
        tried = [(path, body.get("top_logprobs", body.get("logprobs"))) for path, body in server.requests]
        assert all({"seed", "temperature"} <= body.keys() for _, body in server.requests)
    chat, text = "/v1/chat/completions", "/v1/completions"
    assert tried == [(text, 20), (text, 5), (chat, 20), (chat, 5), *[(chat, None)] * 5]
    assert said(place, "field_dropped") == [
        "logprobs (log-likelihood of completions): status 404: there is no such path",
        "logprobs (first-token log-likelihood): status 400: logprobs is not supported by this model",
    ]


@pytest.mark.parametrize(("arguments", "words"), [
    (["--protocol", "completions"], "--style harness or original"),
    (["--shots", "9"], "above the most allowed, 5"),
    (["--style", "harnes"], "'harnes' is none of harness, original, chat"),
])  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_sent(place, arguments, words):
    with multiple_choice.serving() as server:
        site(place, "there", server.url)
        command = ["submit", "--site", "there", "--benchmark", "mmlu_endpoint", "--data", "questions", *arguments]
        done = hpcbench(*command, cwd=place, check=2)
        assert not server.requests
    assert words in done.stderr


@pytest.mark.parametrize(("parameters", "words"), [
    ({"subjects": "wether"}, "there is no 'wether' in"),
    ({"shots": 3}, "its development set has 2 questions, and --shots asks for 3"),
])  # fmt: skip
def test_questions_that_are_not_there_are_one_line(place, parameters, words):
    with multiple_choice.serving() as server:
        done = ask(place, server, "top", **parameters)
        assert not server.requests
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert words in line


def test_a_question_that_failed_is_in_no_score(place):
    with multiple_choice.serving() as server:
        done = ask(place, server, "top+one-in-4")
    assert done.returncode == 4
    rows = answers(place)
    failed = [row for row in rows if row["error"]]
    assert len(failed) > 1
    assert not any("choice" in row for row in failed)
    assert evals(place)["", "acc"]["count"] == len(rows) - len(failed)
    assert "status 500: out of luck" in done.stderr


def test_questions_that_were_answered_are_not_asked_again(place):
    with multiple_choice.serving() as server:
        ask(place, server, "top+one-in-4")
        before = [row for row in answers(place) if not row["error"]]
        (place / "attempt-1").mkdir()
        (place / "requests.jsonl").rename(place / "attempt-1" / "requests.jsonl")
        server.requests.clear()
        ask(place, server, "ignores")
        assert len(server.requests) == 2 + 2 + 10 - len(before)  # two to find the protocol, two to warm up
    assert {row["number"] for row in answers(place) if row["subject"] == "animals"} == set(range(6))
    assert evals(place)["", "acc"]["count"] == 10
    assert any("different protocols, whose scores do not compare" in note for note in said(place, "note"))


def test_several_clients_share_the_questions(place):
    with multiple_choice.serving() as server:
        ask(place, server, "completions", style="original", clients=2, concurrency=4)
    assert [row["choice"] for row in answers(place)] == ["B"] * 10
    assert {row["protocol"] for row in answers(place)} == {COMPLETIONS}


def test_a_line_in_front_changes_the_prompt_and_not_the_question(place):
    with multiple_choice.serving() as server:
        ask(place, server, "completions", style="harness", limit=1, vary_prefix=True)
        texts = [body["prompt"] for path, body in server.requests if path == "/v1/completions"]
    (subject, _) = read(str(place / "questions"), "all", shots=2)
    plain = put("harness", subject.asked[0], subject.shots)
    first = answers(place)[0]
    assert first["question"] == plain.question.id
    assert first["prompt"] != plain.id
    assert all("is the number of this request" in text.splitlines()[0] for text in texts)


def test_ollamas_own_api_tells_likely_tokens_too():
    top = [{"token": token, "logprob": value} for token, value in multiple_choice.LIKELY.items()]
    line = {
        "model": "tiny", "message": {"role": "assistant", "content": "B"}, "done": True,
        "logprobs": [{"token": " B", "logprob": -0.25, "top_logprobs": top}],
    }  # fmt: skip
    with saying(whole(line)) as url:
        assert answer(url).likely == multiple_choice.LIKELY


@pytest.mark.parametrize("told", [
    7, {"content": 7}, {"content": [7]}, {"content": [{"token": "B"}]}, {"content": [{"token": 7, "logprob": -1}]},
    {"top_logprobs": [None]}, {"top_logprobs": [{"B": "x"}]}, {"top_logprobs": [{"B": 10**400}]},
    {"content": [{"token": "B", "logprob": float("nan"), "top_logprobs": 7}]},
])  # fmt: skip
def test_what_is_no_log_probability_is_none(told):
    choice = {"message": {"role": "assistant", "content": "B"}, "finish_reason": "stop", "logprobs": told}
    with saying(whole({"choices": [choice]})) as url:
        found = answer(url)
    assert (found.likely, found.text, found.failure) == ({}, "B", "")


def test_the_real_questions(place, corpus):
    folder = corpus.parent / "datasets" / "mmlu"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    with multiple_choice.serving() as server:
        ask(place, server, "top", data=str(folder), subjects="stem", limit=20, concurrency=4)
    found = evals(place)
    assert [found[name, "acc"]["count"] for name in ("abstract_algebra", "astronomy", "")] == [20, 20, 40]
    assert counter(place, "unparsed") == 0


OWN = """\
title: Questions
parameters:
  own: {type: int, default: 1, help: of the form that runs a model itself}
command: ["{{ python }}", -c, "print('ran here')"]
at_endpoints: mmlu_endpoint
"""


@pytest.fixture
def two_forms(place):
    (place / "templates" / "questions").mkdir(parents=True)
    (place / "templates" / "questions" / "benchmark.yaml").write_text(OWN)
    return place


def test_a_benchmark_has_another_form_at_endpoints(two_forms):
    with multiple_choice.serving() as server:
        site(two_forms, "there", server.url)
        command = ["submit", "--site", "there", "--benchmark", "questions", "--data", "questions", "--shots", "2"]
        hpcbench(*command, "--name", "r", "--wait", cwd=two_forms, check=0)
    assert len(answers(two_forms / "logs" / "r" / "001")) == 10
    assert json.loads((two_forms / "logs" / "r" / "run.json").read_text())["benchmark"] == "mmlu_endpoint"
    (comparison,) = compare(package.parse(two_forms / "logs"))
    assert comparison.rows[0].metrics["accuracy"].mean == 0.5


def test_help_lists_the_parameters_of_the_form_that_would_run(two_forms):
    site(two_forms, "there", "http://127.0.0.1:9/v1")
    ask_for = ["submit", "--benchmark", "questions", "--help"]
    assert "--own" in hpcbench(*ask_for, cwd=two_forms, check=0).stdout
    shown = hpcbench(*ask_for, "--site", "there", cwd=two_forms, check=0).stdout
    assert "--protocol" in shown
    assert "--own" not in shown


def test_sites_of_both_kinds_are_one_line(two_forms):
    site(two_forms, "there", "http://127.0.0.1:9/v1")
    done = hpcbench("submit", "--site", "there,local", "--benchmark", "questions", cwd=two_forms, check=2)
    assert "benchmark questions is another one at endpoints (there) than at local" in done.stderr


def test_a_tiny_model_is_served_here_and_asked(place):
    pytest.importorskip("transformers", reason="the embedded endpoint needs transformers")
    command = ["submit", "--site", "local", "--benchmark", "mmlu_endpoint", "--data", "questions", "--shots", "1"]
    hpcbench(*command, "--limit", "2", "--name", "r", "--wait", cwd=place, check=0)
    case = place / "logs" / "r" / "001"
    assert [row["protocol"] for row in answers(case)] == [WRITTEN] * 4
    assert counter(case, "unparsed") == 4  # its words are drawn at random
