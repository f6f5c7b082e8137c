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
