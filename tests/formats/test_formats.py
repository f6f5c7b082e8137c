import importlib
import pkgutil
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from hpcbench import formats
from hpcbench.errors import UsageError
from hpcbench.parse.content import read_bytes

NAMES = sorted(formats.all_formats().keys() - {"failures"})
# An example is one line; these formats are recognised by what stands around such a line.
AROUND = {
    "perf-stat": " Performance counter stats for './train_gpt2':\n\n{}\n",
    "time": "{}\nuser\t0m2.396s\nsys\t0m0.011s\n",
}


def test_the_formats_of_this_version_are_there():
    assert {
        "gnu-time", "hpcbench-exit", "hpcbench-records", "llmc-cpu", "llmc-cuda", "llmc-main-log", "perf-stat", "time",
    } <= set(NAMES)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_the_example_of_a_format_is_recognised_by_it_alone_and_read_whole(name):
    content = read_bytes(AROUND.get(name, "{}\n").format(formats.get(name).example).encode())
    assert content.formats == [name]
    assert sum(map(len, content.tables.values())) >= 1
    assert content.unread == 0


def test_every_name_is_one_formats_own():
    modules = [
        importlib.import_module(f"hpcbench.formats.{each.name}") for each in pkgutil.iter_modules(formats.__path__)
    ]
    names = [each.name for module in modules for each in getattr(module, "FORMATS", ())]
    assert sorted(names) == sorted([*NAMES, "failures"])


def test_an_unknown_format_is_named_with_the_nearest():
    with pytest.raises(UsageError, match="unknown format 'llmc-gpu'; did you mean 'llmc-cpu'"):
        formats.get("llmc-gpu")


def test_a_module_in_the_folder_is_a_format_and_nothing_else_changes(tmp_path):
    """A copy of the package with one more file: recognised, read, compared."""
    package = Path(formats.__file__).parents[1]
    copy = tmp_path / "hpcbench"
    for file in package.rglob("*.py"):
        target = copy / file.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    (copy / "formats" / "train.py").write_text(
        textwrap.dedent(r'''
            """A program that someone wrote yesterday."""

            from hpcbench.formats import Format, Line

            FORMATS = (
                Format(
                    name="train",
                    kind="training",
                    title="train",
                    example="it 3 loss 2.5 in 40.0 ms",
                    warmup=1,
                    parts=(Line("steps", r"^it <step> loss <loss> in <step_time ms> ms", anchor="it "),),
                ),
            )
            ''')
    )
    (tmp_path / "a.log").write_text("it 0 loss 3.0 in 90.0 ms\nit 1 loss 2.5 in 40.0 ms\nit 2 lo\n")
    script = """
import hpcbench
from hpcbench.analyse.summary import compare
metrics = hpcbench.parse("a.log")
print(*metrics.sources["format"], *metrics.sources["unread"], compare(metrics)[0].rows[0].metrics["step_time"].mean)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("train 1 0.04\n", "")


MEGABYTE = 1_000_000
HOSTILE = {
    "digits": b"1" * MEGABYTE,
    "spaces": b" " * MEGABYTE,
    "line breaks": b"\n" * MEGABYTE,
    "blank lines": b" \n" * (MEGABYTE // 2),
    "carriage returns": b"1\r" * (MEGABYTE // 2),
    "dotted words": b"a." * (MEGABYTE // 2),
    "a number without end": b"val loss " + b"1" * MEGABYTE + b"x",
    "a clock without end": b"real\t" + b"1" * MEGABYTE + b"x",
    "an exit record of one key": b'{"status": 0, "signal": ' + b'"started": ' * (MEGABYTE // 11),
    "failing without end": b"[CUDA ERROR] " * (MEGABYTE // 13),
    "asserting without end": b"Assertion `" * (MEGABYTE // 11),
    "a counter without end": b" Performance counter stats for x\n 1" + b"," * MEGABYTE + b"1" * MEGABYTE + b" \1",
}


def spoilt(name):
    """Return a format's example repeated, and with each of its numbers made endless."""
    example = AROUND.get(name, "{}").format(formats.get(name).example).encode()
    yield example * (MEGABYTE // len(example))
    for number in re.finditer(rb"\d+", example):
        yield example[: number.start()] + b"1" * 200_000 + b"x"


def ends(script):
    """Run a child that takes seconds; one that backtracks takes minutes, and is then ended."""
    head = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    head += "import test_formats\nfrom hpcbench.parse.content import read_bytes\n"
    done = subprocess.run(
        [sys.executable, "-c", head + script], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.stdout, done.stderr) == ("done\n", "")


@pytest.mark.parametrize("what", list(HOSTILE))
def test_no_line_takes_time_that_is_quadratic_in_its_length(what):
    ends(f"""
for data in (test_formats.HOSTILE[{what!r}], test_formats.HOSTILE[{what!r}] + b"\\n"):
    read_bytes(data)
    for name in test_formats.NAMES:
        if test_formats.formats.get(name).document:
            read_bytes(data, [name])
print("done")
""")


@pytest.mark.parametrize("first", range(0, len(NAMES), 10))
def test_no_example_takes_time_that_is_quadratic_in_its_length(first):
    ends(f"""
for name in test_formats.NAMES[{first}:{first + 10}]:
    for data in test_formats.spoilt(name):
        read_bytes(data)
        read_bytes(data + b"\\n", [name])
print("done")
""")


@pytest.mark.parametrize("name", ["failures", *NAMES])
def test_the_patterns_of_a_format_compile_and_have_a_text_to_look_for(name):
    for part in formats.get(name).parts:
        if isinstance(part, formats.Line):
            assert part.regex.groups == len(part.columns)
            assert len(part.literal) >= 3
        else:
            assert len(part.anchor) >= 3


@pytest.mark.parametrize(("pattern", "said"), [
    (r"loss\s<loss>", "write \\[ "),
    (r"loss (a|b)", "write \\(\\?:...\\) for a group"),
    (r"loss <loss:colour>", "a placeholder is one of"),
    (r"<loss>|<lr>", "give an anchor"),
    (r"a <loss> b", "three letters"),
])  # fmt: skip
def test_a_wrong_pattern_is_named(pattern, said):
    line = formats.Line("steps", pattern)
    with pytest.raises(ValueError, match=said):
        _ = line.regex, line.literal
