"""``python -m mmlu`` as a job runs it: processes of its own, judged by what they print and leave."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="mmlu needs torch")
pytest.importorskip("transformers", reason="mmlu needs transformers")

import safetensors.torch
from inference import multiple_choice
from workloads import tiny_models

from hpcbench.workloads.mmlu import __main__ as program
from hpcbench.workloads.mmlu.processes import layout

PROGRAM = Path(__file__).parents[2] / "hpcbench" / "workloads" / "mmlu"
RECORDED = Path(__file__).with_name("lm_eval_scores.json")
COUNT = sum(map(len, multiple_choice.SUBJECTS.values()))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "questions"
    multiple_choice.write(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_models.write(tmp_path_factory.mktemp("model"), chat=True)


def command(model, data, *options):
    return [sys.executable, "-B", "-m", "mmlu", f"--model={model}", f"--data={data}", "--shots=2", *options]


def place(folder):
    """Put the program where a bundle has it."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copytree(PROGRAM, folder / "mmlu", ignore=shutil.ignore_patterns("__pycache__"), dirs_exist_ok=True)
    return folder


def run(folder, model, data, *options):
    return subprocess.run(
        command(model, data, *options), cwd=place(folder), capture_output=True, text=True, check=False, env=_quiet()
    )


def _quiet():
    return {**os.environ, "HF_HUB_OFFLINE": "1"}


def records(done, **wanted):
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return [row for row in rows if wanted.items() <= row.items()]


def answers(folder):
    return {row["question"]: row for row in map(json.loads, (folder / "answers.jsonl").read_text().splitlines())}


def chosen(folder):
    return {question: row["choice"] for question, row in answers(folder).items()}


@pytest.fixture(scope="module")
def batched(tmp_path_factory, model, data):
    folder = tmp_path_factory.mktemp("batched")
    return folder, run(folder, model, data, "--mode=batched")


def test_every_question_has_an_answer_with_its_likelihoods(batched):
    folder, done = batched
    rows = answers(folder)
    assert len(rows) == COUNT
    for row in rows.values():
        scores = [row[f"score_{letter}"] for letter in "abcd"]
        assert "ABCD"[scores.index(max(scores))] == row["choice"]
        assert row["correct"] == (row["choice"] == row["answer"])
        assert (row["shots"], row["cut"], row["process"], row["task"]) == (2, 0, 0, "mmlu")
        assert row["duration"] > 0
    assert {row["subject"] for row in rows.values()} == set(multiple_choice.SUBJECTS)
    [whole] = records(done, record="eval", metric="acc", subject="")
    assert (whole["count"], whole["correct"]) == (COUNT, sum(row["correct"] for row in rows.values()))
    assert records(done, record="event")[-1]["kind"] == "finished"


@pytest.mark.parametrize("family", ["LlamaConfig", "GPT2Config"])
@pytest.mark.parametrize("shots", [0, 2])
def test_log_likelihoods_are_those_of_lm_evaluation_harness(tmp_path, data, family, shots):
    """They were taken by ``benchmarks/mmlu/harness.py``, version 0.4.13, of the same models and questions."""
    recorded = json.loads(RECORDED.read_text())[f"{family} {shots}"]
    records(run(tmp_path, tiny_models.write(tmp_path / "model", family), data, f"--shots={shots}"))
    rows = answers(tmp_path).values()
    assert len(rows) == COUNT
    for row in rows:
        right = recorded[row["subject"]][row["number"]]
        assert [row[f"score_{letter}"] for letter in "abcd"] == pytest.approx(right, abs=1e-3)
        assert row["choice"] == "ABCD"[right.index(max(right))]


def test_phases_begin_and_end_for_each_process(batched):
    _, done = batched
    kinds = [row["kind"] for row in records(done, record="event", process=0)]
    assert kinds[:4] == ["import_start", "data_start", "data_end", "import_end"]
    assert kinds[-1] == "process_end"
    for word in ("import", "model", "data", "prefill", "score"):
        assert kinds.count(f"{word}_start") == kinds.count(f"{word}_end") > 0
    times = [row["time"] for row in records(done, record="event", process=0)]
    assert times == sorted(times)


def test_the_rate_is_over_the_time_in_which_questions_were_computed(batched):
    _, done = batched
    spent = 0.0
    for row in records(done, record="event", process=0):
        if row["kind"] in ("prefill_end", "score_end"):
            spent += row["time"]
        elif row["kind"] in ("prefill_start", "score_start"):
            spent -= row["time"]
    assert records(done, name="questions_per_second")[0]["value"] == pytest.approx(COUNT / spent, rel=1e-3)


def test_time_in_which_several_compute_counts_once():
    assert program._covered([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0), (5.5, 5.75)]) == 4.0
    assert program._covered([]) == 0.0


def test_memory_is_that_of_the_largest_and_of_those_at_once(tmp_path, capsys):
    with (tmp_path / "answers.jsonl").open("w") as file:
        record = program._Record(file, {}, 2, 5)
        for process, peak in enumerate((100, 300, 200)):
            record.take(process, {"kind": "counters", "time": 0.0, "max_memory": peak, "prompt_tokens": 7})
            record.take(process, {"kind": "counters", "time": 0.0, "max_device_memory": 10 * peak})
        record.finish()
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    values = {row["name"]: row["value"] for row in told if row["record"] == "counter"}
    assert values == {
        "processes": 3, "max_memory": 300, "processes_memory": 500, "max_device_memory": 3000, "prompt_tokens": 21,
    }  # fmt: skip


def test_a_question_takes_the_part_of_its_batch_that_its_tokens_are(batched):
    rows = [row for row in answers(batched[0]).values() if row["subject"] == "animals"]
    each = [row["duration"] / row["tokens"] for row in rows]
    assert each == pytest.approx([each[0]] * len(rows))
    assert len({row["tokens"] for row in rows}) > 1


def test_work_is_laid_out_by_the_mode():
    names = ["art", "law", "music"]
    assert layout("batched", names, 0).processes == (("art", "law", "music"),)
    apart = (("art",), ("law",), ("music",))
    for mode, at_once in (("sequential", 1), ("parallel", 2)):
        found = layout(mode, names, 2)
        assert (found.processes, found.at_once) == (apart, at_once)
    replicas = layout("replicas", names, 3)
    assert (replicas.processes, replicas.at_once) == (((), (), ()), 3)
    assert sorted(replicas.queue) == [(name, part, 4) for name in names for part in range(4)]
    assert layout("replicas", names, 0, "cpu").at_once == 2


def test_what_stands_before_all_questions_is_computed_once(batched):
    _, done = batched
    [given] = records(done, name="prompt_tokens")
    [computed] = records(done, name="computed_tokens")
    assert computed["value"] < 0.7 * given["value"]
    [told] = records(done, kind="reuse")
    assert "on 2 questions" in told["message"]


@pytest.mark.parametrize(
    ("mode", "options", "processes"),
    [("sequential", (), 2), ("parallel", (), 2), ("replicas", (), 2), ("replicas", ("--processes=3",), 3)],
)
def test_every_mode_answers_the_same(tmp_path, batched, model, data, mode, options, processes):
    done = run(tmp_path, model, data, f"--mode={mode}", *options)
    [count] = records(done, name="processes")
    assert count["value"] == processes
    assert chosen(tmp_path) == chosen(batched[0])
    starts = [row["time"] for row in records(done, kind="import_start")]
    ends = [row["time"] for row in records(done, kind="process_end")]
    assert (max(starts) < min(ends)) == (mode != "sequential")
    usable = len(os.sched_getaffinity(0))
    told = json.loads(records(done, kind="environment")[0]["message"])  # what torch says, not what it was told
    assert told["threads"] == (usable if mode == "sequential" else max(1, usable // processes))


@pytest.mark.parametrize("options", [("--reuse=false",), ("--batch=1",)])
def test_how_it_is_computed_changes_no_answer(tmp_path, batched, model, data, options):
    done = run(tmp_path, model, data, *options)
    assert chosen(tmp_path) == chosen(batched[0])
    for question, row in answers(tmp_path).items():
        other = answers(batched[0])[question]
        assert [row[f"score_{each}"] for each in "abcd"] == pytest.approx(
            [other[f"score_{each}"] for each in "abcd"], abs=1e-4
        )
    if options == ("--reuse=false",):
        given, computed = (records(done, name=f"{word}_tokens")[0]["value"] for word in ("prompt", "computed"))
        assert given <= computed < 1.1 * given  # rows are padded


def test_processes_fight_for_the_cores_where_they_are_told_to(tmp_path, model, data):
    done = run(tmp_path, model, data, "--mode=parallel", "--share-cores=false")
    told = json.loads(records(done, kind="environment")[0]["message"])
    assert told["threads"] == len(os.sched_getaffinity(0))


def test_what_an_attempt_before_answered_is_not_asked_again(tmp_path, batched, model, data):
    before = place(tmp_path) / "attempt-1"
    before.mkdir()
    lines = (batched[0] / "answers.jsonl").read_text().splitlines()
    marked = [json.dumps({**json.loads(line), "duration": 4711.0}) for line in lines[:6]]
    (before / "answers.jsonl").write_text("\n".join([*marked, lines[6][:50]]) + "\n")
    done = run(tmp_path, model, data)
    rows = answers(tmp_path)
    assert len(rows) == COUNT
    assert sum(row["duration"] == 4711.0 for row in rows.values()) == 6
    assert chosen(tmp_path) == chosen(batched[0])
    assert any("6 answers are of attempts before" in row["message"] for row in records(done, kind="note"))


def test_answers_to_other_prompts_are_not_taken_over(tmp_path, batched, model, data):
    before = place(tmp_path) / "attempt-1"
    before.mkdir()
    lines = (batched[0] / "answers.jsonl").read_text().splitlines()
    marked = [json.dumps({**json.loads(line), "prompt": "0" * 16, "choice": "A"}) for line in lines[:6]]
    (before / "answers.jsonl").write_text("\n".join(marked) + "\n")
    run(tmp_path, model, data)
    assert len((tmp_path / "answers.jsonl").read_text().splitlines()) == COUNT
    assert chosen(tmp_path) == chosen(batched[0])


def test_questions_that_are_the_same_in_every_word_are_told_apart(tmp_path, model):
    data = tmp_path / "data"
    data.mkdir()
    rows = ["Same?,a,b,c,d,A", "Other?,a,b,c,d,C", "Same?,a,b,c,d,B"]
    (data / "art_test.csv").write_text("\n".join(rows) + "\n")
    records(run(tmp_path / "run", model, data, "--shots=0"))
    lines = (tmp_path / "run" / "answers.jsonl").read_text().splitlines()
    before = place(tmp_path / "again") / "attempt-1"
    before.mkdir()
    kept = [line for line in lines if json.loads(line)["number"] != 0]
    (before / "answers.jsonl").write_text("\n".join(kept) + "\n")
    records(run(tmp_path / "again", model, data, "--shots=0"))
    found = [json.loads(line) for line in (tmp_path / "again" / "answers.jsonl").read_text().splitlines()]
    assert sorted(row["number"] for row in found) == [0, 1, 2]
    assert {row["number"]: row["answer"] for row in found} == {0: "A", 1: "C", 2: "B"}


def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path, batched, model, data):
    place(tmp_path)
    child = subprocess.Popen(
        command(model, data, "--mode=batched", "--batch=1"), cwd=tmp_path, env=_quiet(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    file = tmp_path / "answers.jsonl"
    while not (file.exists() and file.read_text().count("\n")) and child.poll() is None:
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    there = file.read_text().count("\n")
    (tmp_path / "attempt-1").mkdir()
    file.rename(tmp_path / "attempt-1" / "answers.jsonl")
    run(tmp_path, model, data)
    assert there > 0
    assert chosen(tmp_path) == chosen(batched[0])


def test_a_model_that_computes_no_numbers_has_not_chosen_a(tmp_path, data):
    model = tiny_models.write(tmp_path / "model")
    tensors = safetensors.torch.load_file(model / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    safetensors.torch.save_file(tensors, model / "model.safetensors", {"format": "pt"})
    done = run(tmp_path / "run", model, data)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "a log-likelihood is not a number: does the model hold such weights" in done.stderr


def test_several_processes_tell_of_a_mistake_once(tmp_path, model, data):
    bare = tmp_path / "bare"
    shutil.copytree(model, bare)
    (bare / "tokenizer.json").unlink()
    (bare / "model.safetensors").write_bytes(b"cut")
    done = run(tmp_path / "run", bare, data, "--mode=parallel")
    assert done.returncode == 2
    assert done.stderr.startswith(f"mmlu: error: --model {bare}: holds no tokenizer")
    assert done.stderr.count("\n") == 1
    shutil.copy(model / "tokenizer.json", bare)
    done = run(tmp_path / "run", bare, data, "--mode=parallel")
    assert done.returncode == 2
    assert done.stderr.startswith(f"mmlu: error: --model {bare}: cannot be loaded: ")
    assert done.stderr.count("\n") == 1


def test_a_process_that_is_killed_is_named_and_ends_the_run(tmp_path, model, data):
    place(tmp_path)
    child = subprocess.Popen(
        command(model, data, "--mode=parallel"), cwd=tmp_path, env=_quiet(), stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    children = Path(f"/proc/{child.pid}/task/{child.pid}/children")
    while not (found := children.read_text().split()) and child.poll() is None:
        time.sleep(0.01)
    os.kill(int(found[0]), signal.SIGKILL)
    _, said = child.communicate()
    assert child.returncode == 1
    assert said.splitlines()[-1] == "mmlu: error: process 0 (animals) was ended by SIGKILL"


def test_a_prompt_longer_than_the_context_loses_its_beginning(tmp_path, data):
    model = tiny_models.write(tmp_path / "model", context=150)
    done = run(tmp_path / "run", model, data)
    rows = answers(tmp_path / "run").values()
    assert len(rows) == COUNT
    cut = [row for row in rows if row["cut"]]
    assert cut
    note = f"{len(cut)} of {COUNT} prompts were longer than the context: their beginnings were left out"
    assert note in [row["message"] for row in records(done, kind="note")]


def test_in_other_styles_it_loses_shots_first(tmp_path, data):
    model = tiny_models.write(tmp_path / "model", context=150)
    done = run(tmp_path / "run", model, data, "--style=original")
    rows = answers(tmp_path / "run").values()
    assert len(rows) == COUNT
    fewer = [row for row in rows if row["shots"] < 2]
    assert fewer
    assert any("they have fewer shots" in row["message"] for row in records(done, kind="note"))


def test_a_chat_is_put_by_the_models_own_template(tmp_path, model, data):
    records(run(tmp_path, model, data, "--style=chat"))
    assert len(answers(tmp_path)) == COUNT


def test_letters_of_several_tokens_are_scored_as_a_whole(tmp_path, data):
    model = tiny_models.write(tmp_path / "model", whole_letters=False)
    for name, options in (("reused", ()), ("whole", ("--reuse=false",))):
        records(run(tmp_path / name, model, data, *options))
    for question, row in answers(tmp_path / "whole").items():
        other = answers(tmp_path / "reused")[question]
        assert [row[f"score_{each}"] for each in "abcd"] == pytest.approx(
            [other[f"score_{each}"] for each in "abcd"], abs=1e-4
        )


def test_a_family_that_does_not_fit_falls_back_and_says_so(tmp_path, data):
    model = tiny_models.write(tmp_path / "model", "BloomConfig")
    done = run(tmp_path / "run", model, data)
    notes = [row["message"] for row in records(done, kind="note")]
    assert any("NOT reused, which takes longer" in note for note in notes)
    run(tmp_path / "whole", model, data, "--reuse=false")
    assert chosen(tmp_path / "run") == chosen(tmp_path / "whole")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--subjects=animal",), "--subjects: there is no 'animal' in {data}; did you mean 'animals'?"),
        (("--shots=5",), "animals: its development set has 2 questions, and --shots asks for 5"),
        (("--shots=6",), "argument --shots: expected a whole number from 0 to 5, found '6'"),
        (("--model=/no/such",), "--model: there is no folder /no/such"),
        (("--model={data}",), "--model {data}: is no folder of a model: there is no config.json in it"),
        (("--style=chat", "--model={plain}"), "--style chat: its tokenizer has no chat template; harness and "),
        (("--model={bare}",), "--model {bare}: holds no tokenizer: neither tokenizer.json, tokenizer.model, "),
        (("--mode=quick",), "argument --mode: invalid choice"),
        (("--data=/no/such",), "--data: there is no folder /no/such"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(tmp_path, model, data, options, said):
    places = {"data": data, "plain": tmp_path / "plain", "bare": tmp_path / "bare"}
    if "{plain}" in str(options):
        tiny_models.write(places["plain"])
    if "{bare}" in str(options):
        shutil.copytree(model, places["bare"])
        (places["bare"] / "tokenizer.json").unlink()
    done = run(tmp_path / "run", model, data, *(each.format(**places) for each in options))
    assert done.returncode == 2
    assert done.stderr.startswith(f"mmlu: error: {said.format(**places)}")
    assert done.stderr.count("\n") == 1
