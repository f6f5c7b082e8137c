import dataclasses
import math

import pandas as pd
import pytest
import written

import hpcbench
from hpcbench.metrics import COLUMNS, RESERVED, TABLES, TEXT, quantity, scale, significant


@pytest.mark.parametrize(("value", "text"), [
    (3.27289, "3.273"),
    (12.1611, "12.16"),
    (708374.8, "708,400"),
    (0.0123456, "0.01235"),
    (1e-9, "0.000000001000"),
    (-2.5, "-2.500"),
    (0, "0"),
    (math.nan, "–"),
    (math.inf, "inf"),
    (1e-20, "1.000e-20"),
])  # fmt: skip
def test_a_number_is_written_with_four_digits(value, text):
    assert significant(value) == text


@pytest.mark.parametrize(("value", "unit", "text"), [
    (3.27289, "s", "3.273 s"),
    (0.0124, "s", "12.40 ms"),
    (2e-6, "s", "2.000 µs"),
    (1643 * 2**20, "B", "1.604 GiB"),
    (512, "B", "512.0 B"),
    (12019.2, "tokens/s", "12,020 tokens/s"),
    (0.5, "", "0.5000"),
    (math.nan, "s", "–"),
])  # fmt: skip
def test_a_quantity_has_the_unit_that_people_read(value, unit, text):
    assert quantity(value, unit) == text


def test_the_numbers_of_a_column_share_one_unit():
    assert scale([0.9, 0.0021], "s") == (1e-3, "ms")
    assert scale([12.0, 0.0021, math.nan, math.inf], "s") == (1, "s")
    assert scale([], "s") == (1, "s")


def test_every_measured_column_has_a_label_and_an_si_unit():
    assert {column.unit for column in COLUMNS.values()} == {
        "s", "B", "tokens/s", "samples/s", "requests/s", "questions/s", "FLOP/s", "",
    }  # fmt: skip
    assert {column.better for column in COLUMNS.values()} == {"higher", "lower", None}
    labels = [column.label for column in COLUMNS.values()]
    assert all(labels)
    assert len(set(labels)) == len(labels)


def test_no_parameter_can_take_the_name_of_a_column():
    assert {*TABLES["sources"], *TABLES["cases"], "cases", "speedup"} <= RESERVED


@pytest.fixture
def metrics(tmp_path):
    folder = tmp_path / "mixed"
    for number, threads in enumerate([1, "auto", 2.5]):
        written.case(
            folder / f"c{number}",
            written.records(*written.steps([0.3, 0.1]), {"record": "event", "kind": "note", "message": 'a,"b"\n\rc'}),
            parameters={"threads": threads, "compile": bool(number)},
        )
    return hpcbench.parse(written.run(folder))


def test_all_tables_are_there_with_their_columns_in_order(metrics):
    for name, table in metrics.tables().items():
        columns = TABLES[name] if name in ("sources", "cases") else (*TABLES[name], "source", "line")
        assert tuple(table.columns[: len(columns)]) == columns
        for column in table.columns:
            if column in TEXT:
                assert table[column].notna().all(), column
            elif column not in metrics.parameters and column != "warmup":
                assert pd.api.types.is_numeric_dtype(table[column]), column


def test_tables_come_back_from_parquet_as_they_were(metrics, tmp_path):
    files = metrics.write(tmp_path / "out")
    assert sorted(file.name for file in files) == [
        "cases.parquet", "counters.parquet", "events.parquet", "sources.parquet", "steps.parquet",
    ]  # fmt: skip
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "out" / "steps.parquet"), metrics.steps)
    # a column of Parquet has one type: mixed values are text there
    assert list(pd.read_parquet(tmp_path / "out" / "cases.parquet")["threads"]) == ["1", "auto", "2.5"]
    assert list(metrics.cases["threads"]) == [1, "auto", 2.5]


def test_tables_come_back_from_csv_as_they_were(metrics, tmp_path):
    metrics.write(tmp_path / "out", csv=True)
    events = pd.read_csv(tmp_path / "out" / "events.csv", keep_default_na=False)
    assert list(events["message"]) == list(metrics.events["message"])
    steps = pd.read_csv(tmp_path / "out" / "steps.csv")
    assert list(steps["step_time"]) == list(metrics.steps["step_time"])


def test_a_table_without_rows_is_not_written(metrics, tmp_path):
    metrics.write(tmp_path / "out", csv=True)
    assert not (tmp_path / "out" / "requests.csv").exists()


def test_what_an_earlier_writing_left_does_not_stay(metrics, tmp_path):
    metrics.write(tmp_path)
    metrics.write(tmp_path, csv=True)
    dataclasses.replace(metrics, events=metrics.events.iloc[:0]).write(tmp_path)
    assert not (tmp_path / "events.parquet").exists()
    assert not list(tmp_path.glob("*.csv"))
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_every_source_knows_its_run_and_case(metrics):
    owners = metrics.owners()
    assert set(owners) == set(metrics.sources["path"])
    assert set(owners.values()) == {("mixed", "c0"), ("mixed", "c1"), ("mixed", "c2")}
