import json
import os
import subprocess
import sys

import pytest
import toy
import written
from toy import hpcbench

from hpcbench.cli import main


@pytest.fixture
def place(tmp_path):
    toy.write(tmp_path)
    return tmp_path


def one_line(done: subprocess.CompletedProcess) -> str:
    """Return the one line that an error is."""
    (line,) = done.stderr.splitlines()
    assert line.startswith("hpcbench: ")
    return line


BAD = [
    (["--site", "lcal"], "unknown site 'lcal'; did you mean 'local'?"),
    (["--benchmark", "tyo"], "unknown benchmark 'tyo'; did you mean 'toy'?"),
    (["--benchmark", "toy", "--thread", "1"], "No such option '--thread'"),
    (["--benchmark", "toy", "--repeat", "x"], "Invalid value for '--repeat': 'x' is not a valid integer"),
    (["--benchmark", "toy", "--set", "thread=1"], "unknown parameter 'thread'; did you mean 'threads'?"),
    (["--benchmark", "toy", "--set", "threads"], "--set: write name=values, found 'threads'"),
    (["--benchmark", "toy", "--threads", "0"], "--threads: 0 is below the least allowed, 1"),
    (["--benchmark", "toy", "--threads", "a"], "--threads: 'a' is not a whole number"),
    (["--benchmark", "toy", "--threads", "1.5"], "--threads: '1.5' is not a whole number"),
    (["--benchmark", "toy", "--threads", ""], "--threads: the list of values is empty"),
    (["--benchmark", "toy", "--threads", "1,1"], "--threads: 1 stands twice; use --repeat to run a case again"),
    (["--benchmark", "toy", "--threads", "4:1"], "--threads: '4:1': the step never reaches the end"),
    (["--benchmark", "toy", "--threads", "1", "--threads", "2"], "--threads is given twice; write 1,2 for two values"),
    (["--benchmark", "toy", "--repeat", "0"], "--repeat: 0 is below 1"),
    (["--benchmark", "toy", "--zip", "threads,act"], "--zip: 'threads' is not an axis of this sweep"),
    (["--benchmark", "toy", "--exclude", "threads=9"], "--exclude: no case has threads=9"),
    (["--benchmark", "toy", "--exclude", "threads=1"], "--exclude: leaves no case to run"),
    (["--benchmark", "toy", "--name", "../x"], "--name: '../x' is not a plain name"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(each[0]) for each in BAD])
def test_bad_input_is_one_clear_line_exit_2_and_nothing_written(place, arguments, message):
    done = hpcbench("submit", *arguments, cwd=place, check=2)
    assert message in one_line(done)
    assert done.stdout == ""
    assert not (place / "logs").exists()


def test_a_misspelt_key_of_a_site_is_named_with_file_line_and_nearest(place):
    (place / "sites").mkdir()
    (place / "sites" / "mine.yaml").write_text("title: Mine\n\nslot: 2\n")
    done = hpcbench("submit", "--site", "mine", "--benchmark", "toy", cwd=place, check=2)
    assert one_line(done).endswith("sites/mine.yaml:3: unknown key 'slot'; did you mean 'slots'?")
    assert not (place / "logs").exists()


def test_an_undefined_variable_of_a_template_is_named_with_file_and_line(place):
    folder = place / "templates" / "toy"
    (folder / "benchmark.yaml").write_text(toy.BENCHMARK + "files: {model.yaml: model.yaml.j2}\n")
    (folder / "model.yaml.j2").write_text("act: {{ act }}\nthreads: {{ thraeds }}\n")
    done = hpcbench("submit", "--benchmark", "toy", cwd=place, check=2)
    assert "templates/toy/model.yaml.j2:2: " in one_line(done)
    assert "'thraeds' is undefined" in one_line(done)
    assert not (place / "logs").exists()


def test_a_read_only_place_for_logs_is_one_line(place):
    (place / "logs").write_text("a file where the folder should be")
    done = hpcbench("submit", "--benchmark", "toy", cwd=place, check=2)
    assert one_line(done) == "hpcbench: cannot write the run in logs/: File exists"
    if os.geteuid() == 0:
        read_only = "/proc"
    else:
        (place / "closed").mkdir(mode=0o555)
        read_only = str(place / "closed")
    done = hpcbench("submit", "--benchmark", "toy", "--logs", read_only, cwd=place, check=2)
    assert f"cannot write the run in {read_only}/" in one_line(done)


def test_a_full_disk_is_one_line_and_leaves_nothing(place):
    full = place / "full"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk to fill can be mounted as root only")
    try:
        done = hpcbench(
            "submit", "--benchmark", "toy", "--act", ",".join("abcdefghij"), "--logs", str(full), cwd=place, check=2
        )
        assert "No space left on device" in one_line(done)
        assert list(full.iterdir()) == []
    finally:
        subprocess.run(["umount", str(full)], check=True)


def test_unknown_commands_and_runs_name_the_nearest(place):
    assert "did you mean 'submit'?" in one_line(hpcbench("sumbit", cwd=place, check=2))
    assert "there is no run in logs/" in one_line(hpcbench("status", cwd=place, check=2))
    hpcbench("submit", "--benchmark", "toy", "--name", "first", "--dry-run", cwd=place, check=0)
    assert "did you mean 'first'?" in one_line(hpcbench("status", "frist", cwd=place, check=2))


def test_dry_run_writes_the_bundles_prints_the_first_job_script_and_starts_nothing(place):
    done = hpcbench("submit", "--benchmark", "toy", "--act", "a,b", "--name", "r", "--dry-run", cwd=place, check=0)
    assert done.stdout.startswith("#!/usr/bin/env bash\n")
    assert "toy_program.py --act=a" in done.stdout
    assert sorted(path.name for path in (place / "logs" / "r").iterdir()) == [
        "001-acta", "002-actb", "journal.jsonl", "run.json",
    ]  # fmt: skip
    assert set(toy.states(place, "r").values()) == {"planned"}
    hpcbench("resume", "r", "--wait", cwd=place, check=0)
    assert set(toy.states(place, "r").values()) == {"completed"}


def test_the_same_inputs_give_the_same_bundles(place):
    for logs in ("one", "two"):
        hpcbench(
            "submit",
            "--benchmark",
            "toy",
            "--act",
            "a,b",
            "--name",
            "r",
            "--dry-run",
            "--logs",
            logs,
            cwd=place,
            check=0,
        )
    files = [sorted(file.relative_to(place / logs) for file in (place / logs).rglob("0*/*")) for logs in ("one", "two")]
    assert files[0] == files[1]
    assert all((place / "one" / file).read_bytes() == (place / "two" / file).read_bytes() for file in files[0])


def test_a_run_is_found_by_unique_prefix_and_is_the_latest_by_default(place):
    for name in ("alpha", "alpine"):
        hpcbench("submit", "--benchmark", "toy", "--name", name, "--dry-run", cwd=place, check=0)
    assert json.loads(hpcbench("status", "--json", cwd=place, check=0).stdout)["run"] == "alpine"
    assert json.loads(hpcbench("status", "alph", "--json", cwd=place, check=0).stdout)["run"] == "alpha"
    assert "'alp' could be alpha, alpine" in one_line(hpcbench("status", "alp", cwd=place, check=2))


def test_every_command_writes_json_to_stdout_with_a_versioned_schema(place):
    def schema(*arguments: str) -> str:
        done = hpcbench(*arguments, "--json", cwd=place, check=0)
        return json.loads(done.stdout)["schema"]

    assert schema("sites") == "hpcbench/sites/1"
    assert schema("benchmarks") == "hpcbench/benchmarks/1"
    assert schema("formats") == "hpcbench/formats/1"
    assert schema("submit", "--benchmark", "toy", "--name", "r", "--dry-run") == "hpcbench/submit/1"
    assert schema("status", "r") == "hpcbench/status/1"
    assert schema("resume", "r", "--wait") == "hpcbench/resume/1"
    assert schema("wait", "r") == "hpcbench/wait/1"
    assert schema("cancel", "r") == "hpcbench/cancel/1"
    assert schema("parse", "logs") == "hpcbench/parse/1"
    assert schema("report", "logs") == "hpcbench/report-written/1"


def test_parse_writes_tables(place):
    hpcbench("submit", "--benchmark", "toy", "--name", "r", "--wait", cwd=place, check=0)
    done = hpcbench("parse", "logs", "-o", "tables", "--csv", cwd=place, check=0)
    assert "265.0" in done.stdout  # ms, the mean of the steady steps
    assert (place / "tables" / "steps.csv").read_text().splitlines()[0].startswith("step,")
    hpcbench("parse", "logs", "-o", "parquet", cwd=place, check=0)
    assert (place / "parquet" / "steps.parquet").exists()


def test_parse_of_logs_without_any_known_format_says_so_and_fails(place):
    (place / "notes").mkdir()
    (place / "notes" / "a.txt").write_text("nothing here\n")
    done = hpcbench("parse", "notes", cwd=place, check=1)
    assert "no log of a known format was found" in done.stderr
    assert "there is no nowhere" in one_line(hpcbench("parse", "nowhere", cwd=place, check=2))


def test_parse_names_what_could_not_be_read(place):
    (place / "old").mkdir()
    (place / "old" / "train.log").write_text(written.llmc([9, 1]))
    (place / "old" / "plot.png").write_bytes(b"\x89PNG" + b"x" * 100)
    done = hpcbench("parse", "old", cwd=place, check=0).stdout
    counted = "0 lines could not be read, {}1 file is of no known format"
    assert done.splitlines()[-1] == "1 file read, 2 records; " + counted.format("")
    for index in range(22):
        (place / "old" / f"{index:02d}.xz").write_bytes(b"\xfd7zXZ\x00" + b"x" * 100)
    done = hpcbench("parse", "old", cwd=place, check=0).stdout
    lines = done.splitlines()
    assert [line.startswith(f"old/{index:02d}.xz: damaged: ") for index, line in enumerate(lines[-22:-2])] == [
        True
    ] * 20
    assert lines[-2:] == [
        "and 2 more", "1 file read, 2 records; " + counted.format("22 files could not be read, "),
    ]  # fmt: skip


@pytest.mark.parametrize(("options", "named"), [
    (["--json"], "--json"), (["-o", "x"], "-o"), (["-o", "x", "--csv"], "-o and --csv"), (["--csv"], "--csv"),
])  # fmt: skip
def test_following_writes_nothing(place, options, named):
    (place / "train.log").write_text(written.llmc([9, 1]))
    done = hpcbench("parse", "train.log", "--follow", *options, cwd=place, check=2)
    assert one_line(done).endswith(f"--follow: shows tables and writes nothing; leave out {named}")


def test_formats_are_explained_as_the_given_one(place):
    (place / "train.log").write_text(written.llmc([9, 1]))
    assert "llmc-cpu: 2 records" in hpcbench("parse", "train.log", "--explain-format", cwd=place, check=0).stdout
    asked = ("parse", "train.log", "--explain-format", "--as", "vllm-bench")
    assert "llmc-cpu" not in hpcbench(*asked, cwd=place, check=0).stdout


def test_help_shows_each_example_on_a_line_of_its_own(place):
    shown = hpcbench("--help", cwd=place, check=0, COLUMNS="80").stdout
    examples = [
        "  hpcbench submit --site local --benchmark gpt2 --threads 1,2 --repeat 3 --wait",
        "  hpcbench submit --site cerebras --batch 256,512,1024,2048",
        "  hpcbench parse logs/",
        "  hpcbench report logs/",
    ]
    assert "\n".join(["", *examples, ""]) in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


def test_help_says_of_each_command_what_it_is_for_whole_on_one_line(place):
    shown = hpcbench("--help", cwd=place, check=0, COLUMNS="80").stdout
    listed = shown.split("\nCommands:\n")[1].splitlines()
    assert [line.split()[0] for line in listed] == sorted(main.commands)
    assert [line for line in listed if not line.endswith(".") or line.endswith("...")] == []


@pytest.mark.parametrize("name", sorted(main.commands))
def test_help_holds_no_escape_that_was_meant_for_click(place, name):
    assert "\\b" not in hpcbench(name, "--help", cwd=place, check=0).stdout


def test_help_of_submit_shows_the_parameters_of_the_benchmark(place):
    shown = hpcbench("submit", "--benchmark", "toy", "--help", cwd=place, check=0).stdout
    assert "--act STR,..." in shown
    assert "what the program does" in shown
    shown = hpcbench("submit", "--help", cwd=place, check=0).stdout
    assert "--sequence-length INT,..." in shown  # the default benchmark of the default site


def test_a_parameter_named_like_an_option_is_refused(place):
    renamed = toy.BENCHMARK.replace("act:", "wait:").replace("{{ act }}", "{{ wait }}")
    (place / "templates" / "toy" / "benchmark.yaml").write_text(renamed)
    done = hpcbench("submit", "--benchmark", "toy", cwd=place, check=2)
    assert "parameter 'wait': submit has an option of that name" in one_line(done)


def test_sites_are_listed_with_what_is_missing_or_wrong(place):
    (place / "sites").mkdir()
    (place / "sites" / "far.yaml").write_text(
        "title: Far\nbenchmark: ${NOT_SET_ANYWHERE}\njob: {account: '${NOT_SET_EITHER:?your account}'}\n"
    )
    (place / "sites" / "odd.yaml").write_text("title: Odd\nschedular: slurm\n")
    shown = hpcbench("sites", cwd=place, check=0).stdout
    assert "Far\n    set NOT_SET_ANYWHERE, NOT_SET_EITHER (your account)\n" in shown
    assert "odd.yaml:2: unknown key 'schedular'; did you mean 'scheduler'?" in shown
    assert "This machine" in shown
    said = one_line(hpcbench("submit", "--site", "far", "--benchmark", "toy", cwd=place, check=2))
    assert "2 environment variables are not set: NOT_SET_ANYWHERE, NOT_SET_EITHER (your account)" in said
    rows = {row["name"]: row for row in json.loads(hpcbench("sites", "--json", cwd=place, check=0).stdout)["sites"]}
    assert rows["far"]["missing"] == ["NOT_SET_ANYWHERE", "NOT_SET_EITHER (your account)"]


def test_a_damaged_run_does_not_stand_in_the_way_of_the_others(place):
    hpcbench("submit", "--benchmark", "toy", "--name", "good", "--dry-run", cwd=place, check=0)
    for name, text in (("bad", "{"), ("odd", '{"cases": [], "created": "x"}')):
        (place / "logs" / name).mkdir()
        (place / "logs" / name / "run.json").write_text(text)
    assert json.loads(hpcbench("status", "--json", cwd=place, check=0).stdout)["run"] == "good"
    assert "is not a run" in one_line(hpcbench("status", "bad", cwd=place, check=2))
    assert "there is no run" in one_line(hpcbench("status", "a" * 300, cwd=place, check=2))


def test_a_baseline_is_named_as_people_write_it(place):
    hpcbench("submit", "--benchmark", "toy", "--seconds", "0,0.1", "--name", "r", "--wait", cwd=place, check=0)
    hpcbench("parse", "--baseline", "seconds=1e-1", cwd=place, check=0)
    assert "there is 0, 0.1" in one_line(hpcbench("parse", "--baseline", "seconds=3", cwd=place, check=2))


def test_no_color_is_honoured(place):
    hpcbench("submit", "--benchmark", "toy", "--name", "r", "--dry-run", cwd=place, check=0)
    assert "\x1b[" not in hpcbench("status", "r", cwd=place, check=0, NO_COLOR="1", FORCE_COLOR="").stdout


def test_debug_shows_where_an_error_comes_from(place):
    assert "Traceback" in hpcbench("--debug", "status", cwd=place).stderr


def test_help_imports_nothing_heavy():
    code = "import sys; from hpcbench.cli import main; main(['--help'], standalone_mode=False); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    heavy = {"pandas", "numpy", "matplotlib", "scipy", "pydantic", "jinja2", "yaml", "rich", "submitit", "paramiko"}
    assert not heavy & loaded
