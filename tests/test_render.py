import json
import subprocess

import pytest
import toy
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcbench import benchmark, render, site
from hpcbench.errors import ConfigError
from hpcbench.plan import Sweep, plan

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


def rendered(folder, template, target, **names):
    file = folder / f"{target}.j2"
    file.write_text(template, encoding="utf-8")
    return render.render_file(file, target, names)


@settings(max_examples=60)
@given(TEXT)
def test_a_value_in_bash_arrives_as_it_was_given(tmp_path_factory, value):
    script = rendered(tmp_path_factory.mktemp("bash"), "printf %s {{ value }}x{{ value }}\n", "a.sh", value=value)
    out = subprocess.run(["bash", "-c", script], capture_output=True, check=True, timeout=20).stdout
    assert out == f"{value}x{value}".encode()


@given(st.one_of(TEXT, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans()))
def test_a_value_in_yaml_and_json_is_the_same_value(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("data")
    nested = "a:\n  - b: {{ value }}\n    c: 1\n"
    assert yaml.safe_load(rendered(folder, nested, "a.yaml", value=value)) == {"a": [{"b": value, "c": 1}]}
    assert json.loads(rendered(folder, '{"a": {{ value }}}', "a.json", value=value)) == {"a": value}


@pytest.mark.parametrize(
    "template",
    [
        'echo "{{ v }}"', "echo '{{ v }}'", "echo $'{{ v }}'", "# {{ v }}", "echo x # {{ v }}", "echo `echo {{ v }}`",
        "cat <<END\n{{ v }}\nEND\n", "cat <<-'END'\n\t{{ v }}\n\tEND\n", 'echo "a$(b)"{{ v }}"{{ v }}"',
        "echo \"a\nb {{ v }}\"",
    ],
)  # fmt: skip
def test_a_value_where_bash_would_not_read_a_word_is_refused_with_its_line(tmp_path, template):
    with pytest.raises(ConfigError, match=r"a\.sh\.j2:\d+: "):
        rendered(tmp_path, template, "a.sh", v="x")


@pytest.mark.parametrize(
    "template",
    [
        "echo {{ v }} 'quoted' \"quoted\" {{ v }}", "a={{ v }}; echo $a", "echo a#{{ v }}", "cat <<<{{ v }}",
        "cat <<END\ntext\nEND\necho {{ v }}", "x=$((1<<2)); echo {{ v }}", "echo it\\'s {{ v }}",
        "f() { echo {{ v }}; }",
        "# it's a comment\necho {{ v }}", "echo $(echo {{ v }})",
    ],
)  # fmt: skip
def test_a_value_where_bash_reads_a_word_is_taken(tmp_path, template):
    assert "'a b'" in rendered(tmp_path, template, "a.sh", v="a b")


@pytest.mark.parametrize(
    ("template", "target", "said"),
    [
        ("a: 1\nb: {{ nothing }}\n", "a.yaml", "a.yaml.j2:2: "),
        ("{% if x %}", "a.yaml", "a.yaml.j2:1: "),
        ("a: [{{ v }}\n", "a.yaml", "renders to invalid YAML"),
        ("{", "a.json", "renders to invalid JSON"),
        ("{{ v }}", "a.exe", "values can be quoted for"),
        ("{{ ''.__class__.__mro__ }}", "a.txt", "a.txt.j2"),
        ("{% include '/etc/passwd' %}", "a.txt", "a.txt.j2"),
    ],
)
def test_a_wrong_template_is_named(tmp_path, template, target, said):
    with pytest.raises(ConfigError) as caught:
        rendered(tmp_path, template, target, v="x")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def bundles(folder, text=toy.BENCHMARK, axes=None, run="r"):
    if not (folder / "templates").exists():
        toy.write(folder, benchmark=text)
    bench = benchmark.load_file(folder / "templates" / "toy" / "benchmark.yaml")
    planned = plan(bench, [site.load("local")], Sweep.make(bench.parameters, axes or {}))
    return render.render(planned, run)


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    assert bundles(tmp_path, axes={"act": "a,b"}) == bundles(tmp_path, axes={"act": "a,b"})


def test_a_bundle_holds_all_that_its_job_needs(tmp_path):
    (bundle,) = bundles(tmp_path)
    assert set(bundle.files) == {"job.sh", "case.json", "measure.py", "toy_program.py"}
    described = json.loads(bundle.files["case.json"])
    assert described["token"] == "hb-r-001"
    assert described["parameters"] == {"act": "ok", "threads": 1, "seconds": 0.0}


def test_an_undefined_variable_of_a_command_is_named_with_its_line(tmp_path):
    with pytest.raises(ConfigError, match=r"benchmark\.yaml:\d+: .*'atc' is undefined"):
        bundles(tmp_path, toy.BENCHMARK.replace("{{ act }}", "{{ atc }}"))


def test_files_of_hpcbench_are_not_overwritten_by_a_benchmarks_own(tmp_path):
    with pytest.raises(ConfigError, match=r"'case\.json'"):
        bundles(tmp_path, toy.BENCHMARK + "files: {case.json: x.j2}\n")


@pytest.mark.parametrize(("cores", "said"), [("{{ act }}", "'ok' is not a whole number"), ("0", "below 1")])
def test_cores_are_a_whole_number_from_one(tmp_path, cores, said):
    with pytest.raises(ConfigError, match=said):
        bundles(tmp_path, toy.BENCHMARK.replace('"{{ threads }}"', f'"{cores}"'))


def test_environment_names_are_names(tmp_path):
    with pytest.raises(ConfigError, match="environment variable of the name 'A; rm -rf'"):
        bundles(tmp_path, toy.BENCHMARK + 'env: {"A; rm -rf": x}\n')
