import pytest
import written
from said import parameters

from hpcbench.parse.content import read_bytes, records


def test_a_table_with_empty_cells_is_read(corpus):
    content = read_bytes((corpus / "excerpts/tgi_benchmark_table.md").read_bytes())
    assert (content.formats, content.unread) == (["tgi-benchmark"], 0)
    found = records(content)
    assert len(found) == 51
    assert found[0].line == 3
    by_batch = {(r.values["name"], r.values["batch_size"]): r.values["value"] for r in found}
    assert by_batch["prefill_time_mean", 1] == 0.04207
    assert by_batch["prefill_time_p99", 32] == 0.04334
    assert by_batch["decode_step_time_max", 2] == 0.02805
    assert ("decode_step_time_mean", 2) not in by_batch  # an empty cell
    assert by_batch["decode_step_time_mean", 4] == 0.02805


RATES = """| Step    | Batch Size | Average             | Lowest              | Highest             |
|---------|------------|---------------------|---------------------|---------------------|
| Prefill | 1          | 23.75 tokens/secs   | 22.25 tokens/secs   | 24.50 tokens/secs   |
| Decode  | 1          | 35.50 tokens/secs   | 35.25 tokens/secs   | 36.00 tokens/secs   |
"""


def test_the_table_of_speeds_is_read():
    content = read_bytes(RATES.encode())
    assert (content.formats, content.unread) == (["tgi-benchmark"], 0)
    assert [(r.line, r.values["name"], r.values["value"], r.values["unit"]) for r in records(content)] == [
        (line, f"{name}_tokens_per_second_{short}", value, "tokens/s")
        for line, name, values in ((3, "prefill", (23.75, 22.25, 24.5)), (4, "decode", (35.5, 35.25, 36)))
        for short, value in zip(("mean", "min", "max"), values, strict=True)
    ]


@pytest.mark.parametrize("row", [
    "| Prefill | 1          | 23.75 tokens/secs   | 22.2",
    "| Warm-up | 1          | 23.75 tokens/secs   | 22.25 tokens/secs   | 24.50 tokens/secs   |",
])  # fmt: skip
def test_a_damaged_row_is_counted_and_gives_no_number(row):
    head = "\n".join(RATES.split("\n")[:2])
    assert written.read("tgi-benchmark", f"{head}\n{row}\n") == ([], 1)


def test_another_table_is_none():
    assert read_bytes(b"| Model | Batch Size | Average |\n|---|---|---|\n| a | 1 | 2.5 ms |\n").formats == []


SETUP = """| Parameter          | Value                 |
|--------------------|-----------------------|
| Model              | bigscience/bloomz-1b1 |
| Sequence Length    | 500                   |
| Decode Length      | 100                   |
| Temperature        | None                  |

"""


def test_the_table_of_parameters_is_read_where_a_table_of_speeds_follows():
    assert parameters(SETUP + RATES) == {"model": "bigscience/bloomz-1b1", "input_tokens": 500, "output_tokens": 100}
    assert read_bytes(SETUP.encode()).formats == []
