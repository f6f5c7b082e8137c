import pytest
import written
from said import parameters, read

from hpcbench.formats import get
from hpcbench.parse.content import read_bytes

LINE = get("maxtext").example


def test_the_lines_in_a_real_guide_are_read(corpus):
    data = (corpus / "excerpts/maxtext_logs_guide.md").read_bytes()
    assert read_bytes(data).formats == ["maxtext"]
    records, unread = read("maxtext", data)
    assert (len(records), unread) == (13, 0)
    assert records[2].line == 225
    assert {
        "step": 2, "step_time": 5.658, "flops_per_second_per_device": 135.158e12,
        "tokens_per_second_per_device": 8687.815, "total_weights": 196608, "loss": 11.689, "warmup": False,
    }.items() <= records[2].values.items()  # fmt: skip
    assert [record.values["warmup"] for record in records[:3]] == [True, True, False]


@pytest.mark.parametrize("without", ["Tokens/s/device: 6543.210, ", "total_weights: 65536, "])
def test_older_versions_print_less(without):
    [record] = written.read("maxtext", LINE.replace(without, ""))[0]
    assert (record.values["step"], record.values["loss"]) == (7, 9.876)


def test_an_evaluation_is_a_score():
    [record] = written.read("maxtext", "eval metrics after step: 9, loss=9.420, total_weights=75264.0\n")[0]
    assert record.values == {"task": "validation", "metric": "loss", "step": 9, "value": 9.42}


@pytest.mark.parametrize("cut", [1, 3, 20])
def test_a_line_cut_short_is_counted_and_gives_nothing(cut):
    assert written.read("maxtext", LINE[:-cut]) == ([], 1)


def test_a_loss_that_is_no_number_is_an_event():
    records, _ = written.read("maxtext", LINE.replace("9.876", "nan") + "\n")
    assert [record.values["kind"] for record in records if record.table == "events"] == ["nan_loss"]


def test_the_configuration_is_the_parameters(corpus):
    data = (corpus / "excerpts/maxtext_logs_guide.md").read_bytes()
    assert parameters(data) == {"micro_batch": 24, "sequence_length": 2048}
    config = {"dtype": "bfloat16", "global_batch_size_to_train_on": 8, "model_name": "deepseek2-16b", "steps": 10}
    head = "I0317 09:59:16.239871 125344476638336 pyconfig.py:413] Config param "
    log = "".join(f"{head}{name}: {value}\n" for name, value in config.items())
    assert parameters(f"{log}{LINE}\n") == {"precision": "BF16", "batch": 8, "model": "deepseek2-16b"}
    assert read_bytes(log.encode()).formats == []
