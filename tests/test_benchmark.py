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
    assert found.program_file().read_text() == toy.PROGRAM


def test_a_program_may_be_one_of_hpcbenchs_own():
    assert benchmark.load("gpt2").program_file().name == "gpt2.py"


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


def test_a_path_is_the_same_file_wherever_the_job_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert parameter("path", "").convert("text.txt") == str(tmp_path / "text.txt")
