import pytest
import written

from hpcbench.parse.content import read_bytes

NAME = "lightning-csv"


def read(text):
    return written.read(NAME, text)


@pytest.mark.parametrize(("file", "steps", "line", "last"), [
    ("training/lightning/slm_v8_metrics.csv", 1511, 1512,
     {"epoch": 0, "step": 75549, "loss": 4.575737476348877, "perplexity": 97.09961700439453}),
    ("training/lightning/xkv_metrics.csv", 2, 3,
     {"epoch": 0, "step": 19, "loss": 6.386987686157227, "mae": 0.9867267608642578, "mse": 3.1934938430786133,
      "reconstruction_loss": 6.386987686157227, "compression_ratio": 32}),
])  # fmt: skip
def test_a_real_file_gives_every_row(corpus, file, steps, line, last):
    data = (corpus / file).read_bytes()
    assert read_bytes(data).formats == [NAME]
    records, unread = written.read(NAME, data)
    assert (len(records), unread, records[-1].line, records[-1].values) == (steps, 0, line, last)


def test_the_values_of_a_row_are_sorted_into_steps_epochs_and_scores():
    text = (
        "epoch,lr-AdamW/pg1,step,test_acc,train/loss_epoch,train/loss_step,val_loss/dataloader_idx_1\r\n"
        ",0.125,49,,,,\r\n0,,49,,,2.5,\r\n0,,99,,,,2.75\r\n0,,99,,2.625,,\r\n0,,99,0.5,,,\r\n"
    )
    records, unread = read(text)
    assert unread == 0
    assert [(record.table, record.line, record.values) for record in records] == [
        ("steps", 2, {"step": 49, "lr": 0.125}),
        ("steps", 3, {"step": 49, "epoch": 0, "loss": 2.5}),
        ("evals", 4, {"step": 99, "epoch": 0, "task": "validation", "metric": "loss", "value": 2.75, "subject": "1"}),
        ("epochs", 5, {"step": 99, "epoch": 0, "loss": 2.625}),
        ("evals", 6, {"step": 99, "epoch": 0, "task": "test", "metric": "acc", "value": 0.5}),
    ]


def test_a_header_of_other_columns_may_follow():
    records, unread = read("epoch,step,loss\n0,1,2.5\nepoch,loss,lr,step\n0,2.25,0.5,2\n")
    assert unread == 0
    assert [record.values for record in records] == [
        {"epoch": 0, "step": 1, "loss": 2.5}, {"epoch": 0, "step": 2, "loss": 2.25, "lr": 0.5},
    ]  # fmt: skip


@pytest.mark.parametrize("line", ["0,9,2.5", "0,9,2.5,,\n", "0,9,x,\n", "\0\0\0\n"])
def test_a_damaged_row_is_counted_and_gives_no_number(line):
    records, unread = read(f"epoch,step,loss,val_loss\n0,4,3.5,\n{line}")
    assert ([record.values["step"] for record in records], unread) == ([4], 1)


@pytest.mark.parametrize("text", [
    "timestamp,index,step\n1,2,3\n",
    "epoch,step\n0,1\n",
    "epoch,accuracy,loss,val_loss\n0,0.5,2.5,2.75\n",
    "we log epoch,step and loss\n0,1,2.5\n",
    "a log\nepoch,step,loss\n0,1,2.5\n",
    'epoch,step,"' + "x" * 200000,
])  # fmt: skip
def test_other_tables_are_not_taken(text):
    assert NAME not in read_bytes(text.encode()).formats
