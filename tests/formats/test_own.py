import json

import pytest
import written

RECORDS, EXIT = "hpcbench-records", "hpcbench-exit"


def read(name, data):
    records, unread = written.read(name, data)
    return [(record.table, record.line, record.values) for record in records], unread


def test_a_record_goes_into_the_table_that_it_names():
    rows = [
        {"record": "step", "step": 1, "loss": 5.37, "step_time": 0.0213, "warmup": True},
        {"record": "epoch", "epoch": 0, "duration": 12.5},
        {"record": "request", "latency": 0.2, "status": "ok"},
        {"record": "answer", "task": "mmlu", "subject": "astronomy", "choice": "B", "answer": "C", "correct": 0},
        {"record": "eval", "task": "validation", "metric": "loss", "value": 4.1, "step": 10},
        {"record": "counter", "name": "max_memory", "value": 1 << 30, "unit": "B"},
        {"record": "event", "kind": "finished", "message": "completed"},
    ]
    tables = ["steps", "epochs", "requests", "answers", "evals", "counters", "events"]
    found, unread = read(RECORDS, written.records(*rows))
    expected = [{key: value for key, value in row.items() if key != "record"} for row in rows]
    assert found == list(zip(tables, range(1, 8), expected, strict=True))
    assert unread == 0


ASKED = {"question": "0123456789abcdef", "prompt": "fedcba9876543210", "latency": 0.4, "status": "200"}


def test_a_request_that_brought_an_answer_is_a_row_of_two_tables():
    answer = {"subject": "astronomy", "number": 12, "choice": "", "answer": "C", "correct": 0, "protocol": "letter"}
    found, unread = read(RECORDS, written.records({"record": "request", **ASKED, **answer}))
    asked = {name: ASKED[name] for name in ("question", "prompt")}
    assert found == [("requests", 1, {**ASKED, **answer}), ("answers", 1, {**asked, **answer, "duration": 0.4})]
    assert unread == 0


@pytest.mark.parametrize("columns", [{}, {"choice": "B", "error": "status 500"}, {"choice": "B", "phase": "warm-up"}])
def test_a_request_that_brought_none_is_a_row_of_one(columns):
    found, _ = read(RECORDS, written.records({"record": "request", **ASKED, **columns}))
    assert [table for table, _, _ in found] == ["requests"]


def test_lines_of_other_programs_between_records_are_passed_over():
    text = 'loading\n{"record": "step", "step": 1}\n\n  {"indented": 1}\n[1, 2]\n'
    assert read(RECORDS, text) == ([("steps", 2, {"step": 1})], 0)


GOOD = '{"record": "step", "step": 1}\n'


@pytest.mark.parametrize("line", [
    '{"record": "step", "step": 2, "lo',  # killed in the middle of a line
    '{"record": "step", "step": 2}{"record": "step", "step": 3}',
    '{"record": "step", "step": 2}\0\0\0',
    '{"record": "sandwich", "step": 2}',
    '{"record": ["step"], "step": 2}',
    '{"record": "step", "deep": ' + "[" * 100_000,
    '{"record": "step", "long": "' + "x" * (1 << 20) + '"}',
    '{"record": "step", "step": ' + "9" * 5000 + "x}",
])  # fmt: skip
def test_a_line_that_is_no_record_is_counted_and_harms_no_other(line):
    found, unread = read(RECORDS, GOOD + line + "\n" + GOOD)
    assert found == [("steps", 1, {"step": 1}), ("steps", 3, {"step": 1})]
    assert unread == 1


def test_bytes_that_are_not_utf8_are_counted():
    assert read(RECORDS, GOOD.encode() + b'{"record": "event", "message": "caf\xe9"}\n') == (
        [("steps", 1, {"step": 1})],
        1,
    )


def test_windows_line_endings_are_read():
    assert read(RECORDS, GOOD.replace("\n", "\r\n")) == ([("steps", 1, {"step": 1})], 0)


def test_what_is_no_single_value_or_no_name_of_a_column_is_left_out():
    row = {"record": "step", "step": 1, "list": [1], "table": {"a": 1}, "two words": 2, "": 3, "né": 4, "x" * 65: 5}
    assert read(RECORDS, written.records(row)) == ([("steps", 1, {"step": 1})], 0)


def test_a_log_cannot_make_up_columns_without_end():
    rows = [{"record": "step", f"column_{index}": 1} for index in range(1000)]
    found, unread = read(RECORDS, written.records(*rows))
    assert len({name for _, _, values in found for name in values}) <= 200
    assert len(found) + unread == 1000


def test_text_that_no_file_can_hold_becomes_text_that_one_can():
    found, _ = read(RECORDS, '{"record": "event", "message": "half \\ud800 a pair"}')
    assert found[0][2]["message"] == "half ? a pair"


@pytest.mark.parametrize(("number", "read_as"), [("1e999", float("inf")), ("9" * 400, float("inf")), ("12", 12)])
def test_numbers_beyond_64_bits_are_floating_point(number, read_as):
    found, _ = read(RECORDS, f'{{"record": "counter", "name": "n", "value": {number}}}')
    assert found[0][2]["value"] == read_as


def test_an_exit_record_gives_wall_time_status_and_what_the_job_used():
    text = json.dumps({**written.COMPLETED, "max_memory": 1 << 20, "user_time": 55.5, "system_time": 1.25})
    found, unread = read(EXIT, text)
    assert {row["name"]: (row["value"], row["unit"]) for table, _, row in found if table == "counters"} == {
        "wall_time": (60.5, "s"),
        "user_time": (55.5, "s"),
        "system_time": (1.25, "s"),
        "max_memory": (1 << 20, "B"),
        "exit_status": (0, ""),
    }
    assert [row for table, _, row in found if table == "events"] == [
        {"time": 1000.0, "kind": "started"},
        {"time": 1060.5, "kind": "finished", "message": "exit status 0"},
    ]
    assert unread == 0


def test_an_exit_record_tells_of_a_signal():
    found, _ = read(EXIT, json.dumps({**written.COMPLETED, "status": None, "signal": "KILL"}))
    assert [row["message"] for table, _, row in found if row.get("kind") == "finished"] == ["killed by signal KILL"]
    assert not [row for table, _, row in found if row.get("name") == "exit_status"]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"status": 0, "signal": null}', "\0" * 100])
def test_a_damaged_exit_record_is_counted(text):
    assert read(EXIT, text) == ([], 1)


def test_an_exit_record_with_values_of_other_types_gives_what_can_be_read():
    found, _ = read(
        EXIT, '{"status": "x", "signal": [1], "started": "a", "ended": {}, "max_memory": true, "user_time": 2}'
    )
    assert found == [("counters", 1, {"name": "user_time", "value": 2, "unit": "s"})]
