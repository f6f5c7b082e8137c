import json

import pytest
import written
from said import parameters, read

from hpcbench.formats import get
from hpcbench.parse.content import read_bytes

LINE = get("fairseq").example
HEAD = "2023-04-05 06:07:08 | INFO | "
TIME = 1680674828


def rows(records, table):
    return [record.values for record in records if record.table == table]


def test_a_real_log_gives_every_line_within_its_epoch(corpus):
    data = (corpus / "training/fairseq/fairseq_mhmoe_train.log").read_bytes()
    assert read_bytes(data).formats == ["fairseq"]
    records, unread = read("fairseq", data)
    assert (len(records), unread) == (340, 0)
    assert records[-1].line == 913
    assert records[-1].values == {
        "epoch": 1, "step": 17000, "loss": 0.091, "perplexity": 1, "tokens_per_second": 123320,
        "steps_per_second": 0.24, "tokens_per_step": 524123, "global_batch_size": 256, "lr": 0.000566708,
        "grad_norm": 0.005, "loss_scale": 256, "time": 1688050305,
    }  # fmt: skip


def test_the_end_of_an_epoch_and_its_validation_are_read():
    log = (
        f"{HEAD}valid | epoch 003 | valid on 'valid' subset | loss 4.5 | nll_loss 3.25 | ppl 9.51 | bleu 21.5 | "
        "wps 1000 | num_updates 600 | best_loss 4.25\n"
        f"{HEAD}train | epoch 003 | loss 5.25 | nll_loss 4.5 | ppl 22.6 | wps 5000 | ups 1.5 | wpb 3333 | "
        "num_updates 600 | lr 0.0005 | gnorm 1.25 | train_wall 120 | wall 700\n"
    )
    records, unread = written.read("fairseq", log)
    assert unread == 0
    common = {"task": "validation", "subject": "valid", "step": 600, "epoch": 3, "time": TIME}
    scores = {"loss": 4.5, "nll_loss": 3.25, "perplexity": 9.51, "bleu": 21.5}
    assert sorted(rows(records, "evals"), key=lambda row: list(scores).index(row["metric"])) == [
        {**common, "metric": metric, "value": value} for metric, value in scores.items()
    ]
    assert rows(records, "epochs") == [
        {"epoch": 3, "step": 600, "loss": 5.25, "perplexity": 22.6, "tokens_per_second": 5000, "steps_per_second": 1.5,
         "lr": 0.0005, "grad_norm": 1.25, "duration": 120, "time": TIME},
    ]  # fmt: skip


def test_an_older_version_without_a_logger_is_read():
    line = (
        "| epoch 002:    450 / 1891 loss=11.5, ppl=1886.05, wps=52922, ups=0.5, num_updates=445, lr=8.9e-05, wall=882"
    )
    records, unread = written.read("fairseq", line)
    assert unread == 0
    [row] = rows(records, "steps")
    assert (row["epoch"], row["step"], row["loss"], row["lr"]) == (2, 445, 11.5, 8.9e-5)


def test_json_says_the_same():
    step = {"epoch": 27, "update": 26.267, "loss": "8.206", "ppl": "132.47", "wps": "1195.4", "num_updates": "33700"}
    epoch = {
        "epoch": 27,
        "train_loss": "8.1",
        "train_wps": "1190",
        "train_train_wall": "610",
        "train_num_updates": "33900",
    }
    valid = {"epoch": 27, "valid_loss": "8.4", "valid_ppl": "140.1", "valid_num_updates": "33900"}
    log = "".join(
        f"{HEAD}{tag} | {json.dumps(row)}\n" for tag, row in (("train_inner", step), ("train", epoch), ("valid", valid))
    )
    content = read_bytes(log.encode())
    assert (content.formats, content.unread) == (["fairseq"], 0)
    records, _ = written.read("fairseq", log)
    assert rows(records, "steps") == [
        {"epoch": 27, "time": TIME, "step": 33700, "loss": 8.206, "perplexity": 132.47, "tokens_per_second": 1195.4}
    ]
    assert rows(records, "epochs") == [
        {"epoch": 27, "time": TIME, "step": 33900, "loss": 8.1, "tokens_per_second": 1190, "duration": 610}
    ]
    assert [(row["metric"], row["value"], row["step"]) for row in rows(records, "evals")] == [
        ("loss", 8.4, 33900), ("perplexity", 140.1, 33900),
    ]  # fmt: skip


@pytest.mark.parametrize("line", [
    LINE[: LINE.index("num_updates=") + 14],
    LINE[:70],
    f'{HEAD}train_inner | {{"epoch": 27, "loss": "8.2',
    f'{HEAD}train_inner | {{"epoch": true, "loss": "8.2", "num_updates": "1"}}',
    f"{HEAD}train_inner | {'[' * 100000}",
])  # fmt: skip
def test_a_damaged_line_gives_nothing(line):
    assert written.read("fairseq", line)[0] == []


def test_a_number_cut_short_is_not_read():
    [record] = written.read("fairseq", LINE[: LINE.index("gnorm=2.3") + 9])[0]
    assert "grad_norm" not in record.values
    assert record.values["lr"] == 1.25e-5


def test_what_a_real_run_says_of_itself_is_its_parameters(corpus):
    assert parameters((corpus / "training/fairseq/fairseq_mhmoe_train.log").read_bytes()) == {
        "processes": 16, "micro_batch": 2, "sequence_length": 2048,
    }  # fmt: skip


def test_a_batch_of_so_many_tokens_is_one_too():
    head = f"{HEAD}fairseq_cli.train | max tokens per device = 4096 and max sentences per device = None\n"
    assert parameters(f"{head}{LINE}\n") == {"max_tokens": 4096}
