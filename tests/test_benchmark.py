import pytest
import toy

from hpcbench import benchmark
from hpcbench.benchmark import Parameter
from hpcbench.errors import ConfigError


def loaded(tmp_path, text=toy.BENCHMARK):
    toy.write(tmp_path, benchmark=text)
    return benchmark.load_file(tmp_path / "templates" / "toy" / "benchmark.yaml")


def test_a_benchmark_is_a_folder(tmp_path):
    found = loaded(tmp_path)
    assert found.name == "toy"
    assert found.defaults() == {"act": "ok", "threads": 1, "seconds": 0.0}
    assert {name: file.read_text() for name, file in found.program_files().items()} == {"toy_program.py": toy.PROGRAM}


def test_a_program_may_be_one_of_hpcbenchs_own():
    assert list(benchmark.load("gpt2").program_files()) == ["gpt2.py"]


def test_a_program_may_be_a_folder_that_python_runs(tmp_path):
    text = toy.BENCHMARK.replace("program: toy_program.py", "program: several")
    with pytest.raises(ConfigError, match="there is no 'several'"):
        loaded(tmp_path, text)
    folder = tmp_path / "templates" / "toy" / "several"
    folder.mkdir()
    for name in ("__main__.py", "other.py", "notes.txt"):
        (folder / name).write_text(name)
    files = benchmark.load_file(folder.parent / "benchmark.yaml").program_files()
    assert {name: file.read_text() for name, file in files.items()} == {
        "several/__main__.py": "__main__.py",
        "several/other.py": "other.py",
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("title: A toy", "titel: A toy"), ":1: unknown key 'titel'; did you mean 'title'?"),
        (("help: what the program does", "hlep: x"), "unknown key 'parameters.act.hlep'; did you mean 'help'?"),
        (
            ("default: 1, min: 1", "default: 0, min: 1"),
            ":4: parameters.threads: default: 0 is below the least allowed, 1",
        ),
        (("default: 1, min: 1", "default: one"), ":4: parameters.threads: default: 'one' is not a whole number"),
        (("type: int", "type: integer"), ":4: parameters.threads.type: "),
        (("  act:", "  Act:"), "parameter 'Act': use small letters"),
        (("  act:", "  run:"), "parameter 'run': "),
        (("  act:", "  format:"), "parameter 'format': "),
        (("toy_program.py\n", "nothing.py\n"), "program: there is no 'nothing.py' beside this file"),
        (("program: toy_program.py", "program: ../toy_program.py"), "not a plain file name"),
        (("headline: [step_time]", "headline: [step_tiem]"), "unknown metric 'step_tiem'; did you mean 'step_time'?"),
        (("headline", "baseline: {thread: 1}\nheadline"), "unknown parameter 'thread'; did you mean 'threads'?"),
        (("headline", "baseline: {threads: a}\nheadline"), "baseline: threads: 'a' is not a whole number"),
        (("headline", "invariant: [thread]\nheadline"), "unknown parameter 'thread'; did you mean 'threads'?"),
        (("headline", "files: {../x.yaml: x}\nheadline"), "'../x.yaml' is not a plain path inside the case's folder"),
        (("headline", "files: {/x.yaml: x}\nheadline"), "'/x.yaml' is not a plain path inside the case's folder"),
        (("logs: {stdout.log", "logs: {../../stdout.log"), "is not a plain path inside the case's folder"),
    ],
)
def test_a_mistake_is_named(tmp_path, change, said):
    text = toy.BENCHMARK.replace(*change, 1)
    assert text != toy.BENCHMARK
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert said in str(caught.value)
    assert "benchmark.yaml:" in str(caught.value)


def parameter(kind, default, **more):
    return Parameter(type=kind, default=default, help="", **more)


@pytest.mark.parametrize(
    ("kind", "default", "text", "value"),
    [
        ("int", 1, " 8 ", 8),
        ("int", 1, "-3", -3),
        ("float", 1.0, "1e-3", 0.001),
        ("float", 1.0, 2, 2.0),
        ("bool", False, "yes", True),
        ("bool", False, "OFF", False),
        ("bool", False, True, True),
        ("str", "", " x\n", " x\n"),
        ("path", "", "", ""),
    ],
)
def test_values_are_converted_to_their_type(kind, default, text, value):
    converted = parameter(kind, default).convert(text)
    assert converted == value
    assert type(converted) is type(value)


@pytest.mark.parametrize(
    ("kind", "default", "text"),
    [
        ("int", 1, "1.5"), ("int", 1, "1_000"), ("int", 1, "\u0661"), ("int", 1, ""), ("int", 1, True), ("int", 1, 1.5),
        ("float", 1.0, "nan"), ("float", 1.0, "inf"), ("float", 1.0, "x"), ("bool", True, "maybe"), ("str", "", "a\0b"),
    ],
)  # fmt: skip
def test_values_of_another_type_are_refused(kind, default, text):
    with pytest.raises(ValueError, match=r"."):
        parameter(kind, default).convert(text)


def test_limits_and_choices_hold():
    with pytest.raises(ValueError, match="above the most allowed, 4"):
        parameter("int", 1, max=4).convert(5)
    with pytest.raises(ValueError, match="is none of a, b"):
        parameter("str", "a", choices=["a", "b"]).convert("c")
    limits = parameter("words", "", matches="(a=[0-9])?", like="a=1")
    assert limits.convert("a=7") == "a=7"
    with pytest.raises(ValueError, match="'a=77' is not like a=1"):
        limits.convert("a=77")


def test_a_path_is_the_same_file_wherever_the_job_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parameter("path", "").convert("text.txt") == str(tmp_path / "text.txt")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("logs2: {}", "unknown key 'logs2'; did you mean 'logs'?"),
        ("files: {./job.sh: x.j2}", "'./job.sh' is not a plain path"),
        ("files: {a//b.txt: x.j2}", "'a//b.txt' is not a plain path"),
        ("files: {'': x.j2}", "'' is not a plain path"),
        ("files: {.: x.j2}", "'.' is not a plain path"),
        ("files: {a/: x.j2}", "'a/' is not a plain path"),
        ('files: {"a\\0b.txt": x.j2}', "holds a NUL"),
        ("env: {hb_pid: '1'}", "a job cannot be given an environment variable of the name 'hb_pid'"),
        ("baseline: {site: .nan}", "baseline: site: nan is not the name of a site"),
        ("baseline: {threads: [1]}", "baseline.threads: should be a valid boolean or a valid integer or"),
        ("baseline: {act: no}", "baseline: act: False is not text; quote it"),
        ("resources: {core: 1}", "unknown key 'resources.core'; did you mean 'cores'?"),
        ("perf: 1", "perf: should be a valid boolean, found 1"),
        ("command: []", "command: List should have at least 1 item"),
        ("command: echo hi", "command: should be a valid list, found 'echo hi'"),
    ],
)
def test_a_hostile_key_is_named(tmp_path, more, said):
    kept = [line for line in toy.BENCHMARK.splitlines() if line.partition(":")[0] != more.partition(":")[0]]
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, "\n".join([*kept, more]))
    assert f"benchmark.yaml:{len(kept) + 1}: " in str(caught.value)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("logs: {stdout.log: hpcbench-records}", "logs: {stdout.log: hpcbench-record}"),
         "logs: unknown format 'hpcbench-record'; did you mean 'hpcbench-records'?"),
        (("end: {file: stdout.log", "end: {file: /etc/passwd"), "end: '/etc/passwd' is not a plain path"),
        (("end: {file: stdout.log", "end: {file: ../stdout.log"), "end: '../stdout.log' is not a plain path"),
        (("text: '\"kind\": \"finished\"'", "text: ''"), "end.text: String should have at least 1 character"),
        (("program: toy_program.py", f"program: {'x' * 300}"), "is not a plain file name"),
        (("program: toy_program.py", "program: ''"), "there is no ''"),
        (("program: toy_program.py", "program: .."), "there is no '..'"),
    ],
)  # fmt: skip
def test_a_mistake_that_would_show_only_after_the_run_is_named_before(tmp_path, change, said):
    text = toy.BENCHMARK.replace(*change, 1)
    assert text != toy.BENCHMARK
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text)
    assert said in str(caught.value)


@pytest.mark.parametrize("name", ["run", "repeat", "zip", "exclude", "program", "none", "true", "not", "self", "loop"])
def test_a_parameter_cannot_have_a_name_that_means_something_else(tmp_path, name):
    with pytest.raises(ConfigError, match=rf":3: parameter '{name}': .*choose another"):
        loaded(tmp_path, toy.BENCHMARK.replace("  act:", f"  '{name}':").replace("{{ act }}", "x"))


@pytest.mark.parametrize("name", ["a-b", "A", "1a", "", "a" * 49, "\u00e9", "a b", "a.b", "_a"])
def test_a_parameters_name_is_an_option_and_a_variable(tmp_path, name):
    with pytest.raises(ConfigError, match=r":3: parameter .*: use small letters, digits and _"):
        loaded(tmp_path, toy.BENCHMARK.replace("  act:", f"  '{name}':").replace("{{ act }}", "x"))


@pytest.mark.parametrize(
    ("parameter", "said"),
    [
        ("{type: str, default: no, help: x}", "default: False is not text; quote it"),  # to YAML, no is false,
        ("{type: str, default: 0755, help: x}", "default: 493 is not text; quote it"),  # 0755 is octal
        ("{type: str, default: 1:30, help: x}", "default: 90 is not text; quote it"),  # and 1:30 base 60
        ("{type: str, default: a, choices: [a, on], help: x}", "choices: True is not text; quote it"),
        ("{type: int, default: 1, choices: [1, b], help: x}", "choices: 'b' is not a whole number"),
        ("{type: int, default: 3, choices: [1, 2], help: x}", "default: 3 is none of 1, 2"),
        ("{type: int, default: 1.0, help: x}", "default: 1.0 is not a whole number"),
        ("{type: int, default: 3, min: 5, max: 1, help: x}", "default: 3 is below the least allowed, 5"),
        ("{type: float, default: .inf, help: x}", "default: inf is not a finite number"),
        ("{type: path, default: ~nobody-here/x, help: x}", "default: '~nobody-here/x': there is no such user"),
        ("{type: str, default: a, matches: '(', help: x}", "matches: not a regular expression: missing )"),
        ("{type: str, default: a, matches: b, like: b, help: x}", "default: 'a' is not like b"),
        ("{type: int, default: [1], help: x}", "default: should be a valid boolean or a valid integer or"),
        ("{type: int, default: 1}", "the key 'parameters.act.help' is missing"),
        ("{typ: int, default: 1, help: x}", "unknown key 'parameters.act.typ'; did you mean 'type'?"),
        ("{}", "the key 'parameters.act.type' is missing (and 2 more)"),
    ],
)
def test_a_default_and_the_choices_are_of_the_type_that_is_said(tmp_path, parameter, said):
    (line,) = [line for line in toy.BENCHMARK.splitlines() if line.startswith("  act:")]
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, toy.BENCHMARK.replace(line, f"  act: {parameter}"))
    assert "benchmark.yaml:3: " in str(caught.value)
    assert said in str(caught.value)


def test_choices_are_compared_as_their_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parameter("path", "a", choices=["a", "b"]).convert("b") == str(tmp_path / "b")
    assert parameter("float", 1, choices=[1, 2]).convert("2.0") == 2.0
    assert parameter("bool", True, choices=["yes"]).convert("on") is True


@pytest.mark.parametrize("value", ["caf\udce9", "a\0b"])
@pytest.mark.parametrize("kind", ["str", "path"])
def test_what_no_program_can_be_given_is_refused(kind, value):
    with pytest.raises(ValueError, match="holds a NUL or half a character"):
        parameter(kind, "").convert(value)


@pytest.mark.parametrize("text", ["1_0", "\u0661.5", "\uff11", "0x1p3", "1e400", "-inf", "1,5", ""])
def test_only_plain_decimal_numbers_are_numbers(text):
    with pytest.raises(ValueError, match="is not a"):
        parameter("float", 1.0).convert(text)


def test_the_built_in_benchmarks_can_be_read_and_a_broken_one_hides_no_other(tmp_path, monkeypatch):
    toy.write(tmp_path)
    (tmp_path / "templates" / "broken").mkdir()
    (tmp_path / "templates" / "broken" / "benchmark.yaml").write_text("title: [")
    monkeypatch.chdir(tmp_path)
    found = benchmark.load_all()
    assert {"broken", "gpt2", "toy"} <= set(found)
    assert [name for name, each in found.items() if isinstance(each, ConfigError)] == ["broken"]
