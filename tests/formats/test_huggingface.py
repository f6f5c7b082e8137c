import math

import pytest
import written

from hpcbench.parse.content import read_bytes

CONSOLE, STATE, RESULTS = "hf-trainer", "hf-trainer-state", "hf-results"


def table(records, name):
    return [record.values for record in records if record.table == name]


def test_a_real_console_gives_steps_scores_and_summary(corpus):
    data = (corpus / "training/hf_trainer/hf_cpt_console.txt").read_bytes()
    assert read_bytes(data).formats == [CONSOLE]
    records, unread = written.read(CONSOLE, data)
    steps, evals = table(records, "steps"), table(records, "evals")
    assert (len(steps), len(evals), unread) == (10, 50, 0)
    assert steps[-1] == {
        "loss": 0.2645, "grad_norm": 3.681400775909424, "lr": 1.7850637522768672e-06, "epoch": 9.11
    }  # fmt: skip
    assert evals[0] == {
        "task": "validation", "metric": "loss", "value": 0.6597685217857361, "epoch": 1.0, "duration": 2725.7664,
        "samples_per_second": 0.403, "steps_per_second": 0.067,
    }  # fmt: skip
    assert [row["metric"] for row in evals[:5]] == ["loss", "rouge-1", "rouge-2", "rouge-l", "gen_len"]
    assert table(records, "counters") == [
        {"name": "train_runtime", "value": 64358.151, "unit": "s"},
        {"name": "train_samples_per_second", "value": 0.511, "unit": "samples/s"},
        {"name": "train_steps_per_second", "value": 0.085, "unit": "steps/s"},
        {"name": "train_loss", "value": 0.4479398911550831, "unit": ""},
    ]
    lines = data.split(b"\n")
    assert all(lines[each.line - 1].startswith(b"{'") for each in records)


def test_every_rank_prints_its_summary(corpus):
    records, _ = written.read(CONSOLE, (corpus / "training/deepspeed/hf_ds_gpt2_n16.out").read_bytes())
    times = [row["value"] for row in table(records, "counters") if row["name"] == "train_runtime"]
    assert (len(times), times[-1]) == (16, 273.0149)


def test_a_real_state_gives_each_entry_with_its_line(corpus):
    file = corpus / "training/hf_trainer/jaong_cpt/trainer_state.json"
    assert read_bytes(file.read_bytes()).formats == [STATE]
    records, unread = written.read(STATE, file.read_bytes())
    assert unread == 0
    assert [len(table(records, name)) for name in ("steps", "evals", "counters")] == [10, 100, 5]
    assert [row["step"] for row in table(records, "steps")] == list(range(500, 5001, 500))
    lines = file.read_text().split("\n")
    for record in records:
        assert lines[record.line - 1].strip() == "{"
        if record.table == "steps":
            assert f'"loss": {record.values["loss"]}' in "".join(lines[record.line : record.line + 5])
    assert {row["task"] for row in table(records, "evals")} == {"validation", "prediction"}


def test_data_sets_that_were_evaluated_apart_stay_apart(corpus):
    data = (corpus / "training/hf_trainer/aigoncharov_trainer_state.json").read_bytes()
    assert read_bytes(data).formats == [STATE]
    records, _ = written.read(STATE, data)
    evals = table(records, "evals")
    assert (len(table(records, "steps")), len(evals)) == (30, 372)
    assert evals[-1] == {
        "task": "validation", "subject": "g5", "metric": "loss", "value": 4.835134983062744, "epoch": 30, "step": 12030
    }  # fmt: skip


@pytest.mark.parametrize("file", ["all_results.json", "train_results.json"])
def test_real_results_are_counters_with_the_lines_of_their_keys(corpus, file):
    data = (corpus / "training/hf_trainer/jaong_cpt" / file).read_bytes()
    assert read_bytes(data).formats == [RESULTS]
    records, unread = written.read(RESULTS, data)
    assert [(each.line, each.values["name"], each.values["value"]) for each in records] == [
        (3, "train_loss", 0.4479398911550831), (4, "train_runtime", 64358.151), (5, "train_samples", 3290),
        (6, "train_samples_per_second", 0.511), (7, "train_steps_per_second", 0.085),
    ]  # fmt: skip
    assert unread == 0


def test_results_of_an_evaluation_are_scores():
    data = b'{\n"eval_loss": 2.5,\n"eval_runtime": 4.0,\n"eval_samples": 120,\n"eval_samples_per_second": 30.0,\n'
    records, _ = written.read(RESULTS, data + b'"perplexity": 12.18\n}')
    assert [(each.line, each.values) for each in records] == [
        (2, {"task": "validation", "metric": "loss", "value": 2.5, "count": 120, "duration": 4.0,
             "samples_per_second": 30.0}),
        (6, {"task": "validation", "metric": "perplexity", "value": 12.18, "count": 120}),
    ]  # fmt: skip


LINE = "{'loss': '2.14', 'grad_norm': '199.5', 'learning_rate': '5e-05', 'epoch': '0.3636'}"


def test_numbers_in_quotes_are_numbers():
    log = f"{LINE}\n{{'train_runtime': '2.035e+04', 'train_loss': '3.779', 'epoch': '1'}}\n"
    records, unread = written.read(CONSOLE, log)
    assert table(records, "steps") == [{"loss": 2.14, "grad_norm": 199.5, "lr": 5e-05, "epoch": 0.3636}]
    assert [row["value"] for row in table(records, "counters")] == [20350, 3.779]
    assert unread == 0


@pytest.mark.parametrize(
    "line", [f"  1%|#  | 1/60 [00:55<54:36, 55.53s/it]{LINE}", f"[rank0]: {LINE}", f"[ 97.1s] {LINE}"]
)
def test_what_stands_before_a_dict_does_not_matter(line):
    assert len(table(written.read(CONSOLE, line)[0], "steps")) == 1


def test_columns_of_other_trainers_are_kept_where_they_are_plain():
    log = "{'loss': 0.5, 'learning_rate': 1e-05, 'token_acc': 0.85, 'rewards/margin': 0.1, 'memory(GiB)': 14.34, "
    log += "'time': 3, 'num_input_tokens_seen': 4096, 'epoch': 0.1, 'global_step/max_steps': '7/60'}"
    assert table(written.read(CONSOLE, log)[0], "steps") == [
        {"loss": 0.5, "lr": 1e-05, "token_acc": 0.85, "tokens": 4096, "epoch": 0.1, "step": 7}
    ]


def test_two_ranks_on_one_line_are_both_read_once():
    records, _ = written.read(CONSOLE, LINE + "{'eval_loss': 1.5, 'eval_runtime': 3.0, 'epoch': 1.0}" + LINE + "\n")
    assert [len(table(records, name)) for name in ("steps", "evals")] == [2, 1]


def test_a_line_of_thousands_of_dicts_is_not_read_twice():
    records, unread = written.read(CONSOLE, LINE * 5000)
    assert len(records) < 5000
    assert unread > 0


def test_a_loss_that_stops_being_a_number_is_an_event():
    records, _ = written.read(CONSOLE, LINE + "\n" + LINE.replace("'2.14'", "nan") + "\n")
    assert [(each.line, each.values["kind"]) for each in records if each.table == "events"] == [(2, "nan_loss")]


@pytest.mark.parametrize("line", [
    LINE[:-1], LINE[:-9], "{'loss': 2.1", "{'eval_loss': 2.1, 'eval_runtime': 3.0, 'epo", "{'train_runtime': 64358.1",
])  # fmt: skip
def test_a_damaged_line_is_counted_and_gives_no_number(line):
    assert written.read(CONSOLE, line) == ([], 1)


@pytest.mark.parametrize("text", [
    b"{'loss': 0.31, 'accuracy': 0.9}\n",  # what Keras gives back
    b"{'loss': [1, 2], 'epoch': 3}\n",
    b"the 'loss': 0.3 at 'epoch': 2\n",
    b'{"total_runtime": 3.0, "x_samples_per_second": 4.0}',
    b'["log_history", "global_step"]',
])  # fmt: skip
def test_other_dicts_are_not_taken(text):
    assert read_bytes(text).formats == []


def test_of_a_state_that_was_cut_the_entries_before_are_read():
    whole = '{"log_history": [\n{"loss": NaN, "step": 1, "epoch": 1},\n{"loss": 2.5, "step": 2, "epoch": 1},\n'
    records, unread = written.read(STATE, whole + '{"loss": 2.')
    assert [(each.line, each.values["step"]) for each in records if each.table == "steps"] == [(2, 1), (3, 2)]
    assert math.isnan(table(records, "steps")[0].get("loss", math.nan))
    assert unread == 1


@pytest.mark.parametrize("data", [
    b'{"log_history": [' + b"[" * 200_000, b'{"log_history": 5, "global_step": 1}', b'{"log_history": [1, null, "x"',
])  # fmt: skip
def test_a_strange_state_gives_no_number(data):
    assert written.read(STATE, data) == ([], 1)
