import os

import pytest

from hpcbench import formats
from hpcbench.errors import ConfigError
from hpcbench.parse import parse

FORMAT = """\
title: A trainer
example: "it 3 loss 2.5 in 40.0 ms"
warmup: 1
lines:
  - {table: steps, pattern: '^it <step> loss <loss> in <step_time ms> ms$', anchor: " loss "}
"""
LOG = "it 0 loss 3.0 in 90.0 ms\nit 1 loss 2.5 in 40.0 ms\nit 2 loss 2.x in 40.0 ms\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "formats").mkdir()
    (tmp_path / "a.log").write_text(LOG)
    return tmp_path


def write(folder, text, name="mine"):
    (folder / "formats" / f"{name}.yaml").write_text(text)


def test_a_format_in_a_file_reads_like_any_other(folder):
    write(folder, FORMAT)
    metrics = parse("a.log")
    assert list(metrics.sources["format"]) == ["mine"]
    assert list(metrics.sources["unread"]) == [1]
    assert list(metrics.steps["step_time"]) == [0.09, 0.04]
    assert list(metrics.steps["warmup"]) == [True, False]
    assert "mine" in formats.all_formats()


def test_a_file_that_was_edited_is_read_again(folder):
    write(folder, FORMAT)
    assert len(parse("a.log").steps) == 2
    write(folder, FORMAT.replace("<step_time ms> ms", "<step_time> ms"))
    os.utime(folder / "formats" / "mine.yaml", ns=(1, 1))
    assert list(parse("a.log").steps["step_time"]) == [90, 40]


def test_workers_know_it_too(folder):
    write(folder, FORMAT)
    assert len(parse("a.log", workers=2, cache=False).steps) == 2


@pytest.mark.parametrize(("old", "new", "said"), [
    ("table: steps", "table: stepz", r"mine.yaml:5: table: 'stepz' is none of"),
    ("<loss>", "<loss:colour>", r"mine.yaml:5: pattern: <loss:colour>: a placeholder is one of"),
    ("<step_time ms>", "<step_time minutes>", r"mine.yaml:5: pattern: <step_time minutes>: a unit is one of"),
    ("^it ", r"^it\s", r"mine.yaml:5: pattern: .* would take a line's end"),
    ("^it ", "^(?:(?:a+)+)+it ", r"mine.yaml:5: pattern: .* may take forever"),
    ("^it ", "^(it) ", r"mine.yaml:5: pattern: .* for a group that is no column"),
    ("^it ", "^[it ", r"mine.yaml:5: pattern: "),
    ("table: steps,", "table: steps, weak: true,", r"mine.yaml:4: every line is weak"),
    ("<step_time ms>", "<step_tim ms>", r"mine.yaml:5: column 'step_tim': did you mean 'step_time'\?"),
    ("warmup: 1", "kind: trainning", r"mine.yaml:3: kind: .*'training', 'inference', 'evaluation' or 'system'"),
    ("warmup: 1", "warm_up: 1", r"mine.yaml:3: unknown key 'warm_up'; did you mean 'warmup'"),
])  # fmt: skip
def test_a_mistake_is_named_with_its_line(folder, old, new, said):
    write(folder, FORMAT.replace(old, new))
    with pytest.raises(ConfigError, match=said):
        parse("a.log")


def test_a_format_of_ones_own_can_say_parameters(folder):
    write(folder, f"{FORMAT}  - {{table: parameters, pattern: '^global batch <batch:int>$'}}\n")
    for name, batch in (("a", 64), ("b", 128)):
        (folder / f"{name}.log").write_text(f"global batch {batch}\n{LOG}")
    assert list(parse("a.log", "b.log").sources.batch) == [64, 128]
