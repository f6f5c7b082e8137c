"""What may have happened to a log, a folder or the cache: nothing of it stops the reader or makes it read wrongly."""

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path

import pandas as pd
import pytest
import written
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcbench import formats
from hpcbench.parse import cache, files, parse
from hpcbench.parse.content import read_bytes, records

LOG = written.llmc([30, 10, 20])
AROUND = {"perf-stat": " Performance counter stats for 'x':\n\n{}\n", "time": "{}\nuser\t0m2.396s\nsys\t0m0.011s\n"}
EXAMPLES = [
    AROUND.get(name, "{}\n").format(each.example).encode()
    for name, each in formats.all_formats().items()
    if each.example
]
PIECE = 12_000  # bytes of a log that is cut and mutated: the cost of one try


def begins(folder):
    """Yield the name of each real log and its first lines, of a large one also some from its middle."""
    for file in sorted(each for each in folder.rglob("*") if each.is_file()):
        data = file.read_bytes()
        middle = data.find(b"\n", len(data) // 2) + 1
        for start in [0, middle] if len(data) > 4 * PIECE else [0]:
            piece = data[start : start + PIECE]
            yield str(file.relative_to(folder)), piece[: piece.rfind(b"\n") + 1] or data[:100_000]


def rows(content):
    """Return the numbers of each row by its table and line, and what they are of: names, units, states, queues.

    A row that was cut may not know yet that it is warm-up, an event not what happened, and the results of Keras not
    that a validation follows.
    """
    found = defaultdict(list)
    for record in records(content):
        values = {
            name: float(value) if isinstance(value, int | float) else value
            for name, value in record.values.items()
            if name not in {"warmup", "attempt", "block", "part", "message", "kind", "task", "metric"}
        }
        found[record.table, record.line].append(values)
    return found


def check(data, name=""):
    """Read bytes; whatever they are, each row has a line of theirs."""
    content = read_bytes(data, file_name=name)
    lines = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
    assert content.lines == lines
    assert content.unread >= 0
    for table in content.tables.values():
        assert table.line.min() >= 1
        assert table.line.max() <= lines
        assert all(len(column) == len(table) for column in table.columns.values())
    return content


# Any bytes.


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=300))
def test_any_bytes_are_read(data):
    check(data)


FRAGMENTS = st.one_of(
    st.sampled_from(EXAMPLES),
    st.sampled_from(
        [b"\n", b"\r", b"\r\n", b"\0", b"\x1b[31m", b"[0]: ", b"[rank3]:", b"2025-01-01 00:00:00,123 ", b"{", b"["]
    ),
    st.binary(max_size=8),
    st.floats().map(lambda number: repr(number).encode()),
    st.integers().map(lambda number: str(number).encode()),
    st.tuples(st.sampled_from(EXAMPLES), st.integers(0, 300)).map(lambda each: each[0][: each[1]]),
)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(FRAGMENTS, max_size=12))
def test_pieces_of_logs_in_any_order_are_read(parts):
    check(b"".join(parts))


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["record", "step", "loss", "time", "results", "metrics", "config"]), inner
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from([each for each in EXAMPLES if each.lstrip()[:1] in (b"{", b"[")]),
)
def test_json_of_any_shape_is_read(value, example):
    text = json.dumps(value).encode()
    check(text + b"\n" + example)
    for key in (b'"record": "step", ', b'"duration": 1, ', b'"key": "run_start", "value": ', b'"results": '):
        check(b"{" + key + b'"x": ' + text + b"}\n")
    at = example.find(b": ")
    check(example[: at + 2] + text + example[example.find(b",", at) :] if at > 0 else example)


# Real logs, mutated.


def mutated(chance, data, other):
    """Do to a log what disks, crashes and people do."""
    at, to = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    kind = chance.randrange(10)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + other[chance.randrange(len(other) + 1) :]
    if kind == 2:
        wrong = bytearray(data)
        for _ in range(min(len(data), chance.choice([1, 10, 300]))):
            wrong[chance.randrange(len(wrong))] = chance.randrange(256)
        return bytes(wrong)
    if kind == 3:
        return data[:at] + data[at : min(to, at + 500)] * chance.choice([2, 50]) + data[to:]
    if kind == 4:
        return (
            data[:at] + chance.choice([b"x", b"1", b" ", b'"', b"a.", b"[", b"\t", b"=", b"1,"]) * 100_000 + data[at:]
        )
    if kind == 5:
        return data[:at] + b"\0" * chance.choice([1, 5000]) + data[at:]
    if kind == 6:
        deep = chance.choice([b"[", b'{"a":', b'{"record": "step", "x": [', b"("]) * 3000
        return data[:at] + deep + data[at:]
    if kind == 7:
        digits = bytes(chance.choice(b"0123456789.-+enainf") for _ in range(6))
        places = [place for place in range(len(data)) if data[place : place + 1].isdigit()]
        place = chance.choice(places) if places else 0
        return data[:place] + digits + data[place + 1 :]
    if kind == 8:
        return data.replace(b"\n", chance.choice([b"\r", b"\r\n", b" ", b"\n\n", b"\x85"]))
    lines = data.split(b"\n")
    chance.shuffle(lines)
    return b"\n".join(lines)


def fuzz(folder, first, count):
    """Read mutated logs and say of each, before it, what it is; run in a process of its own."""
    logs = (
        [*begins(Path(folder)), *(("example", each) for each in EXAMPLES)]
        if folder
        else [("example", each * 5) for each in EXAMPLES]
    )
    for seed in range(first, first + count):
        chance = random.Random(seed)
        name, data = chance.choice(logs)
        print(seed, name, flush=True)
        for _ in range(chance.choice([1, 1, 3])):
            data = mutated(chance, data, chance.choice(logs)[1])[:500_000]
        check(data, Path(name).name)
    print("done")


def run_fuzz(folder, first, count):
    script = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent), str(Path(written.__file__).parent)]!r}
from test_hostile import fuzz
fuzz({folder!r}, {first}, {count})
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert (done.stderr, done.stdout.splitlines()[-1:]) == ("", ["done"]), done.stdout.splitlines()[-1:]


def test_mutated_examples_are_read():
    run_fuzz("", 0, 600)


@pytest.mark.parametrize("first", [10_000, 20_000])
def test_mutated_logs_are_read(corpus, first):
    run_fuzz(str(corpus), first, 350)


# A log that was cut holds no number that the whole log does not hold in the same line.


def cuts(chance, data, whole):
    """Choose where to cut: anywhere, and within the lines that hold something."""
    starts = [0, *(at + 1 for at, byte in enumerate(data) if byte == 10), len(data)]
    lines = sorted({line for _, line in whole})
    for _ in range(15):
        yield chance.randrange(len(data) + 1)
    for line in chance.choices(lines, k=25) if lines else []:
        yield chance.randint(starts[line - 1], starts[min(line, len(starts) - 1)])


def wrong_numbers(data, name):
    """Cut a log in many places: what each gives that the whole one does not."""
    content = check(data, name)
    whole = rows(content)
    chance = random.Random(len(data))
    for at in cuts(chance, data, whole):
        for (table, line), values in rows(check(data[:at], name)).items():
            known = whole.get((table, line), [])
            for numbers in values:
                if numbers and not any(numbers.items() <= each.items() for each in known):
                    yield at, data[max(0, at - 50) : at], table, line, numbers, known[:2]


def test_a_log_that_was_cut_gives_no_number_that_it_did_not_hold(corpus):
    wrong = [(name, *each) for name, data in begins(corpus) for each in wrong_numbers(data, Path(name).name)]
    assert wrong == []


def test_an_example_that_was_cut_anywhere_gives_no_number_that_it_did_not_hold():
    wrong = []
    for name, each in formats.all_formats().items():
        if not each.example:
            continue
        data = AROUND.get(name, "{}\n").format(each.example).encode() * 3
        whole = rows(check(data))
        known = {(line, value) for (_, line), values in whole.items() for row in values for value in row.values()}
        for at in range(len(data) - min(len(data) // 3, 150), len(data)):
            for (table, line), values in rows(check(data[:at])).items():
                found = {(line, value) for row in values for value in row.values()}
                wrong += [(name, data[:at][-40:], table, found - known)] if found - known else []
    assert wrong == []


@pytest.mark.parametrize("unit", ["ms", "us", "%", "K", "G", "KiB", "min"])
def test_a_number_is_the_same_among_few_rows_and_among_many(unit):
    """Many are converted at once, few one by one."""
    line = formats.Line("steps", f"took <step_time {unit}> and <loss> of <name:word>")
    from hpcbench.parse.columns import convert

    chance = random.Random(3)
    texts = [f"{chance.uniform(0, 10 ** chance.randrange(-6, 9)):.{chance.randrange(1, 12)}f}" for _ in range(3000)]
    texts += ["", "1.", ".5", "-0.0", "156.21", "100", "18003.70"]
    found = [(text.encode(), b"" if number % 7 else b"2.5", b"x%d" % number) for number, text in enumerate(texts)]
    many, good = convert(found, line)
    assert good is None
    for row, *values in zip(found, *many, strict=True):
        [few, *others], _ = convert([row], line)
        assert few.tolist() == [values[0]] or (few[0] != few[0] and values[0] != values[0])
        assert others[1].tolist() == [values[2]]


# Folders.


def names(metrics):
    return [Path(path).name for path in metrics.sources["path"]]


def test_links_in_a_circle_end(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "t1.log").write_text(LOG)
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "self").symlink_to(tmp_path / "a" / "self")
    (tmp_path / "a" / "one").symlink_to(tmp_path / "a" / "two")
    (tmp_path / "a" / "two").symlink_to(tmp_path / "a" / "one")
    (tmp_path / "a" / "same.log").symlink_to("t1.log")
    os.link(tmp_path / "a" / "t1.log", tmp_path / "a" / "u1.log")
    metrics = parse(tmp_path, cache=False)
    assert len(metrics.steps) == 3
    assert sorted(parse(tmp_path / "a" / "b" / "up", cache=False).steps["step_time"]) == [0.010, 0.020, 0.030]


def test_pipes_sockets_and_devices_are_passed_over(tmp_path, monkeypatch):
    (tmp_path / "t1.log").write_text(LOG)
    os.mkfifo(tmp_path / "t2.log")
    (tmp_path / "t3.log").symlink_to("t2.log")
    (tmp_path / "t4.log").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)  # a socket's path may have some 100 letters
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("t5.log")
    assert names(parse(tmp_path)) == ["t1.log"]


def test_a_pipe_in_a_case_is_not_waited_for(tmp_path):
    folder = written.case(tmp_path / "r" / "a", written.records(*written.steps([3, 1])), logs={"*": "x"})
    for name in ("stderr.log", "other.log"):
        os.mkfifo(folder / name)
    assert len(parse(written.run(tmp_path / "r")).steps) == 2


def test_a_pipe_in_place_of_a_run_json_is_not_waited_for(tmp_path):
    written.case(tmp_path / "r" / "a", written.records(*written.steps([3, 1])))
    written.run(tmp_path / "r")
    (tmp_path / "r" / "run.json").unlink()
    os.mkfifo(tmp_path / "r" / "run.json")
    script = "import sys; from hpcbench.parse import parse; print(len(parse(sys.argv[1], cache=False).steps))"
    command = [sys.executable, "-c", script, str(tmp_path / "r")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert (done.stdout, done.stderr) == ("2\n", "")


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
def test_files_that_cannot_be_opened_are_said_to_be_unreadable():
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in ("t1.log", "t2.log"):
            (folder / name).write_text(LOG)
        (folder / "t2.log").chmod(0)
        parse(folder / "t1.log", cache=False)  # everything is imported now
        folder.chmod(0o755)
        os.seteuid(65534)
        try:
            metrics = parse(folder, cache=False)
        finally:
            os.seteuid(0)
    assert list(metrics.sources["format"]) == ["llmc-cpu", "unreadable"]
    assert len(metrics.steps) == 3


HOSTILE_NAMES = [
    b"a\nb",
    b"'\"`$(x)",
    b"\xff\xfe\xe9",
    b"\x1b[31m",
    b"<script>",
    b"-rf",
    b" ",
    b"a\rb",
    b"\\x",
    b"%s{}",
    b"x" * 240,
]


def test_names_of_any_bytes_are_shown_and_kept(tmp_path):
    (tmp_path / "logs").mkdir()
    for name in HOSTILE_NAMES:
        (tmp_path / "logs" / os.fsdecode(name + b"1.log")).write_text(LOG)
    known = written_twice(tmp_path / "logs")
    assert list(known.sources["records"]) == [3] * len(HOSTILE_NAMES)
    assert known.sources["path"].is_unique
    known.write(tmp_path / "csv", csv=True)
    known.write(tmp_path / "parquet")


def test_a_file_that_vanishes_while_it_is_read_hides_no_other(tmp_path, monkeypatch):
    for number in range(5):
        (tmp_path / f"t{number}.log").write_text(LOG)
    inner = files.members

    def vanishing(file):
        if file.name == "t1.log":
            file.unlink()
        elif file.name == "t2.log":
            file.unlink()
            file.mkdir()
        elif file.name == "t3.log":
            file.write_text("")
        return inner(file)

    monkeypatch.setattr(files, "members", vanishing)
    metrics = parse(tmp_path, cache=False, hashes=True)
    assert list(metrics.sources["format"]) == ["llmc-cpu", "unreadable", "unreadable", "", "llmc-cpu"]


def test_a_file_that_vanishes_after_it_was_opened_hides_no_other(tmp_path, monkeypatch):
    for number in range(3):
        (tmp_path / f"t{number}.log").write_text(LOG)
    inner = files._read_range

    def vanishing(file, *rest):
        if file.endswith("t1.log"):
            Path(file).unlink(missing_ok=True)
        return inner(file, *rest)

    monkeypatch.setattr(files, "_read_range", vanishing)
    assert list(parse(tmp_path, cache=False).sources["format"]) == ["llmc-cpu", "unreadable", "llmc-cpu"]


def test_files_that_come_change_and_go_while_a_folder_is_read(tmp_path):
    """Whatever is seen of a file is what it held at some time: the first lines of the log."""
    log = written.llmc({step: 10 + step / 8 for step in range(500)})
    going = threading.Event()

    def stir():
        chance = random.Random(4)
        while not going.is_set():
            file = tmp_path / f"t{chance.randrange(10)}.log"
            with file.open("w") as stream:
                stream.write(log[: chance.randrange(len(log))])
            if chance.random() < 0.3:
                file.unlink()

    thread = threading.Thread(target=stir)
    thread.start()
    try:
        for _ in range(15):
            metrics = parse(tmp_path)
            times = metrics.steps["step_time"].to_numpy()
            assert (abs(times - (10 + metrics.steps["step"].to_numpy() / 8) / 1000) < 1e-12).all()
    finally:
        going.set()
        thread.join()


# The cache.


def same(one, other):
    for name, table in one.tables().items():
        pd.testing.assert_frame_equal(table, other.tables()[name])


def aged(folder):
    """Make files old enough to be kept."""
    for file in folder.rglob("*"):
        os.utime(file, (time.time() - 100,) * 2)


def written_twice(folder):
    """Read a folder without the cache, into it and from it: always the same."""
    aged(folder)
    alone = parse(folder, cache=False)
    same(alone, parse(folder))
    known = parse(folder)
    same(alone, known)
    return known


@pytest.fixture
def own_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def tree(folder, count):
    for number in range(count):
        place = folder / f"bs{number % 10}"
        place.mkdir(parents=True, exist_ok=True)
        times = [30 + number, 10 + number / 7, 20]
        (place / f"threads{number}.log").write_text(written.llmc(times) if number % 50 else f"prose {number}\n")
    aged(folder)
    return folder


def test_three_thousand_files_are_read_once(tmp_path, own_cache_folder, monkeypatch):
    folder = tree(tmp_path / "logs", 3000)
    first = parse(folder)
    assert len(first.steps) == 2940 * 3
    monkeypatch.setattr(files, "read_file", None)  # nothing is read again
    same(first, parse(folder))
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_cache_folder))
    changed = folder / "bs1" / "threads1.log"
    changed.write_text(written.llmc([1, 2, 3, 4]))
    (folder / "bs2" / "threads2.log").unlink()
    (folder / "bs3" / "new3.log").write_text(LOG)
    again = parse(folder)
    assert len(again.steps) == 2940 * 3 + 1
    same(parse(folder, cache=False), again)


def test_what_is_kept_of_a_file_is_found_by_whatever_path_it_is_named(tmp_path, own_cache_folder, monkeypatch):
    folder = tree(tmp_path / "logs", 20)
    expected = parse(folder, cache=False)
    monkeypatch.chdir(tmp_path)
    parse("logs")
    with monkeypatch.context() as patched:
        patched.setattr(files, "read_file", None)  # nothing is read again
        same(expected, parse(folder))
    for place, name in ((tmp_path, "logs"), (tmp_path, "./logs/"), (folder, "."), (folder / "bs1", "..")):
        monkeypatch.chdir(place)
        assert len(parse(name).steps) == len(expected.steps)


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "gone", "a folder", "another table", "text"])
def test_a_shard_that_is_damaged_is_thrown_away(tmp_path, own_cache_folder, damage):
    folder = tree(tmp_path / "logs", 60)
    expected = parse(folder)
    for shard_file in ("files.parquet", "logs.parquet", "table_steps.parquet"):
        [shard] = [each for each in (own_cache_folder / "hpcbench" / "parse").glob("*/*") if each.name[0] != "."]
        file = shard / shard_file
        data = file.read_bytes()
        if damage in ("gone", "a folder"):
            file.unlink()
        if damage == "a folder":
            file.mkdir()
        elif damage == "another table":
            pd.DataFrame({"path": ["x"]}).to_parquet(file)
        elif damage != "gone":
            wrong = {"cut": data[: len(data) // 2], "empty": b"", "text": b"step 1\n" * 99}
            file.write_bytes(wrong.get(damage, bytes(byte ^ 0x55 for byte in data[:200]) + data[200:]))
        found = parse(folder)
        if (damage, shard_file) != ("gone", "table_steps.parquet"):  # no table is what a folder without steps has
            same(expected, found)
        shutil.rmtree(own_cache_folder)
        same(expected, parse(folder))


def test_a_cache_that_cannot_be_written_is_none(tmp_path, own_cache_folder):
    own_cache_folder.write_text("a file")
    folder = tree(tmp_path / "logs", 3)
    same(parse(folder, cache=False), parse(folder))


def test_two_that_read_the_same_folder_at_once_do_not_disturb_each_other(tmp_path, own_cache_folder):
    folder = tree(tmp_path / "logs", 100)
    expected = parse(folder, cache=False)
    found = []
    threads = [threading.Thread(target=lambda: found.append(parse(folder))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for each in found:
        same(expected, each)
    same(expected, parse(folder))


def test_a_file_of_the_same_size_that_was_written_just_now_is_read_again(tmp_path, own_cache_folder):
    file = tmp_path / "a.log"
    for loss in ("5.250000", "4.125000"):
        file.write_text(f"step 0: train loss {loss} (took 3.0 ms)\n")
        assert list(parse(file).steps["loss"]) == [float(loss)]


def test_what_is_kept_of_a_file_does_not_depend_on_those_beside_it(tmp_path, own_cache_folder):
    folder = tree(tmp_path / "logs", 40)
    same(parse(folder / "bs1", cache=False), parse(folder / "bs1"))
    (folder / "bs1" / "threads11.log").write_text("val loss 3.500000\n" + LOG)
    aged(folder)
    same(parse(folder, cache=False), parse(folder))
    same(parse(folder / "bs3", cache=False), parse(folder / "bs3"))
    assert isinstance(cache.key(str(folder / "bs3"), (folder / "bs3").stat()), tuple)
