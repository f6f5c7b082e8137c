import json
import math
import os
import stat
import tempfile
from pathlib import Path

import numpy as np
import pytest
import toy
import written

import hpcbench
from hpcbench.analyse.summary import compare
from hpcbench.errors import UsageError
from hpcbench.parse import parse


def write(folder, **files):
    """Write files: `a__b_log="..."` is a/b.log."""
    for name, content in files.items():
        file = folder / (name.replace("__", "/").removesuffix("_log").removesuffix("_txt") + f".{name[-3:]}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return folder


def cases(metrics):
    return [(row.case, *(getattr(row, name) for name in metrics.parameters)) for row in metrics.cases.itertuples()]


TIMES = written.llmc([30, 10, 20])


# Which case a log is, where hpcbench did not launch it: its path says.


def test_files_are_cases_named_by_the_number_in_their_names(tmp_path):
    metrics = parse(write(tmp_path, threads1_log=TIMES, threads2_log=TIMES, threads16_log=TIMES))
    assert cases(metrics) == [("threads1", 1), ("threads16", 16), ("threads2", 2)]
    assert set(metrics.cases["parameters_from"]) == {"path"}
    assert set(metrics.cases["state"]) == {""}


def test_folders_are_cases_when_each_holds_one_log_of_a_kind(tmp_path):
    perf = " Performance counter stats for 'x':\n\n  10 cycles\n"
    metrics = parse(write(tmp_path, bs1__train_log=TIMES, bs1__perf_txt=perf, bs2__train_log=TIMES))
    assert cases(metrics) == [("bs1", 1), ("bs2", 2)]
    assert list(metrics.sources["case"]) == ["bs1", "bs1", "bs2"]


@pytest.mark.parametrize("name", ["threads{}.perf.txt", "threads{}_perf.txt", "threads{}-perf.log", "threads{}.txt"])
def test_a_perf_file_beside_a_log_belongs_to_its_case(tmp_path, name):
    for threads in (1, 2):
        (tmp_path / f"threads{threads}.log").write_text(TIMES)
        (tmp_path / name.format(threads)).write_text(" Performance counter stats for 'x':\n\n  10 cycles\n")
    metrics = parse(tmp_path)
    assert cases(metrics) == [("threads1", 1), ("threads2", 2)]
    assert len(metrics.sources) == 4


@pytest.mark.parametrize(("names", "expected"), [
    (("bs0.5.log", "bs0.25.log"), [("bs0.25", 0.25), ("bs0.5", 0.5)]),
    (("lr0.1", "lr0.2"), [("lr0.1", 0.1), ("lr0.2", 0.2)]),
    (("slow.log", "fast.log"), [("fast", "fast"), ("slow", "slow")]),
    (("a1.log", "b1.log"), [("a1", "a1"), ("b1", "b1")]),
    (("run1.log", "run2.log"), [("run1", "run1"), ("run2", "run2")]),  # `run` is a column of its own
    (("only.log",), [("only",)]),
    (("seed_nan.log", "seed_1e999.log"), [("seed_1e999", "seed_1e999"), ("seed_nan", "seed_nan")]),
    (("n7_1_0.log", "n7_1_1.log"), [("n7_1_0", "n7_1_0"), ("n7_1_1", "n7_1_1")]),
])  # fmt: skip
def test_the_part_of_the_name_that_varies_is_the_parameter(tmp_path, names, expected):
    for name in names:
        (tmp_path / name).write_text(TIMES)
    assert cases(parse(tmp_path)) == expected


def test_a_label_names_the_parameters(tmp_path):
    write(tmp_path, bs4__t1_log=TIMES, bs4__t2_log=TIMES, bs8__t1_log=TIMES)
    metrics = parse(tmp_path, label=r"bs(?P<batch>\d+)/t(?P<threads>\d+)")
    assert cases(metrics) == [("batch4-threads1", 4, 1), ("batch4-threads2", 4, 2), ("batch8-threads1", 8, 1)]
    assert set(metrics.cases["parameters_from"]) == {"label"}


@pytest.mark.parametrize(("text", "value"), [
    ("8", 8), ("-1", -1), ("0.5", 0.5), ("1e-3", 0.001), ("007", 7), ("fast", "fast"),
    ("nan", "nan"), ("inf", "inf"), ("1e999", "1e999"), ("1_000", "1_000"), ("٣", "٣"), ("9" * 30, "9" * 30),
])  # fmt: skip
def test_a_label_gives_numbers_where_people_mean_numbers(tmp_path, text, value):
    (tmp_path / f"x={text}.log").write_text(TIMES)
    metrics = parse(tmp_path, label=r"x=(?P<x>.+)\.log")
    assert metrics.cases["x"].tolist() == [value]
    assert type(metrics.cases["x"].tolist()[0]) is type(value)


def test_logs_of_the_same_parameters_are_repeats_and_none_is_dropped(tmp_path):
    write(tmp_path, r1__threads1_log=written.llmc([9, 10, 10]), r2__threads1_log=written.llmc([9, 20, 20]))
    metrics = parse(tmp_path, label=r"threads(?P<threads>\d+)")
    assert list(metrics.cases["case"]) == ["threads1", "threads1-r2"]
    assert list(metrics.cases["repeat"]) == [1, 2]
    [row] = compare(metrics)[0].rows
    assert row.metrics["step_time"].values == (0.010, 0.020)


def test_a_file_in_which_nothing_is_recognised_is_listed_and_is_no_case(tmp_path):
    write(tmp_path, threads1_log=TIMES, threads2_log=TIMES, README_txt="How to run: see below.\n")
    metrics = parse(tmp_path)
    assert cases(metrics) == [("threads1", 1), ("threads2", 2)]
    assert [Path(path).name for path in metrics.sources[metrics.sources["format"] == ""]["path"]] == ["README.txt"]


# What a run folder says.


def test_the_cases_of_a_run_have_its_parameters_states_and_times(tmp_path):
    folder = tmp_path / "r"
    written.case(folder / "a", written.records(*written.steps([3, 1, 2])), parameters={"threads": 1, "fast": True})
    written.case(folder / "b", "", written.FAILED, parameters={"threads": 2, "fast": False})
    written.case(folder / "c", "", None, parameters={"threads": 4, "fast": True})
    metrics = parse(written.run(folder))
    assert cases(metrics) == [("a", 1, True), ("b", 2, False), ("c", 4, True)]
    assert list(metrics.cases["state"]) == ["completed", "failed", "planned"]
    assert list(metrics.cases["reason"]) == ["", "exit status 3", ""]
    assert list(metrics.cases["ended"])[:2] == [1060.5, 1060.5]
    assert set(metrics.cases["parameters_from"]) == {"case.json"}
    assert list(metrics.runs) == ["r"]


@pytest.mark.parametrize(
    ("ending", "state"), [(written.COMPLETED, "completed"), (written.FAILED, "failed"), (None, "")]
)
def test_a_case_folder_alone_is_read_without_its_run(tmp_path, ending, state):
    log = written.records(*written.steps([3, 1]))
    metrics = parse(written.case(tmp_path / "r" / "a", log, ending, parameters={"threads": 1}))
    assert metrics.cases[["run", "case", "site", "benchmark", "state"]].to_numpy().tolist() == [
        ["r", "a", "local", "toy", state]
    ]
    assert set(metrics.sources["benchmark"]) == {"toy"}
    assert len(metrics.runs) == 0


def test_whole_numbers_stay_whole_where_another_case_lacks_the_parameter(tmp_path):
    folder = tmp_path / "r"
    written.case(folder / "a", "", parameters={"seed": 2**53 + 1, "threads": 4})
    written.case(folder / "b", "", parameters={"seed": 2})
    metrics = parse(written.run(folder))
    assert metrics.cases["seed"].tolist() == [2**53 + 1, 2]
    assert str(metrics.cases["threads"].tolist()) == "[4, nan]"


@pytest.mark.parametrize(
    ("where", "path"), [("r", "."), ("r/a", "."), ("r/a", ".."), (".", "./r/./a/"), (".", "r/a/..")]
)
def test_a_run_and_a_case_have_their_names_however_they_are_reached(tmp_path, monkeypatch, where, path):
    written.case(tmp_path / "r" / "a", written.records(*written.steps([3, 1])), parameters={"threads": 1})
    written.run(tmp_path / "r")
    monkeypatch.chdir(tmp_path / where)
    metrics = parse(path)
    assert metrics.cases[["run", "case", "state"]].to_numpy().tolist() == [["r", "a", "completed"]]
    assert list(metrics.runs) in (["r"], [])  # a case alone has none


def test_headline_baseline_and_invariant_are_each_benchmarks_own(tmp_path):
    folder = tmp_path / "r"
    written.case(
        folder / "a", "", benchmark="one", headline=["step_time"], baseline={"threads": 1}, invariant=["threads"]
    )
    written.case(folder / "b", "", benchmark="two", headline=["wall_time"], baseline={"batch": 8}, invariant=[])
    metrics = parse(written.run(folder))
    assert metrics.headline == {"one": ("step_time",), "two": ("wall_time",)}
    assert metrics.baseline == {"one": {"threads": 1}, "two": {"batch": 8}}
    assert metrics.invariant == {"one": ("threads",), "two": ()}


@pytest.mark.parametrize(
    "paths", [["r", "r"], ["r", "{here}"], ["{here}", "r/a/stdout.log"], ["r/a", "r"], ["r", "r/a"]]
)
def test_paths_that_overlap_count_nothing_twice(tmp_path, monkeypatch, paths):
    monkeypatch.chdir(tmp_path)
    written.case(tmp_path / "r" / "a", written.records(*written.steps([3, 1, 2])))
    written.run(tmp_path / "r")
    metrics = parse(*(path.format(here=tmp_path) for path in paths))
    assert (len(metrics.runs), len(metrics.cases), len(metrics.steps)) == (1, 1, 3)


def test_two_runs_of_the_same_name_are_two(tmp_path):
    for place in ("x", "y"):
        written.case(tmp_path / place / "r" / "a", written.records(*written.steps([3, 1])))
        written.run(tmp_path / place / "r")
    metrics = parse(tmp_path)
    assert list(metrics.runs) == ["r", str(tmp_path / "y" / "r")]
    assert len(metrics.cases) == 2


def test_a_case_that_run_json_names_twice_is_one(tmp_path):
    written.case(tmp_path / "r" / "a", written.records(*written.steps([3, 1])))
    metrics = parse(written.run(tmp_path / "r", cases=["a", "a"]))
    assert (len(metrics.cases), len(metrics.steps)) == (1, 2)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"cases": 5}', '{"name": "of another tool"}', '{"cases": ["../../etc"]}']
)
def test_a_run_json_that_is_none_does_not_hide_the_logs_beside_it(tmp_path, content):
    write(tmp_path, threads1_log=TIMES, threads2_log=TIMES)
    (tmp_path / "run.json").write_text(content)
    assert cases(parse(tmp_path)) == [("threads1", 1), ("threads2", 2)]


# What anyone may have written into case.json.

HOSTILE_PARAMETERS = [
    {"threads": 10**400},
    {"threads": 2**63},
    {"threads": math.inf},
    {"threads": math.nan},
    {"threads": "auto"},
    {"threads": "\ud800"},
    {"threads": "\x1b[31m\0"},
    {"threads": "x" * 1_000_000},
    {"threads": [1], "nested": {"a": {"b": 1}}, "nothing": None},
    {"a/b": 1, "../../x": 2, "": 3, "two words": 4, "x" * 1000: 5, "<script>": 6, "\ud800": 7},
    {"run": "evil", "case": "evil", "path": "/etc/passwd", "source": 1, "line": 2, "state": "completed", "cases": 3},
    {"warmup": 3, "step": "x", "loss": 1, "kind": 2, "name": 4, "value": 5, "unit": 6, "message": 7, "status": 8},
    {"count": 1, "index": 2, "class": 3, "Index": 4},
]


@pytest.mark.parametrize("parameters", HOSTILE_PARAMETERS, ids=[str(each)[:60] for each in HOSTILE_PARAMETERS])
def test_parameters_of_any_kind_are_read_compared_and_written(tmp_path, parameters):
    folder = tmp_path / "r"
    log = written.records(*written.steps([3, 1, 2]))
    written.case(folder / "a", log, parameters=parameters)
    written.case(folder / "b", log, parameters={"threads": 1})
    metrics = parse(written.run(folder))
    assert list(metrics.cases["case"]) == ["a", "b"]
    assert set(metrics.cases["state"]) == {"completed"}
    assert not set(metrics.parameters) & {"run", "case", "path", "source", "line", "state", "cases", "a/b", ""}
    assert sum(row.completed for row in compare(metrics)[0].rows) == 2
    metrics.write(tmp_path / "parquet")
    metrics.write(tmp_path / "csv", csv=True)


HOSTILE_KEYS = [
    {"run": ["x"], "site": None, "benchmark": {"a": 1}},
    {"repeat": "x"}, {"repeat": 10**400}, {"repeat": -1}, {"repeat": None}, {"repeat": 1.5},
    {"headline": {"a": 1}}, {"headline": ["nothing", 5, None]}, {"headline": "step_time"},
    {"baseline": [1]}, {"baseline": {"threads": {"a": 1}}}, {"baseline": {"threads": math.nan}},
    {"invariant": "threads"}, {"invariant": [["threads"]]},
    {"logs": ["stdout.log"]}, {"logs": {"stdout.log": None}}, {"logs": None},
    {"parameters": [1]}, {"parameters": None},
]  # fmt: skip


@pytest.mark.parametrize("said", HOSTILE_KEYS, ids=[str(each)[:60] for each in HOSTILE_KEYS])
def test_a_case_json_of_the_wrong_types_does_not_hide_its_log(tmp_path, said):
    written.case(
        tmp_path / "r" / "a", written.records(*written.steps([3, 1, 2])), **{"parameters": {"threads": 1}, **said}
    )
    metrics = parse(written.run(tmp_path / "r"))
    assert len(metrics.steps) == 3
    assert len(compare(metrics)[0].rows) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"\0" * 10, b"\xff", b"[" * 100_000, b'"text"', b'{"parameters": NaN}'])
def test_a_case_json_that_is_none_does_not_hide_its_log(tmp_path, content):
    folder = written.case(tmp_path / "r" / "a", written.records(*written.steps([3, 1, 2])))
    written.run(tmp_path / "r")
    (folder / "case.json").write_bytes(content)
    assert len(parse(tmp_path / "r").steps) == 3


@pytest.mark.parametrize("glob", [
    "/etc/hostname", "../secret.log", "sub/../../secret.log", "..", ".", "", "**x", "[", "a\0b", "\ud800",
    "/".join(["**"] * 40), "linked/*.log", "link.log", "~/x",
])  # fmt: skip
def test_a_case_reads_no_file_outside_its_folder(tmp_path, glob):
    secret = tmp_path / "r" / "secret.log"
    folder = written.case(
        tmp_path / "r" / "a", written.records(*written.steps([3, 1])), logs={glob: "hpcbench-records"}
    )
    secret.write_text(TIMES)
    (folder / "link.log").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path / "r")
    metrics = parse(written.run(tmp_path / "r"))
    assert {Path(path).name for path in metrics.sources["path"]} <= {"stdout.log", "exit.json", "case.json"}
    assert set(metrics.steps["loss"].dropna()) == set()  # a step of the secret log has one


# What may lie under a path.


def test_what_is_no_plain_file_is_passed_over(tmp_path):
    write(tmp_path, threads1_log=TIMES, threads2_log=TIMES)
    os.mkfifo(tmp_path / "threads3.log")
    (tmp_path / "threads4.log").mkdir()
    (tmp_path / "threads5.log").symlink_to("threads5.log")
    (tmp_path / "threads6.log").symlink_to("nowhere")
    (tmp_path / ".threads7.log").write_text(TIMES)
    assert cases(parse(tmp_path)) == [("threads1", 1), ("threads2", 2)]


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="pipe is neither a file nor a folder"):
        parse(tmp_path / "pipe")


def test_a_file_that_cannot_be_read_is_shown(tmp_path):
    write(tmp_path, threads1_log=TIMES)
    unreadable = Path("/proc/self/mem")  # a plain file whose beginning cannot be read, by anyone
    if not unreadable.exists():
        pytest.skip("needs Linux's /proc")
    metrics = parse(tmp_path, unreadable)
    assert list(metrics.sources["format"]) == ["llmc-cpu", "unreadable"]
    assert cases(metrics) == [("threads1",)]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
def test_a_folder_that_cannot_be_read_is_shown():
    with tempfile.TemporaryDirectory() as place:
        folder = write(Path(place), open__threads1_log=TIMES, closed__threads2_log=TIMES)
        parse(folder)  # everything is imported now
        folder.chmod(0o755)
        (folder / "closed").chmod(stat.S_IRWXU)
        os.seteuid(65534)
        try:
            metrics = parse(folder)
        finally:
            os.seteuid(0)
    assert [(Path(row.path).name, row.format) for row in metrics.sources.itertuples()] == [
        ("threads1.log", "llmc-cpu"),
        ("closed", "unreadable"),
    ]


@pytest.mark.parametrize("content", [
    b"", b"\0" * 1000, bytes(range(256)) * 100, b"\xff\xfe" + "step 0".encode("utf-16-le"),
    b"\n" * 10_000, b"x" * 3_000_000, b'{"record": "step"' * 1000,
])  # fmt: skip
def test_a_file_of_anything_is_counted_and_gives_nothing(tmp_path, content):
    file = tmp_path / "a.log"
    file.write_bytes(content)
    [source] = parse(file).sources.itertuples()
    assert (source.bytes, source.records, source.format) == (len(content), 0, "")
    assert source.lines == content.count(b"\n") + (not content.endswith(b"\n") and bool(content))


def test_a_name_that_is_not_utf8_is_shown_so_that_files_can_hold_it(tmp_path):
    for threads in (b"1", b"2"):
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9" + threads + b".log")).write_text(TIMES)
    metrics = parse(tmp_path)
    assert [Path(path).name for path in metrics.sources["path"]] == ["caf\\xe91.log", "caf\\xe92.log"]
    metrics.write(tmp_path / "csv", csv=True)
    metrics.write(tmp_path / "parquet")


def test_a_log_may_be_of_several_formats_and_each_counter_says_which(tmp_path):
    log = TIMES + " Performance counter stats for 'x':\n\n  1.5 seconds time elapsed\n\nreal\t0m1.600s\nuser\t0m1.0s\n"
    write(tmp_path, a_log=log)
    metrics = parse(tmp_path)
    assert list(metrics.sources["format"]) == ["llmc-cpu perf-stat time"]
    walls = metrics.counters[metrics.counters["name"] == "wall_time"]
    assert dict(zip(walls["format"], walls["value"], strict=True)) == {"perf-stat": 1.5, "time": 1.6}


def test_records_keep_the_order_and_number_of_their_lines(tmp_path):
    write(tmp_path, a_log="\n\n" + TIMES)
    assert list(parse(tmp_path).steps["line"]) == [7, 8, 9]


def test_a_format_can_be_forced(tmp_path):
    write(tmp_path, a_log="val loss 5.252026\n")  # too little to be recognised
    assert parse(tmp_path).evals.empty
    assert list(parse(tmp_path, formats=["llmc-cpu"]).evals["value"]) == [5.252026]


HOSTILE_RECORDS = [
    {"record": "step", "step": "x", "step_time": "y", "warmup": "yes"},
    {"record": "step", "step": math.inf, "step_time": 1, "warmup": True},
    {"record": "step", "step": 10**400, "step_time": 10**400},
    {"record": "step", "step": 1, "step_time": math.inf},
    {"record": "step", "step": 1, "step_time": 0, "source": "/etc/passwd", "line": -1},
    {"record": "step", "step": True, "step_time": None, "warmup": 5},
    {"record": "eval", "step": math.inf, "task": "validation", "metric": "loss", "value": 1},
    {"record": "eval", "step": None, "task": "validation", "metric": "loss", "value": math.nan},
    {"record": "eval", "task": 5, "metric": True, "value": "x"},
    {"record": "counter", "name": "wall_time", "value": math.inf, "unit": "s", "format": "perf-stat"},
    {"record": "counter", "name": 5, "value": True, "unit": None},
    {"record": "event", "kind": 5, "message": True, "time": "now"},
    {"record": "event", "kind": "sample", "message": None},
]


@pytest.mark.parametrize("row", HOSTILE_RECORDS, ids=[json.dumps(each)[:70] for each in HOSTILE_RECORDS])
def test_records_of_the_wrong_types_are_read_compared_and_written(tmp_path, row):
    log = written.records(row, *written.steps([3, 1, 2]))
    written.case(tmp_path / "r" / "a", log, parameters={"threads": 1})
    written.case(tmp_path / "r" / "b", log, parameters={"threads": 2})
    metrics = parse(written.run(tmp_path / "r"))
    assert set(metrics.sources["unread"]) == {0}
    for table in metrics.tables().values():
        if "source" in table:
            assert set(table["source"]) <= set(metrics.sources["path"])
            assert (table["line"] >= 1).all()
    assert len(compare(metrics)[0].rows) == 2
    metrics.write(tmp_path / "parquet")


# What a person types.


@pytest.mark.parametrize(("arguments", "message"), [
    ({"paths": ["nowhere"]}, "there is no nowhere"),
    ({"paths": ["x" * 5000]}, "there is no xxx"),
    ({"paths": ["a\0b"]}, "there is no a"),
    ({"formats": ["llmc"]}, "unknown format 'llmc'"),
    ({"label": "("}, "--label: not a regular expression"),
    ({"label": "bs"}, "--label: name the parameter in a group"),
    ({"label": r"(?P<run>\d+)"}, "--label: 'run' is the name of a column; choose another"),
])  # fmt: skip
def test_a_call_that_cannot_be_met_is_one_clear_error(tmp_path, arguments, message):
    paths = arguments.get("paths", [tmp_path])
    with pytest.raises(UsageError) as error:
        parse(*paths, **{name: value for name, value in arguments.items() if name != "paths"})
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_parse_is_in_the_package_itself(tmp_path):
    assert len(hpcbench.parse(write(tmp_path, a_log=TIMES)).steps) == 3


# What `status` shows of a log that still grows.


# Parameters of logs that hpcbench did not launch.


@pytest.mark.parametrize(("paths", "parameters"), [
    (["bs64/threads2.log", "bs256/threads4.log"], [{"bs": 64, "threads": 2}, {"bs": 256, "threads": 4}]),
    (["omp1.log", "omp16.log"], [{"omp": 1}, {"omp": 16}]),
    (["lr=0.1_x.log", "lr=0.01_x.log"], [{"lr": 0.1}, {"lr": 0.01}]),
    (["llama/t1.log", "gpt/t1.log"], [{"log": "llama"}, {"log": "gpt"}]),
    (["bs1-run1.log", "bs2-run1.log"], [{"bs": 1}, {"bs": 2}]),
    (["slurm-100.out", "slurm-200.out"], [{"log": "slurm-100"}, {"log": "slurm-200"}]),
    (["rate1.5.log", "rate2.5.log"], [{"rate": 1.5}, {"rate": 2.5}]),
    (["lr1e-4.log", "lr3e-4.log"], [{"lr": 1e-4}, {"lr": 3e-4}]),
    (["tp2/8192.log", "tp2/16384.log", "tp4/8192.log", "tp4/16384.log"],
     [{"tp": 2, "log": 8192}, {"tp": 2, "log": 16384}, {"tp": 4, "log": 8192}, {"tp": 4, "log": 16384}]),
    (["llama_8812340.out", "llama_8812377.out"], [{"log": "llama_8812340"}, {"log": "llama_8812377"}]),
    (["cn01/train.log", "cn17/train.log"], [{"log": "cn01"}, {"log": "cn17"}]),  # hosts
    (["gpus2_rank0.log", "gpus2_rank1.log", "gpus4_rank0.log"],
     [{"gpus": 2, "log": "rank0"}, {"gpus": 2, "log": "rank1"}, {"gpus": 4, "log": "rank0"}]),
    (["train_1gpus.log", "train_4gpus.log"], [{"gpus": 1}, {"gpus": 4}]),
    (["gpus1.1234571.out", "gpus4.1234572.out"], [{"gpus": 1}, {"gpus": 4}]),  # a job's number is no decimals
    (["lookup.log", "lookup_time.log"], [{"log": "lookup"}, {"log": "lookup_time"}]),
])  # fmt: skip
def test_names_and_numbers_that_vary_among_paths_are_parameters(tmp_path, paths, parameters):
    for path in paths:
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(written.llmc([9, 1]))
    metrics = parse(tmp_path)
    by_path = {Path(row["path"]).relative_to(tmp_path).as_posix(): row for row in metrics.sources.to_dict("records")}
    assert [{name: by_path[path][name] for name in metrics.parameters} for path in paths] == parameters
    assert set(metrics.sources.parameters_from) == {"path"}


@pytest.mark.parametrize("name", [
    "threads{0}-run{1}.log", "threads{0}_{1}.log", "train_{0}threads_{1}.log", "job-47110{1}/threads{0}.log",
    "threads{0}.4711{0}{1}.out", "{1}/threads{0}/train.log", "threads{0}/seed{1}.log",
])  # fmt: skip
def test_numbered_runs_of_one_point_are_its_repeats(tmp_path, name):
    for threads in (1, 2):
        for run in (1, 2, 3):
            file = tmp_path / name.format(threads, run)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(written.llmc([9, 1]))
    cases = parse(tmp_path).cases
    assert sorted(cases.repeat) == [1, 1, 2, 2, 3, 3]
    assert sorted(cases.threads) == [1, 1, 1, 2, 2, 2]


def test_a_file_beside_a_log_tells_its_parameters(tmp_path):
    (tmp_path / "a.log").write_text(written.llmc([9, 1]))
    (tmp_path / "a.params.yaml").write_text("model: llama\nbatch: 4\ncase: no column of ours\nlist: [1]\n")
    (tmp_path / "b.log").write_text(written.llmc([9, 1]))
    (tmp_path / "params.json").write_text('{"model": "gpt", "batch": 8}')
    metrics = parse(tmp_path)
    logs = metrics.sources[metrics.sources.records > 0]
    assert list(logs.model) == ["llama", "gpt"]
    assert list(logs.batch) == [4, 8]
    assert set(logs.parameters_from) == {"sidecar"}


def cuda(batch, length=1024):
    """Write a log of llm.c's CUDA program, whose first lines say how it was set up."""
    table = [("micro batch size B", batch), ("sequence length T", length), ("precision", "BF16")]
    step = (
        "step    1/3 | loss 11.032358 (+nanz)| norm 22.1414 (+nanz)| lr 8.57e-07 | 25.4 ms | 39.9% bf16 MFU | 20 tok/s"
    )
    return "".join(f"| {name:<21} | {value:<50} |\n" for name, value in table) + f"{step}\n"


FOUR, EIGHT = {"micro_batch": 4}, {"micro_batch": 8}


@pytest.mark.parametrize(("logs", "parameters", "origin"), [
    ({"a.log": cuda(4), "b.log": cuda(8)}, [FOUR, EIGHT], "header"),
    # a path that says the same again is no axis; one that says more is
    ({"bs4.log": cuda(4), "bs8.log": cuda(8)}, [FOUR, EIGHT], "header"),
    ({"n1/a.log": cuda(4), "n2/a.log": cuda(4)}, [{**FOUR, "n": 1}, {**FOUR, "n": 2}], "header and path"),
    ({"a.log": cuda(4), "b.log": cuda(4)}, [{**FOUR, "log": "a"}, {**FOUR, "log": "b"}], "header and path"),
    ({"x/a.log": cuda(4), "x/b.log": cuda(8), "y/a.log": cuda(4), "y/b.log": cuda(8)},
     [{**FOUR, "log": "x/a"}, {**EIGHT, "log": "x/b"}, {**FOUR, "log": "y/a"}, {**EIGHT, "log": "y/b"}],
     "header and path"),
    ({"a.log": cuda(4)}, [FOUR], "header"),
    # two runs in one file: it has no one batch
    ({"a.log": cuda(4) + cuda(8), "b.log": cuda(4) + cuda(8)}, [{"log": "a"}, {"log": "b"}], "header and path"),
])  # fmt: skip
def test_what_a_log_says_of_its_run_is_its_parameters(tmp_path, logs, parameters, origin):
    for path, text in logs.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    for cache in (False, True, True):
        metrics = parse(tmp_path, cache=cache)
        by_path = {
            Path(row["path"]).relative_to(tmp_path).as_posix(): row for row in metrics.sources.to_dict("records")
        }
        rows = [by_path[path] for path in logs]
        names = [name for name in metrics.parameters if name not in ("sequence_length", "precision")]
        assert [{name: row[name] for name in names} for row in rows] == parameters
        assert {(row["sequence_length"], row["precision"]) for row in rows} == {(1024, "BF16")}
        assert {row["parameters_from"] for row in rows} == {origin}


def test_repeats_of_what_logs_say_are_repeats(tmp_path):
    for batch in (4, 8):
        for run in (1, 2, 3):
            (tmp_path / f"b{batch}-run{run}.log").write_text(cuda(batch))
    cases = parse(tmp_path).cases
    assert sorted(zip(cases.micro_batch, cases.repeat, strict=True)) == [(4, 1), (4, 2), (4, 3), (8, 1), (8, 2), (8, 3)]
    assert sorted(cases.case)[0] == "micro_batch4"


def test_a_copy_of_a_log_is_no_repeat(tmp_path):
    text = written.llmc(range(10, 60))
    for name, content in {"run1": text, "run2": text, "run3": text.replace("10.0", "11.0")}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "bs4.log").write_text(content)
        (tmp_path / name / "bs8.log").write_text(text.replace("20.0", f"2{name[-1]}.0"))
    metrics = parse(tmp_path)
    copies = metrics.sources[metrics.sources.copy_of != ""]
    assert [(row.path, row.copy_of) for row in copies.itertuples()] == [
        (str(tmp_path / "run2" / "bs4.log"), str(tmp_path / "run1" / "bs4.log"))
    ]
    assert sorted(metrics.cases.bs) == [4, 4, 8, 8, 8]
    done = toy.hpcbench("parse", str(tmp_path), cwd=tmp_path)
    assert f"{copies.path.iloc[0]} is a copy of {copies.copy_of.iloc[0]}: not counted" in done.stdout


def test_what_tee_kept_beside_what_the_scheduler_kept_is_one_run(tmp_path):
    for gpus in (1, 2):
        text = written.llmc([9, *(10 / gpus + step / 100 for step in range(20))])
        (tmp_path / f"gpus{gpus}.log").write_text(text)
        (tmp_path / f"gpus{gpus}.out").write_text(f"{text}job done\n")
    [comparison] = compare(parse(tmp_path))
    assert [len(row.cases) for row in comparison.rows] == [1, 1]
    assert all(math.isnan(row.ratio.low) for row in comparison.rows)


def test_ranks_that_take_turns_without_saying_who_they_are_are_no_restarts(tmp_path):
    turns = [rank + step for step in range(0, 60, 3) for rank in (0, 1, 2, 0, 1, 2, 0, 1, 2)]
    again = [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 5, 6, 7, 8, 9]
    loop = [0, 1, 2] * 8
    found = []
    for name, steps in {"turns": turns, "again": again, "loop": loop}.items():
        (tmp_path / name).write_text("".join(f"step {s}: train loss 3.100000 (took 9.100000 ms)\n" for s in steps))
        found.append(parse(tmp_path / name, cache=False).steps.attempt.max())
    assert np.isnan(found[0])
    assert found[1:] == [3, 8]


def test_a_stray_file_takes_the_axis_from_none_of_the_others(tmp_path):
    for gpus in (1, 2, 4):
        (tmp_path / f"gpus{gpus}.log").write_text(written.llmc([9, 1]))
    (tmp_path / "compile.log").write_text("\nreal\t0m56.9s\nuser\t0m1.2s\nsys\t0m0.1s\n")
    comparisons = {each.title: each for each in compare(parse(tmp_path))}
    assert comparisons["Training"].axes == ("gpus",)
    assert [row.point["gpus"] for row in comparisons["Training"].rows] == [1, 2, 4]


def test_logs_without_a_number_to_compare_are_counted_and_written(tmp_path):
    for gpus in (1, 2):
        (tmp_path / f"gpus{gpus}.csv").write_text(
            "timestamp, index, utilization.gpu [%], power.draw [W]\n2024/05/03 10:00:00.000, 0, 97 %, 301.50 W\n"
        )
    done = toy.hpcbench("parse", str(tmp_path), "-o", str(tmp_path / "out"), cwd=tmp_path, check=0)
    assert "2 more logs hold none of the numbers that are compared" in done.stdout
    assert (tmp_path / "out" / "samples.parquet").exists()


def test_a_perf_file_has_the_parameters_of_the_log_beside_it(tmp_path):
    for batch in (4, 8):
        (tmp_path / f"{batch}.log").write_text(cuda(batch))
        (tmp_path / f"{batch}.time.txt").write_text("\nreal\t0m56.9s\nuser\t0m1.2s\nsys\t0m0.1s\n")
    metrics = parse(tmp_path)
    assert sorted(metrics.sources.micro_batch) == [4, 4, 8, 8]
    assert sorted(metrics.cases.case) == ["micro_batch4", "micro_batch8"]


def test_a_log_without_the_header_of_the_others_makes_no_axis_of_what_they_all_say(tmp_path):
    for batch in (4, 8):
        (tmp_path / f"bs{batch}.log").write_text(cuda(batch))
    (tmp_path / "bs16.log").write_text(cuda(16).splitlines()[-1] + "\n")
    table = parse(tmp_path)
    assert table.parameters == ("bs",)
    assert sorted(table.sources.bs) == [4, 8, 16]


def test_names_that_say_more_than_their_logs_stay(tmp_path):
    (tmp_path / "bert.log").write_text(cuda(4))
    (tmp_path / "llama.log").write_text(cuda(8))
    [comparison] = compare(parse(tmp_path))
    assert comparison.axes == ("micro_batch", "log")
    assert not any(row.ratio for row in comparison.rows)


def test_a_file_beside_a_log_adds_to_what_it_says(tmp_path):
    (tmp_path / "a.log").write_text(cuda(4))
    (tmp_path / "a.params.yaml").write_text("gpus: 2\n")
    [case] = parse(tmp_path).cases.to_dict("records")
    assert (case["micro_batch"], case["gpus"]) == (4, 2)


def test_a_log_that_ends_with_a_failure_is_a_failed_case_and_no_repeat(tmp_path):
    oom = "torch.cuda.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n"
    for threads in (1, 2):
        for run in (1, 2, 3):
            text = written.llmc([30, *[10 / threads] * 9])
            died = (threads, run) == (2, 3)
            (tmp_path / f"threads{threads}-run{run}.log").write_text(written.llmc([30, 90, 90]) + oom if died else text)
    metrics = parse(tmp_path)
    [failed] = metrics.cases[metrics.cases.state == "failed"].itertuples()
    assert failed.reason.startswith("out of memory: ")
    [comparison] = compare(metrics)
    row = comparison.rows[1]
    assert (row.completed, len(row.cases), row.metrics["step_time"].values) == (2, 3, (0.005, 0.005))
    assert toy.hpcbench("parse", str(tmp_path), cwd=tmp_path, check=4).stdout
    alone = compare(parse(tmp_path / "threads2-run3.log"))[0].rows[0]  # what a run measured before its end is shown
    assert alone.metrics["step_time"].mean == 0.09


def test_a_label_or_a_file_beside_a_log_comes_before_what_it_says(tmp_path):
    (tmp_path / "bs4.log").write_text(cuda(32))
    [case] = parse(tmp_path, label=r"bs(?P<batch>\d+)").cases.to_dict("records")
    assert (case["batch"], case["parameters_from"]) == (4, "label")


@pytest.mark.parametrize("text", ["[1]", "a: b: c", "\0", "x" * (2 << 20), "&a [*a]", "!!python/object:os.system {}"])
def test_a_sidecar_of_anything_harms_nothing(tmp_path, text):
    (tmp_path / "a.log").write_text(written.llmc([9, 1]))
    (tmp_path / "params.yaml").write_text(text)
    assert len(parse(tmp_path).steps) == 2


def test_ranks_results_are_one_case(tmp_path):
    for size in (1, 2):
        for rank in range(size):
            for epoch in range(3):
                file = tmp_path / f"world_size{size}" / f"rank{rank}_results_epoch{epoch}.json"
                file.parent.mkdir(exist_ok=True)
                result = {"validation_loss": 5.0, "training_time": 100.0 / size + rank + 50 * (epoch == 0)}
                file.write_text(json.dumps({**result, "tokens_per_sec": 1000.0}))
    [comparison] = compare(parse(tmp_path))
    one, two = comparison.rows
    assert (one.point, two.point) == ({"world_size": 1}, {"world_size": 2})
    assert (one.metrics["duration"].mean, two.metrics["duration"].mean) == (100, 50.5)
    assert (one.metrics["tokens_per_second"].mean, two.metrics["tokens_per_second"].mean) == (1000, 2000)
