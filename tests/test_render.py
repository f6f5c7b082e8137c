import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import toy
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcbench import benchmark, render, site
from hpcbench.errors import ConfigError, UsageError
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


def refused(folder, template, target="a.sh", **names):
    with pytest.raises(ConfigError) as caught:
        rendered(folder, template, target, **names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# Where bash does not read a quoted word as one; the last line of each is the value's.
@pytest.mark.parametrize(
    ("template", "where"),
    [
        ("'\n{{ v }}", "single quotes"),
        ("echo $'it\\'s {{ v }}", "single quotes"),
        ("echo '\\' '{{ v }}", "single quotes"),
        ('"\\\\\\"{{ v }}', "double quotes"),
        ('x="$(dirname "{{ v }}', "double quotes"),
        ('"$(case x in a) echo "{{ v }}', "double quotes"),
        ('"$(echo a # b)\n"{{ v }}', "double quotes"),
        ("echo \"$(echo ')' \"{{ v }}", "double quotes"),
        ("true;# {{ v }}", "a comment"),
        ("case x in\na)# {{ v }}", "a comment"),
        ("(true)# {{ v }}", "a comment"),
        ("true \\\n# {{ v }}", "a comment"),
        ("`echo {{ v }}", "backquotes"),
        ("\"`echo '{{ v }}", "backquotes"),
        ("cat <<'END'\n{{ v }}", "a here-document"),
        ('cat <<"END"\n{{ v }}', "a here-document"),
        ("cat << \\END\n{{ v }}", "a here-document"),
        ("cat <\\\n<END\n{{ v }}", "a here-document"),
        ("cat <<E-N_D.1 | tr a b\n{{ v }}", "a here-document"),
        ("cat <<-END\n\t{{ v }}", "a here-document"),
        ("cat <<END\n  END\n{{ v }}", "a here-document"),  # only <<- takes an indented end, and only tabs
        ("cat <<-END\n  END\n{{ v }}", "a here-document"),
        ("cat <<END\nEND \n{{ v }}", "a here-document"),
        ("cat <<END\na\\\nEND\n{{ v }}", "a here-document"),  # the backslash joins END to its line
        ("cat <<A <<B\nA\n{{ v }}", "a here-document"),
        ("x=$(cat <<END\n{{ v }}", "a here-document"),
        ("cat <<END\n$(echo {{ v }}", "a here-document"),
        ("cat <<{{ v }}", "the end mark of a here-document"),
        ("cat <<END{{ v }}", "the end mark of a here-document"),
        ("echo $(( {{ v }}", "arithmetic"),  # a[$(touch x)] is run there, quoted or not
        ("(( x = {{ v }}", "arithmetic"),
        ("((')' {{ v }}", "arithmetic"),
        ("for ((i = 0; i < {{ v }}", "arithmetic"),
        ("echo $[ {{ v }}", "arithmetic"),
        ("echo ${x:-{{ v }}", r"${...}"),
        ('echo "${x:-{{ v }}', r"${...}"),
        ("echo \"${x:-'\"'}{{ v }}", "double quotes"),
        ("echo \"${x:-'}'}{{ v }}", "double quotes"),
        ("echo \\{{ v }}", "right after a backslash"),
        ("echo ${{ v }}", "right after a $"),  # would be $'...', which has escapes of its own
        ("echo $\\\n{{ v }}", "right after a $"),
        ("echo {{ v }}>file", "beside a redirection"),  # 2>file
        ("echo >&{{ v }}", "beside a redirection"),  # bash expands that word twice
        ("echo >& {{ v }}", "beside a redirection"),
    ],
)
def test_a_place_where_bash_reads_something_else_is_named(tmp_path, template, where):
    said = refused(tmp_path, f"#!/usr/bin/env bash\n{template}\n", v="x")
    assert f"a.sh.j2:{2 + template.count(chr(10))}: a value stands " in said
    assert where in said


# What looks like such a place and is none.
TAKEN = [
    "echo $((1<<2)) {{ v }}", "x=$((1<<2))\necho {{ v }}", "((x<<=2))\necho {{ v }}", "echo $[1<<2] {{ v }}",
    "echo $(( (1+2) * $(echo 3) )) {{ v }}", "for ((i=0;i<1;i++)); do echo {{ v }}; done",
    'echo "$(echo {{ v }})"', 'echo "$(echo "a" {{ v }})"', "echo $(echo $(echo {{ v }}))", "cat <(echo {{ v }})",
    "cat <((echo ')'); true) <(echo {{ v }})", "((echo '\"' ')'); true); echo {{ v }}",
    '"$(case x in a) echo "b";; esac)"true {{ v }}', 'echo "$(case x in x) echo {{ v }};; esac)"',
    "echo $'it\\'s' {{ v }}", 'echo "\\"" {{ v }}', "echo \\# {{ v }}", "echo \\\\{{ v }}", "echo $$ $# $! {{ v }}",
    "echo a#'b' {{ v }}", "echo a\\\n#'b' {{ v }}", "true # it's\necho {{ v }}", "true;# it's \"\necho {{ v }}",
    "case x in\na)# it's\n;;\n*) echo {{ v }};;\nesac", "( true )# it's\necho {{ v }}", "echo $(true)#it\\'s {{ v }}",
    "echo ${x:-it\\'s} {{ v }}", "echo \"${x:-'\"'}\" {{ v }}", "echo ${x#'}'} {{ v }}", 'echo "${x:-"a b"}" {{ v }}',
    "echo ${x//'\"'/b} {{ v }}", "echo `echo 'a'` {{ v }}", "echo `echo \"a\" # it's` {{ v }}",
    "cat <<END\nit's\nEND\necho {{ v }}", "cat <<'END'\nit's\nEND\necho {{ v }}", "cat <<\"E D\"\n'\nE D\necho {{ v }}",
    "cat <<-END\n\tit's\n\tEND\necho {{ v }}", "cat <<\\END\nit's\\\nEND\necho {{ v }}",
    "cat <<A <<B\nit's\nA\n\"\nB\necho {{ v }}", "cat <<END # it's\nx\nEND\necho {{ v }}",
    "cat <<END; echo {{ v }}\nit's\nEND\n", "cat <<END \\\n; echo {{ v }}\nit's\nEND\n",
    "x=$(cat <<END\nit's\nEND\n)\necho {{ v }}", "cat <<<{{ v }}", "cat <<< {{ v }}",
    "read -r a <<<\"${b##*) }\"; echo {{ v }}",
    "a=(x {{ v }} y); echo \"${a[@]}\"", "[[ x == {{ v }} ]]", "x={{ v }}; export y={{ v }}; echo \"$x$y\"",
    "echo {{ v }} >/dev/null", "echo case {{ v }} in", "if ((1)); then echo {{ v }}; fi", "{ echo {{ v }}; }",
    "{# it's #}echo {{ v }}", "echo {% raw %}{{ '{' }}{% endraw %} {{ v }}", "echo pre{{ v }}post{{ v }}",
    "case {{ v }} in {{ v }}) true;; esac",
]  # fmt: skip
EVIL = [
    "$(touch pwned)", "`touch pwned`", "; touch pwned; ", "'; touch pwned; '", '"; touch pwned; "', "\ntouch pwned\n",
    "'\ntouch pwned\n'", '"\ntouch pwned\n"', ")\ntouch pwned\n", "));touch pwned;((", "\nEND\ntouch pwned\n",
    "\\'; touch pwned; #", "a[$(touch pwned)]", "A=1", "if", "\\", "#", "-n",
]  # fmt: skip


@pytest.mark.parametrize("template", TAKEN)
def test_a_hostile_value_is_never_run(tmp_path, template):
    script = "".join(f"(\n{rendered(tmp_path, template, 'a.sh', v=value)}\n)\n" for value in ["a b", *EVIL])
    done = subprocess.run(["bash"], input=script.encode(), cwd=tmp_path, capture_output=True, check=False, timeout=60)
    assert b"syntax error" not in done.stderr
    assert b"unexpected" not in done.stderr
    assert not (tmp_path / "pwned").exists()


def test_a_value_where_a_command_begins_is_a_command_and_not_a_word_of_bash(tmp_path):
    for value in ("A=1", "if", "{", "!", "function", "~root", "a,b", "[x", "*"):
        script = rendered(tmp_path, "{{ v }} x\n", "a.sh", v=value)
        done = subprocess.run(["bash", "-c", script], capture_output=True, check=False, timeout=20)
        assert (done.returncode, f"{value}: command not found" in done.stderr.decode()) == (127, True)


def test_numbers_and_truth_are_bare_in_bash(tmp_path):
    assert rendered(tmp_path, "f {{ a }} {{ b }} {{ c }}", "a.sh", a=3, b=1e-05, c=True) == "f 3 1e-05 true"


@pytest.mark.parametrize(
    ("template", "target", "said"),
    [
        ("a: '{{ v }}'", "a.yaml", "a.yaml.j2:1: a value stands inside quotes, a comment or other text"),
        ('a: 1\nb: "{{ v }}"', "a.yaml", "a.yaml.j2:2: a value stands"),
        ("a: run-{{ v }}", "a.yaml", "a.yaml.j2:1: a value stands"),  # would be run-"x", with the quotes
        ("a: one\n  {{ v }}", "a.yml", "a.yml.j2:2: a value stands"),
        ("a: |\n  one\n  {{ v }}", "a.yaml", "a.yaml.j2:3: a value stands"),
        ("# {{ v }}\na: 1", "a.yaml", "a.yaml.j2:1: a value stands"),
        ("a: {{ v }} x", "a.yaml", "renders to invalid YAML"),
        ('{"a": "{{ v }}"}', "a.json", "a.json.j2:1: a value stands"),
        ('[\n"a {{ v }} b"]', "a.json", "a.json.j2:2: a value stands"),
        ("{{ v | tojson }}", "a.json", "No filter named 'tojson'"),  # would be quoted twice
        ("a: {{ v | tojson }}", "a.yaml", "No filter named 'tojson'"),
        ("[{{ 1e308 * 10 }}]", "a.json", "a.json.j2:1: "),  # JSON has no Infinity
        ("[{{ range }}]", "a.json", "not JSON serializable"),
        ("a: {{ range }}", "a.yaml", "cannot represent an object"),
        ("{{ none }}", "a.txt", "a.txt.j2:1: template: NoneType is neither text nor a number"),
        ("x\n{{ v.upper }}", "a.txt", "a.txt.j2:2: "),
        ("{{ [1] }}", "a.sh", "list is neither text nor a number"),
        ("{{ v | random }}", "a.txt", "No filter named 'random'"),
        ("{{ lipsum() }}", "a.txt", "'lipsum' is undefined"),
        ("{{ v", "a.sh", "a.sh.j2:1: template: "),
        ("{{ v }", "a.yaml", "a.yaml.j2:1: template: "),
        ("\n{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "a.txt", "a.txt.j2:2: template: maximum recursion depth"),
        ("{{ 1 / 0 }}", "a.txt", "a.txt.j2:1: template: division by zero"),
        ("{{ 'a' * 10 ** 18 }}", "a.txt", "a.txt.j2:1: template: MemoryError"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "a.txt", "a.txt.j2:1: template: Range too big"),
        ("{% for a in 'x' %}" * 25 + "{% endfor %}" * 25, "a.txt", "template: too many statically nested blocks"),
        ("{{ '\\0' }}", "a.txt", "template: gives a NUL"),
        ("{{ '\\ud800' }}", "a.sh", "template: gives a NUL or half a character"),
        ("{% extends 'x' %}", "a.txt", "a.txt.j2:1: "),
        ("{{ cycler.__init__.__globals__ }}", "a.txt", "a.txt.j2:1: "),
    ],
)
def test_a_hostile_template_is_named(tmp_path, template, target, said):
    assert said in refused(tmp_path, template, target, v="x")


@pytest.mark.parametrize(
    ("template", "read"),
    [
        ("{{ v }}: 1", {"x: #y": 1}),
        ("a: [{{ v }}, {{ n }}]  # it's", {"a": ["x: #y", 4]}),
        ("a: {{ 'run-' ~ n }}", {"a": "run-4"}),
        ("a: {{ [v, n, none, true] }}", {"a": ["x: #y", 4, None, True]}),
        ("a: {{ v if n else n }}", {"a": "x: #y"}),
        ("a:\n{% for each in [1, 2] %}\n- {{ each }}\n{% endfor %}", {"a": [1, 2]}),
        ("a: {% if n %}{{ v }}{% else %}{{ n }}{% endif %}", {"a": "x: #y"}),
        ("a: {{ v | e }}", {"a": "x: #y"}),
    ],
)
def test_a_value_that_stands_alone_in_yaml_is_taken(tmp_path, template, read):
    assert yaml.safe_load(rendered(tmp_path, template, "a.yaml", v="x: #y", n=4)) == read


def test_a_value_in_a_text_file_is_the_value_and_nothing_else(tmp_path):
    assert rendered(tmp_path, 'it\'s "{{ v }}"\n', "a.txt", v="$(x) '\n") == "it's \"$(x) '\n\"\n"


def test_a_template_that_is_not_text_or_not_there_is_named(tmp_path):
    (tmp_path / "a.sh.j2").write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match=r"a\.sh\.j2: cannot be read: is not UTF-8 text"):
        render.render_file(tmp_path / "a.sh.j2", "a.sh", {})
    with pytest.raises(ConfigError, match=r"b\.sh\.j2: cannot be read: No such file"):
        render.render_file(tmp_path / "b.sh.j2", "b.sh", {})
    with pytest.raises(ConfigError, match=r"cannot be read: Is a directory"):
        render.render_file(tmp_path, "b.sh", {})


HOSTILE = [
    "", " ", "-n", "--help", "--", "a b", "it's", '"', "'\"'", "$(touch pwned)", "`touch pwned`", "${HOME}", "$HOME",
    "; touch pwned", "& touch pwned &", "| touch pwned", "\n", "a\nb\n", "\r\n", "\t", "\\", "\\n", "a\\\nb", "*",
    "?", "~",
    "{a,b}", "!x", "#x", "caf\u00e9", "\u2028", "\U0001f600", "\x01", "\x7f", "\x1b[2J", "{{ 7 * 7 }}", "{% raw %}",
    "{# x #}", "%s%n", "A=1", "if", "x" * 5000,
]  # fmt: skip


def test_hostile_values_arrive_in_the_program_exactly_as_given(tmp_path):
    text = "title: Echo\nparameters:\n"
    text += "".join(f"  v{index}: {{type: str, default: x, help: x}}\n" for index in range(len(HOSTILE)))
    text += (
        "program: echo.py\nenv: {ASKED: '{{ v3 }}{{ v21 }}{{ v6 }}'}\ncommand:\n- '{{ python }}'\n- '{{ program }}'\n"
    )
    text += "".join(f"- '{{{{ v{index} }}}}'\n- '--a={{{{ v{index} }}}}'\n" for index in range(len(HOSTILE)))
    folder = tmp_path / "templates" / "echo"
    folder.mkdir(parents=True)
    (folder / "benchmark.yaml").write_text(text)
    (folder / "echo.py").write_text("import json, os, sys\nprint(json.dumps([sys.argv[1:], os.environ['ASKED']]))\n")
    bench = benchmark.load_file(folder / "benchmark.yaml")
    sweep = Sweep.make(bench.parameters, {f"v{index}": [value] for index, value in enumerate(HOSTILE)})
    # the values have already been through the text form of the sweep, as they are when the command line gives them
    (bundle,) = render.render(plan(bench, [site.load("local")], Sweep.parse(str(sweep), bench.parameters)), "r")
    case = tmp_path / "case"
    case.mkdir()
    for name, content in bundle.files.items():
        (case / name).write_bytes(content)
    subprocess.run(["bash", "job.sh"], cwd=case, check=True, timeout=60)
    arrived, environment = json.loads((case / "stdout.log").read_text())
    assert arrived == [word for value in HOSTILE for word in (value, f"--a={value}")]
    assert environment == HOSTILE[3] + HOSTILE[21] + HOSTILE[6]
    assert json.loads(bundle.files["case.json"])["parameters"] == {f"v{i}": value for i, value in enumerate(HOSTILE)}
    assert json.loads((case / "exit.json").read_text())["status"] == 0
    assert not list(tmp_path.rglob("pwned"))


def test_a_case_that_the_benchmark_refuses_is_named(tmp_path):
    toy.write(tmp_path, benchmark=toy.BENCHMARK + "require: {threads < 3: fewer than three threads}\n")
    assert len(bundles(tmp_path, axes={"threads": "1,2"})) == 2
    with pytest.raises(UsageError, match="case 003-threads3: fewer than three threads"):
        bundles(tmp_path, axes={"threads": "1,2,3"})


def test_a_requirement_that_is_no_expression_is_named_with_its_line(tmp_path):
    toy.write(tmp_path, benchmark=toy.BENCHMARK + "require:\n  threads < thread: too few\n")
    with pytest.raises(ConfigError, match=r"benchmark\.yaml:\d+: template: 'thread' is undefined"):
        bundles(tmp_path, axes={"threads": "1"})


def test_a_file_of_a_benchmark_is_rendered_into_its_place(tmp_path):
    toy.write(tmp_path, benchmark=toy.BENCHMARK + "files: {conf/model.yaml: model.yaml.j2}\n")
    folder = tmp_path / "templates" / "toy"
    (folder / "model.yaml.j2").write_text("act: {{ act }}\ncores: {{ cores }}\ncase: {{ case }}\nsite: {{ site }}\n")
    (bundle,) = bundles(tmp_path, axes={"act": ["no"], "threads": "2"})
    assert yaml.safe_load(bundle.files["conf/model.yaml"]) == {
        "act": "no", "cores": 2, "case": "001", "site": "local",
    }  # fmt: skip


def test_the_same_inputs_give_the_same_bytes_in_another_process(tmp_path):
    toy.write(tmp_path)
    code = (
        "import hashlib, sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_render;"
        "print(test_render.digest(Path('.')))"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code, str(Path(__file__).parent)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == digest(tmp_path)


def digest(folder):
    made = bundles(folder, axes={"act": "a,b", "threads": "1:4"})
    return hashlib.sha256(
        b"".join(name.encode() + content for each in made for name, content in each.files.items())
    ).hexdigest()


@pytest.mark.parametrize(
    "name", ["job.sh", "case.json", "measure.py", "exit.json", ".usage", "perf.txt", "toy_program.py"]
)
def test_no_file_of_a_benchmark_takes_the_place_of_another(tmp_path, name):
    with pytest.raises(
        ConfigError, match=rf"benchmark\.yaml:\d+: files: '{re.escape(name)}' is a file of hpcbench's own"
    ):
        bundles(tmp_path, toy.BENCHMARK + f"files: {{{name}: x.j2}}\n")


@pytest.mark.parametrize("name", ["job.sh", "case.json", "measure.py", "stdout.log"])
def test_no_program_takes_the_place_of_hpcbenchs_own_files(tmp_path, name):
    toy.write(tmp_path, benchmark=toy.BENCHMARK.replace("toy_program.py", name))
    (tmp_path / "templates" / "toy" / name).write_text("")
    with pytest.raises(
        ConfigError, match=rf"benchmark\.yaml:\d+: program: '{re.escape(name)}' is a file of hpcbench's own"
    ):
        bundles(tmp_path)


@pytest.mark.parametrize(
    ("cores", "said"),
    [("{{ thread }}", "'thread' is undefined"), ("{{ seconds }}", "'0.0' is not a whole"), ("\u0664", "is not a whole"),
     ("{{ 10 ** 20 }}", "is not a whole"), ("{{ threads - 1 }}", "0 is below 1"), ("", "'' is not a whole")],
)  # fmt: skip
def test_cores_that_are_no_number_are_named_with_their_line(tmp_path, cores, said):
    with pytest.raises(ConfigError, match=rf"benchmark\.yaml:8: .*{said}"):
        bundles(tmp_path, toy.BENCHMARK.replace('"{{ threads }}"', f'"{cores}"'))
