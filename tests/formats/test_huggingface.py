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
        {"name": "train_samples", "value": 3290, "unit": ""},  # in the block alone
    ]
    lines = data.split(b"\n")
    assert all(lines[each.line - 1].startswith((b"{'", b"  train_samples ")) for each in records)


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


BLOCKS = """***** train metrics *****
  epoch                    =        3.0
  total_flos               =        2GF
  train_loss               =     0.8453
  train_mem_gpu_alloc_delta =     -3MB
  train_runtime            = 1 day, 0:00:42.83
  train_samples            =         93
  train_samples_per_second =      6.514
{between}***** eval metrics *****
  epoch                   =        3.0
  eval_accuracy           =     0.6341
  eval_loss               =     0.8219
  eval_runtime            = 0:00:06.95
  eval_samples            =         41
  eval_samples_per_second =      5.893
  perplexity              =     2.2748
and so on = 3
"""
RESULTS_OF_BLOCKS = """{
"epoch": 3.0, "total_flos": 2147483648.0, "train_loss": 0.8453, "train_mem_gpu_alloc_delta": -3145728,
"train_runtime": 86442.83, "train_samples": 93, "train_samples_per_second": 6.514,
"eval_accuracy": 0.6341, "eval_loss": 0.8219, "eval_runtime": 6.95, "eval_samples": 41,
"eval_samples_per_second": 5.893, "perplexity": 2.2748 }
"""


@pytest.mark.parametrize("before", ["", "INFO ", "[INFO|trainer_pt_utils.py:1012] 2026-01-02 03:04:05,678 >> "])
def test_the_blocks_of_a_console_say_what_the_file_of_results_says(before):
    log = "".join(f"{before}{line}\n" for line in BLOCKS.format(between="").splitlines())
    assert read_bytes(log.encode()).formats == [CONSOLE]
    records, unread = written.read(CONSOLE, log)
    expected, _ = written.read(RESULTS, RESULTS_OF_BLOCKS)
    assert [each.values for each in records] == [each.values for each in expected]
    assert [each.line for each in records] == [3, 4, 5, 6, 7, 8, 11, 12, 16]
    assert (records[2].values["unit"], records[3].values["unit"]) == ("B", "s")
    assert unread == 0


def test_what_a_dict_says_in_full_is_not_read_again_from_a_block():
    said = "{'train_runtime': 86442.8371, 'train_samples_per_second': 6.514, 'train_loss': 0.84531, 'epoch': 3.0}\n"
    between = "{'eval_loss': 0.82189, 'eval_runtime': 6.9543, 'eval_samples_per_second': 5.893, 'epoch': 3.0}\n"
    records, unread = written.read(CONSOLE, said + BLOCKS.format(between=between))
    names = [(each.line, each.values.get("name") or each.values["metric"], each.values["value"]) for each in records]
    assert names == [
        (1, "train_runtime", 86442.8371), (1, "train_samples_per_second", 6.514), (1, "train_loss", 0.84531),
        (4, "total_flos", 2 * 2**30), (6, "train_mem_gpu_alloc_delta", -3 * 2**20), (8, "train_samples", 93),
        (10, "loss", 0.82189), (13, "accuracy", 0.6341), (18, "perplexity", 2.2748),
    ]  # fmt: skip
    assert unread == 0


def test_a_block_that_was_cut_gives_no_half_number():
    text = BLOCKS.format(between="")
    whole = [each.values for each in written.read(CONSOLE, text)[0]]
    names = {(row["value"], row.get("name") or row["metric"]) for row in whole}
    for at in range(len(text)):
        records, unread = written.read(CONSOLE, text[:at])
        assert {(each.values["value"], each.values.get("name") or each.values["metric"]) for each in records} <= names
        assert unread == 0 or text[at - 1] != "\n"
    assert written.read(CONSOLE, "***** train metrics *****\n  train_loss = 0.8") == ([], 1)


def test_the_blocks_that_the_trainer_itself_prints_are_read(capsys):
    trainer = pytest.importorskip("transformers.trainer_pt_utils")
    said = {"train_runtime": 93784.567, "total_flos": 5.5e15, "train_samples": 7, "train_loss": 1.23456, "epoch": 2.0}
    owner = type("Trainer", (), {"is_world_process_zero": lambda _self: True})()
    trainer.log_metrics(owner, "train", said)
    found = {each.values["name"]: each.values["value"] for each in written.read(CONSOLE, capsys.readouterr().out)[0]}
    assert found == pytest.approx(
        {"train_runtime": 93784.56, "total_flos": 5.5e15, "train_samples": 7, "train_loss": 1.2346}, rel=1e-6
    )


@pytest.mark.parametrize("text", [
    b"***** Running training *****\n  train_loss = 3\n",
    b"***** odd metrics *****\ntrain_loss: 3\n",
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
