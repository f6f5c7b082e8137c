import os
import subprocess
import sys

import pytest

from hpcbench import benchmark, config, site
from hpcbench.errors import ConfigError


def write(tmp_path, text, name="mine.yaml"):
    file = tmp_path / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def message(tmp_path, text) -> str:
    with pytest.raises(ConfigError) as caught:
        config.load(write(tmp_path, text), site.Site)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{tmp_path}/")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("title: A\nslot: 2\n", "mine.yaml:2: unknown key 'slot'; did you mean 'slots'?"),
        ("title: A\njob:\n  tiem: x\n", "mine.yaml:3: unknown key 'job.tiem'; did you mean 'time'?"),
        ("slots: 1\n", "mine.yaml:1: the key 'title' is missing"),
        ("title: A\nslots: 0\n", "mine.yaml:2: slots: "),
        ("title: A\nslots: two\n", "mine.yaml:2: slots: "),
        ("title: A\ntitle: B\n", "mine.yaml:2: the key 'title' stands twice"),
        ("title: A\n1: B\n", "mine.yaml:2: the key 1 is not text"),
        ("title: [\n", "mine.yaml:2: not valid YAML"),
        ("- a\n- b\n", "mine.yaml:1: expected keys and values, found a list"),
        ("", "mine.yaml: the key 'title' is missing"),
        (b"\xff\xfe\x00\x01", "mine.yaml:1: is not UTF-8 text"),
        ("title: ${NOT_SET_HERE}\n", "mine.yaml:1: the environment variable NOT_SET_HERE is not set"),
        ("title: A\nenv: {A: 1}\n", "mine.yaml:2: env.A: "),
        ("title: !!python/object/apply:os.system [echo]\n", "mine.yaml:1: title: should be a valid string"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(tmp_path, text, said):
    assert message(tmp_path, text).startswith(said)


def test_a_file_that_explodes_through_aliases_is_refused(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi", strict=True)]
    assert "too many values" in message(tmp_path, "\n".join(lines))


def test_a_huge_or_deep_file_is_refused(tmp_path):
    assert "larger than 1 MiB" in message(tmp_path, "title: " + "x" * (1 << 20))
    assert message(tmp_path, "title: " + "[" * 5000).startswith("mine.yaml:")


def test_the_environment_is_expanded_but_not_in_bash(tmp_path, monkeypatch):
    monkeypatch.setenv("WHO", "me: # {}")
    text = "title: ${WHO} and ${NOBODY:-someone} $${x} $WHO\nsetup: |\n  echo ${WHO}\n"
    loaded = config.load(write(tmp_path, text), site.Site, verbatim=frozenset({"setup"}))
    assert loaded.title == "me: # {} and someone ${x} $WHO"
    assert loaded.setup == "echo ${WHO}\n"


def test_the_users_own_comes_before_the_configuration_and_the_built_in(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert site.load("local").title == "This machine"
    (tmp_path / "config" / "hpcbench" / "sites").mkdir(parents=True)
    (tmp_path / "config" / "hpcbench" / "sites" / "local.yaml").write_text("title: Configured\n")
    assert site.load("local").title == "Configured"
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "local.yaml").write_text("title: Here\n")
    assert site.load("local").title == "Here"


def test_unknown_names_give_the_nearest_and_lead_out_of_no_folder():
    with pytest.raises(ConfigError, match="unknown site 'locla'; did you mean 'local'"):
        site.load("locla")
    with pytest.raises(ConfigError, match="unknown benchmark 'gpt3'; did you mean 'gpt2'"):
        benchmark.load("gpt3")
    with pytest.raises(ConfigError, match="unknown site"):
        site.load("../sites/local")


def test_local_has_the_defaults_of_one_benchmark_at_a_time():
    local = site.load("local")
    assert (local.slots, local.oversubscribe, local.benchmark) == (1, False, "gpt2")
    assert local.available_cores
    assert site.Job(time="1:02:03").seconds == 3723


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("titel: A\n", "mine.yaml:1: unknown key 'titel'; did you mean 'title'? (and 1 more)"),  # not: title is missing
        ("title: A\nslots: true\n", "mine.yaml:2: slots: should be a valid integer, found True"),
        ("title: A\njob: no\n", "mine.yaml:2: job: "),
        ("title: 3.10\n", "mine.yaml:1: title: should be a valid string, found 3.1; quote it"),
        ("title: 2026-01-02\n", "mine.yaml:1: title: should be a valid string, found date; quote it"),
        ("title: !!binary aGk=\n", "mine.yaml:1: title: "),
        ("title: A\non: B\n", "mine.yaml:2: the key True is not text: quote it"),
        ("title: A\n{a: 1}: B\n", "mine.yaml:2: a key is not text"),
        ("title: A\n---\ntitle: B\n", "mine.yaml:2: not valid YAML"),
        ("title: A\n\tslots: 1\n", "mine.yaml:2: not valid YAML"),
        ("title: A\n<<: {slots: 2}\n", "mine.yaml:2: not valid YAML"),
        ("title: A\n'title': B\n", "mine.yaml:2: the key 'title' stands twice"),
        ("title: A\nenv: {A: x, A: y}\n", "mine.yaml:2: the key 'A' stands twice"),
        ("title: A\n'a\x1b[2J': 1\n", "mine.yaml:2: holds the control character '\\x1b'"),
        ('title: A\n"a\\e[2J\\n": 1\n', r"mine.yaml:2: unknown key 'a\x1b[2J\n'; there is benchmark, "),
        ('title: A\nenv: {"a\\nb": 1}\n', r"mine.yaml:2: 'env.a\nb': "),
        ("# caf\u00e9\ntitle: a\x00b\n", "mine.yaml:2: holds the control character '\\x00'"),
        ('title: A\nsetup: "a\\0b"\n', "mine.yaml:2: holds a NUL"),
        ('title: A\nsetup: "\\ud800"\n', "mine.yaml:2: holds a NUL or half a character"),
        (b"title: A\nsetup: caf\xe9\n", "mine.yaml:2: is not UTF-8 text"),
        ("title: &a [*a]\n", "mine.yaml: is nested too deeply"),
        ("title: A\nslots: 0x" + "f" * 5000, "mine.yaml:2: a value of 5002 characters is too long for type int"),
        ("title: A\nslots: 1" + ":1" * 50_000, "mine.yaml:2: a value of 100001 characters is too long for type int"),
    ],
)
def test_a_hostile_file_is_one_line_too(tmp_path, text, said):
    assert message(tmp_path, text).startswith(said)


@pytest.mark.parametrize(
    "value", ['!!int ""', "!!int abc", '!!float ""', "!!bool x", "!!timestamp x", "2026-13-45", "0x_", "!!binary a"]
)
def test_a_value_that_is_not_what_its_tag_says_is_refused_with_its_line(tmp_path, value):
    assert message(tmp_path, f"title: A\nslots: {value}\n").startswith("mine.yaml:2: not valid YAML: ")


def test_a_key_that_explodes_through_aliases_is_never_written_out(tmp_path):
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefg", "bcdefgh", strict=True)]
    text = f"title: A\n? {{{', '.join(lines)}}}\n: 1\n"
    assert message(tmp_path, text) == "mine.yaml:2: a key is not text"


def test_an_empty_variable_is_told_from_one_that_is_not_set(tmp_path, monkeypatch):
    monkeypatch.setenv("EMPTY", "")
    assert message(tmp_path, "title: ${EMPTY}").endswith(
        "the environment variable EMPTY is empty; ${EMPTY:-} allows that"
    )
    assert config.load(write(tmp_path, "title: a${EMPTY:-}"), site.Site).title == "a"


def test_a_variable_that_is_not_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("BYTES", "caf\udce9")
    assert message(tmp_path, "title: ${BYTES}") == "mine.yaml:1: the environment variable BYTES is not UTF-8 text"


def test_only_the_top_key_makes_text_bash(tmp_path, monkeypatch):
    monkeypatch.setenv("WHO", "me")
    text = "title: A\nenv: {setup: '${WHO}'}\n"
    assert config.load(write(tmp_path, text), site.Site, verbatim=frozenset({"setup"})).env == {"setup": "me"}


def test_a_value_of_several_types_is_one_complaint(tmp_path):
    file = write(tmp_path, "title: A\ncommand: [a]\nparameters: {}\nresources: {cores: 1.5}\n", "benchmark.yaml")
    with pytest.raises(ConfigError) as caught:
        benchmark.load_file(file)
    assert str(caught.value) == (f"{file}:4: resources.cores: should be a valid integer or a valid string, found 1.5")


def test_a_key_is_near_to_those_of_its_own_place(tmp_path):
    # `min` is a parameter here, and a key of each parameter
    text = "title: A\ncommand: [a]\nparameters:\n  min: {type: int, default: 1, hepl: x}\n"
    file = write(tmp_path, text, "benchmark.yaml")
    with pytest.raises(ConfigError, match=r":4: unknown key 'parameters\.min\.hepl'; did you mean 'help'\?"):
        benchmark.load_file(file)


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path):
    assert config.load(write(tmp_path, "\ufefftitle: caf\u00e9\n"), site.Site).title == "caf\u00e9"


def test_a_user_without_a_home_has_no_configuration_and_no_crash():
    code = (
        "import os; from hpcbench.config import search_path; before = search_path('sites'); os.setuid(54321);"
        "print(len(before), len(search_path('sites')))"
    )
    if os.geteuid() != 0:
        pytest.skip("only root can become a user without a home")
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CONFIG_HOME")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.stderr) == ("3 2", "")


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-x", ".x", "a b", "a\n", "a\0b", "x" * 65, "\u00e9"])
def test_a_name_is_safe_as_a_file_name(name):
    assert not config.NAME.fullmatch(name)
