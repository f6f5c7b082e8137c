import pytest
import written
from said import parameters

from hpcbench.parse.content import read_bytes

NAME = "groqflow"


def table(records, name):
    return [record.values for record in records if record.table == name]


def test_a_real_table_gives_chip_and_host_apart(corpus):
    data = (corpus / "training/other/groq_bert_tiny_custom_sarora.out").read_bytes()
    assert read_bytes(data).formats == [NAME]
    records, unread = written.read(NAME, data)
    assert {row["name"]: (row["value"], row["unit"]) for row in table(records, "counters")} == {
        "cpu_end_to_end_latency": (0.00410, "s"),
        "cpu_end_to_end_inferences_per_second": (243.63, "inferences/s"),
        "groq_end_to_end_latency": (0.00008, "s"),
        "groq_end_to_end_inferences_per_second": (12762.62, "inferences/s"),
        "groq_on_chip_latency": (0.00004, "s"),
        "groq_on_chip_inferences_per_second": (23391.20, "inferences/s"),
    }
    assert table(records, "evals") == [
        {"task": "test", "metric": "accuracy", "subject": each, "value": 0.7747} for each in ("cpu", "groq")
    ]
    assert unread == 0


def test_a_score_that_is_no_percentage_is_no_accuracy():
    records, _ = written.read(NAME, "|  groq  |  0.8123  |  0.06  |  17000.50  |  0.05  |  21111.20  |\n")
    assert [row["value"] for row in table(records, "counters")] == [0.00006, 17000.5, 0.00005, 21111.2]
    assert table(records, "evals") == []


@pytest.mark.parametrize("line", [
    "|  groq  |  78.12%  |  0.06  |  17000.50  |  0.05  |  2111",
    "|  groq  |  78.12%  |  0.06  |  17000.5",
    "|  groq  |  78.12%  |  0.06  |  17000.50  |\n",
    "groq  0.06  17000.50 0.05 21111.20\n",
])  # fmt: skip
def test_a_row_that_was_cut_gives_no_number(line):
    assert written.read(NAME, line)[0] == []


def test_a_row_of_a_host_alone_proves_nothing():
    assert read_bytes(b"|  cpu   |  78.12%  |  4.10  |  243.63  |  --  |  --  |\n").formats == []


def test_the_model_that_was_built_is_a_parameter(corpus):
    data = (corpus / "training/other/groq_bert_tiny_custom_sarora.out").read_bytes()
    assert parameters(data) == {"model": "bert_tiny_custom"}
