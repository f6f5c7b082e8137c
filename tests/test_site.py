import os
import sys

import pytest

from hpcbench import config, site
from hpcbench.errors import ConfigError


def loaded(tmp_path, text):
    file = tmp_path / "mine.yaml"
    file.write_text(f"title: Mine\n{text}", encoding="utf-8")
    return config.load(file, site.Site, verbatim=frozenset({"setup"}))


def test_the_name_of_a_site_is_its_files(tmp_path):
    assert loaded(tmp_path, "").name == "mine"


def test_a_site_needs_a_title_only(tmp_path):
    found = loaded(tmp_path, "")
    assert (found.reach, found.scheduler, found.slots, found.env, found.setup) == ("local", "process", 1, {}, "")
    assert found.interpreter == sys.executable
    assert loaded(tmp_path, "python: /opt/python").interpreter == "/opt/python"


@pytest.mark.parametrize(
    ("time", "seconds"), [("0:00:01", 1), ("01:00:00", 3600), ("1:02:03", 3723), ("9999:59:59", 35_999_999)]
)
def test_a_time_limit_is_hours_minutes_seconds(tmp_path, time, seconds):
    assert loaded(tmp_path, f"job: {{time: '{time}'}}").job.seconds == seconds


def test_no_time_limit_is_none(tmp_path):
    assert loaded(tmp_path, "").job.seconds is None


@pytest.mark.parametrize(
    "time",
    ["'0:00:00'", "'1:60:00'", "'1:00'", "'-1:00:00'", "'\u0661:00:00'", '"1:00:00\\n"', "'99999:00:00'", "''", "60"],
)
def test_what_is_no_time_limit_is_refused(tmp_path, time):
    with pytest.raises(ConfigError, match=r"mine\.yaml:2: job\.time: "):
        loaded(tmp_path, f"job: {{time: {time}}}")


def test_an_unquoted_time_is_base_60_to_yaml_and_the_mend_is_said(tmp_path):
    with pytest.raises(ConfigError, match="should be a valid string, found 3600; quote it"):
        loaded(tmp_path, "job: {time: 1:00:00}")


@pytest.mark.parametrize("name", ["A B", "A=B", "1A", "A-B", "\u00c9", "", "hb_pid", "IFS", "UID", "A; touch pwned"])
def test_what_a_job_cannot_have_in_its_environment_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match=r"mine\.yaml:4: env\..*cannot be given an environment variable"):
        loaded(tmp_path, f"env:\n  GOOD: x\n  '{name}': x\n")


@pytest.mark.parametrize("name", ["PATH", "_A", "a1", "hb", "UIDS", "OMP_NUM_THREADS"])
def test_any_other_name_is_taken(tmp_path, name):
    assert loaded(tmp_path, f"env: {{{name}: x}}").env == {name: "x"}


def test_setup_is_bash_and_expands_its_variables_itself(tmp_path):
    found = loaded(tmp_path, "setup: |\n  export PATH=${NOT_SET_HERE}:$PATH\n")
    assert found.setup == "export PATH=${NOT_SET_HERE}:$PATH\n"


def test_cores_are_the_first_of_those_that_this_process_may_use(tmp_path):
    everything = loaded(tmp_path, "").available_cores
    assert 1 <= len(everything) <= (os.cpu_count() or 1)
    assert loaded(tmp_path, "cores: 1").available_cores == everything[:1]
    assert loaded(tmp_path, "cores: 100000").available_cores == everything


def test_adding_a_site_is_adding_a_file_and_a_broken_one_hides_no_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "good.yaml").write_text("title: Good\n")
    (tmp_path / "sites" / "broken.yaml").write_text("titel: Broken\n")
    (tmp_path / "sites" / "a folder.yaml").mkdir()
    (tmp_path / "sites" / "folder.yaml").mkdir()
    found = site.load_all()
    assert {"good", "broken", "folder", "local"} <= set(found)
    assert "a folder" not in found
    assert found["good"].title == "Good"
    assert "unknown key 'titel'; did you mean 'title'?" in str(found["broken"])
    assert "cannot be read" in str(found["folder"])


def test_a_key_with_nothing_but_comments_below_it_is_one_that_is_left_out(tmp_path):
    found = loaded(tmp_path, "job:\n  # time: x\nlimits:\nenv:\npackages:\n")
    assert found.model_dump() == loaded(tmp_path, "").model_dump()
