"""Logs as people keep them: packed, in archives, in any encoding, damaged; lines are counted as an editor does."""

import bz2
import codecs
import gzip
import io
import lzma
import random
import sqlite3
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import written
from pyarrow import parquet

from hpcbench.parse import explain, files, parse, streams

LOG = written.llmc([30, 10, 20])  # its steps are on the lines 5 to 7
STEPS = [(5, 0, 0.030), (6, 1, 0.010), (7, 2, 0.020)]
NOISE = random.Random(1)
# what cannot be packed to nothing, so that half a packed file is half a log
LONG = "".join(
    f"step {step}: train loss {NOISE.uniform(2, 9):f} (took {NOISE.uniform(10, 99):f} ms)\n" for step in range(9000)
)


def zst(data):
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


PACK = {"gz": gzip.compress, "xz": lzma.compress, "bz2": bz2.compress, "zst": zst}


def tar(*members):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in members:
            each = tarfile.TarInfo(name)
            each.size = len(data)
            archive.addfile(each, io.BytesIO(data))
    return sink.getvalue()


def zipped(*members):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return sink.getvalue()


def read(folder, data, name="a.log", **options):
    (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
    return parse(folder / name, cache=False, **options)


def steps(metrics):
    return [(row.line, row.step, row.step_time) for row in metrics.steps.itertuples()]


def said(metrics):
    return [(Path(row.path).name, row.format, row.records) for row in metrics.sources.itertuples()]


# Packed.


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("archive", ["tar", "tar.gz", "zip"])
def test_a_packed_log_in_an_archive_is_read(tmp_path, kind, archive):
    make = {"tar": tar, "tar.gz": lambda *members: gzip.compress(tar(*members)), "zip": zipped}[archive]
    members = [(f"a.log.{kind}", PACK[kind](LOG.encode())), ("b.log", LOG.encode()), ("empty.log", b"")]
    metrics = read(tmp_path, make(*members), f"logs.{archive}")
    assert steps(metrics) == STEPS * 2
    assert [row[0] for row in said(metrics)] == [f"a.log.{kind}", "b.log", "empty.log"]


def test_a_packed_log_in_an_archive_that_is_cut_keeps_what_came_before(tmp_path):
    metrics = read(tmp_path, tar(("a.log.gz", gzip.compress(LONG.encode())[:-40_000]), ("b.log", LOG.encode())))
    assert 100 < len(metrics.steps) - len(STEPS) < 9000
    assert list(metrics.sources.unread) == [2, 0]  # the end, and the line that it cuts


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("name", ["a.log", "a.log.packed"])
def test_a_packed_log_is_read_whatever_its_name_is(tmp_path, kind, name):
    packed = PACK[kind](LOG.encode())
    metrics = read(tmp_path, packed, name)
    assert steps(metrics) == STEPS
    [source] = metrics.sources.itertuples()
    assert (source.format, source.bytes, source.lines, source.unread) == ("llmc-cpu", len(packed), 7, 0)


@pytest.mark.parametrize("kind", ["gz", "xz", "bz2"])
def test_packed_logs_one_after_another_are_one(tmp_path, kind):
    pack = PACK[kind]
    assert steps(read(tmp_path, pack(b"prose\n") + pack(LOG.encode()))) == [(at + 1, *rest) for at, *rest in STEPS]


@pytest.mark.parametrize("kind", PACK)
def test_nothing_packed_is_an_empty_log(tmp_path, kind):
    [source] = read(tmp_path, PACK[kind](b"")).sources.itertuples()
    assert (source.format, source.lines, source.records, source.unread) == ("", 0, 0, 0)


@pytest.mark.parametrize("kind", PACK)
def test_of_a_packed_log_that_was_cut_what_came_before_is_read_and_said_to_be_damaged(tmp_path, kind):
    packed = PACK[kind](LONG.encode())
    whole = {line: rest for line, *rest in steps(read(tmp_path, packed))}
    assert len(whole) == 9000
    for at in (1, 5, 12, 40, len(packed) // 3, len(packed) // 2, len(packed) - 30, len(packed) - 1):
        metrics = read(tmp_path, packed[:at])
        found = {line: rest for line, *rest in steps(metrics)}
        assert found.items() <= whole.items()
        [source] = metrics.sources.itertuples()
        if found:
            assert (source.format, source.unread >= 1) == ("llmc-cpu", True)
        elif at > 10:
            assert source.format.startswith("damaged: ")
        if kind == "gz" and at > 1000:
            assert len(found) > 9000 * at / len(packed) * 0.8
        if kind == "zst" and at > len(packed) * 0.6:
            assert len(found) > 2000  # zstd packs 128 KiB at a time


@pytest.mark.parametrize("kind", PACK)
def test_a_packed_log_in_which_a_byte_is_wrong_is_damaged_and_gives_no_wrong_number(tmp_path, kind):
    packed = PACK[kind](LONG.encode())
    whole = set(steps(read(tmp_path, packed)))
    for at in range(20, len(packed), len(packed) // 12):
        wrong = packed[:at] + bytes([packed[at] ^ 0x55]) + packed[at + 1 :]
        metrics = read(tmp_path, wrong)
        [source] = metrics.sources.itertuples()
        assert source.format.startswith("damaged: ") or kind == "zst"  # this zstd was written without a checksum
        if kind != "zst":
            assert set(steps(metrics)) <= whole


def test_what_is_wrong_with_a_packed_log_is_told_by_explain(tmp_path):
    (tmp_path / "a.log").write_bytes(gzip.compress(LOG.encode())[:12])
    assert [problem[:9] for _, problem, _ in explain(tmp_path)] == ["damaged: "]


@pytest.fixture
def small_limits(monkeypatch):
    monkeypatch.setattr(streams, "_FREE", 1 << 20)
    monkeypatch.setattr(streams, "_GROWTH", 50)


def zeros(megabytes):
    sink = io.BytesIO()
    with gzip.GzipFile(fileobj=sink, mode="wb") as stream:
        for _ in range(megabytes):
            stream.write(b"\0" * (1 << 20))
    return sink.getvalue()


class Counting:
    """Count what comes out of packed streams."""

    def __init__(self, monkeypatch):
        self.given = 0
        inner = streams._Bounded.read

        def counted(stream, size=-1):
            data = inner(stream, size)
            self.given += len(data)
            return data

        monkeypatch.setattr(streams._Bounded, "read", counted)


def test_a_file_that_grows_without_end_is_left_early_and_said(tmp_path, monkeypatch, small_limits):
    counting = Counting(monkeypatch)
    metrics = read(tmp_path, zeros(300))
    assert said(metrics) == [("a.log", "grows beyond 50 times its size", 0)]
    assert counting.given < 100 << 20


def test_a_log_that_can_be_packed_well_is_no_bomb(tmp_path, monkeypatch, small_limits):
    monkeypatch.setattr(streams, "_FREE", 1 << 30)
    assert steps(read(tmp_path, zeros(2) + gzip.compress(b"\n" + LOG.encode())))[0] == (6, 0, 0.030)


def test_many_files_of_a_zip_do_not_grow_without_end_together(tmp_path, monkeypatch, small_limits):
    counting = Counting(monkeypatch)
    zeros_of_a_megabyte = b"\0" * ((1 << 20) - 1)
    metrics = read(tmp_path, zipped(*((f"{index}.log", zeros_of_a_megabyte) for index in range(40))))
    formats = list(metrics.sources["format"])
    assert formats[0] == ""
    assert set(formats[5:]) == {"grows beyond 50 times its size"}
    assert counting.given < 10 << 20


def test_a_zip_bomb_and_a_tar_bomb_are_said(tmp_path, small_limits):
    data = b"\0" * (60 << 20)
    assert said(read(tmp_path, zipped(("a", data)))) == [("a", "grows beyond 50 times its size", 0)]
    metrics = read(tmp_path, gzip.compress(tar(("a", data))))
    assert set(metrics.sources["format"]) == {"grows beyond 50 times its size"}


def test_a_hole_in_a_tar_is_a_bomb_as_well(tmp_path, small_limits):
    """A sparse member: 100 GB that take one block."""
    each = tarfile.TarInfo("hole.log")
    each.type = tarfile.GNUTYPE_SPARSE
    each.size = 512
    header = bytearray(each.tobuf(tarfile.GNU_FORMAT))
    size = 100 << 30
    header[386:410] = b"%011o\0%011o\0" % (size - 512 if size - 512 < 8**11 else 0, 512)
    header[386:398] = b"\x80" + (size - 512).to_bytes(11, "big")
    header[483:495] = b"\x80" + size.to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    metrics = read(tmp_path, bytes(header) + b"x" * 512 + b"\0" * 10240)
    assert metrics.sources["format"].iloc[0] == "grows beyond 50 times its size"


# Archives.


def test_each_file_of_a_zip_is_a_log(tmp_path):
    other = written.llmc([50, 40])
    archive = zipped(("threads1.log", LOG), ("sub/", b""), ("sub/deep/threads2.log", other), ("README", "prose\n"))
    metrics = read(tmp_path, archive, "runs.zip")
    names = ["threads1.log", "sub/deep/threads2.log", "README"]
    assert [path.partition("runs.zip/")[2] for path in metrics.sources["path"]] == names
    assert list(metrics.sources["lines"]) == [7, 6, 1]
    assert list(metrics.sources["bytes"]) == [len(LOG), len(other), 6]
    assert steps(metrics) == [*STEPS, (5, 0, 0.050), (6, 1, 0.040)]
    assert len(metrics.cases) == 2


@pytest.mark.parametrize("pack", [bytes, *PACK.values()], ids=["tar", *PACK])
def test_each_file_of_a_tar_is_a_log(tmp_path, pack):
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in (("threads1.log", LOG.encode()), ("sub/threads2.log", b"\n" + LOG.encode())):
            each = tarfile.TarInfo(name)
            each.size = len(data)
            archive.addfile(each, io.BytesIO(data))
        for kind, name in ((tarfile.DIRTYPE, "folder"), (tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "hard"),
                           (tarfile.FIFOTYPE, "pipe"), (tarfile.CHRTYPE, "device")):  # fmt: skip
            each = tarfile.TarInfo(name)
            each.type, each.linkname = kind, "/etc/passwd"
            archive.addfile(each)
    metrics = read(tmp_path, pack(sink.getvalue()), "runs.tar")
    assert said(metrics) == [("threads1.log", "llmc-cpu", 3), ("threads2.log", "llmc-cpu", 3)]
    assert steps(metrics) == [*STEPS, *((line + 1, *rest) for line, *rest in STEPS)]


HOSTILE_NAMES = [
    "../../outside.log", "/absolute.log", "a\nb.log", "a\x1b[31mb.log", "'; rm -rf x; '.log", "caf\udce9.log", "x" * 90,
    "..", "~/x.log", "c:\\x.log", " ",
]  # fmt: skip


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_names_in_archives_are_shown_and_nothing_is_written(tmp_path, kind):
    folder = tmp_path / "one" / "two"
    folder.mkdir(parents=True)
    names = [name for name in HOSTILE_NAMES if kind == "tar" or name.isprintable() or "\n" in name]
    data = (zipped if kind == "zip" else tar)(*((name, LOG.encode()) for name in names))
    metrics = read(folder, data, "a.archive")
    assert list(metrics.sources["records"]) == [3] * len(names)
    assert len(metrics.cases) == len(set(metrics.cases["case"])) == len(names)
    assert all("a.archive/" in path for path in metrics.sources["path"])
    metrics.write(tmp_path / "parquet")
    assert {each.relative_to(tmp_path).parts[0] for each in tmp_path.rglob("*")} == {"one", "parquet"}
    assert [each.name for each in folder.iterdir()] == ["a.archive"]


def test_files_of_the_same_name_in_a_zip_are_each_read(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        archive = zipped(("a.log", LOG), ("a.log", written.llmc([50])))
    assert sorted(steps(read(tmp_path, archive))) == sorted([*STEPS, (5, 0, 0.050)])


def test_a_file_without_a_name_in_a_zip_is_read(tmp_path):
    archive = bytearray(zipped(("Z", LOG)))
    for magic, length in ((b"PK\3\4", 26), (b"PK\1\2", 28)):
        at = bytes(archive).index(magic) + length
        archive[at : at + 4] = b"\0\0\1\0"  # the letter is no name but what else is said of the file
    metrics = read(tmp_path, bytes(archive))
    assert len(metrics.sources) == 1


def test_an_encrypted_zip_is_said_to_be_that(tmp_path):
    archive = bytearray(zipped(("a.log", LOG), ("b.log", LOG)))
    archive[6] |= 1  # what is encrypted is marked in both headers
    archive[bytes(archive).index(b"PK\1\2") + 8] |= 1
    metrics = read(tmp_path, bytes(archive))
    first, second = metrics.sources["format"]
    assert "encrypted" in first
    assert second == "llmc-cpu"


@pytest.mark.parametrize("name", ["archive/data.pkl", "data.pkl", "weights.npy"])
def test_saved_weights_are_binary(tmp_path, name):
    assert said(read(tmp_path, zipped((name, b"\x80\2}q\0."), ("archive/data/0", LOG)))) == [("a.log", "binary", 0)]


@pytest.mark.parametrize(
    "make", [zipped, tar, lambda *members: gzip.compress(tar(*members))], ids=["zip", "tar", "tgz"]
)
def test_a_damaged_archive_never_stops_the_others(tmp_path, make):
    data = make(("a.log", LONG.encode()), ("b.log", LOG.encode()), ("c.log", LONG.encode()))
    whole = {
        (row.source, row.line): (row.step, row.step_time, row.loss) for row in read(tmp_path, data).steps.itertuples()
    }
    assert len(whole) == 18_003
    chance = random.Random(2)
    for _ in range(12):
        metrics = read(tmp_path, data[: chance.randrange(20, len(data))])
        found = {(row.source, row.line): (row.step, row.step_time, row.loss) for row in metrics.steps.itertuples()}
        assert found.items() <= whole.items()
    for _ in range(12):
        wrong = bytearray(data)
        for _ in range(20):
            wrong[chance.choice([chance.randrange(len(data)), chance.randrange(2000), -chance.randrange(1, 2000)])] ^= (
                0x41
            )
        assert len(read(tmp_path, bytes(wrong)).sources) >= 1


@pytest.mark.parametrize("magic", [b"PK\3\4", b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh9", b"\x28\xb5\x2f\xfd"])
def test_a_magic_number_alone_is_damaged(tmp_path, magic):
    [(_, problem, records)] = said(read(tmp_path, magic + b"step 0: train loss 5.0 (took 3 ms)\n"))
    assert (problem[:7], records) == ("damaged", 0)


# Encodings.


@pytest.mark.parametrize(("mark", "encoding"), [
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"), (codecs.BOM_UTF8, "utf-8"),
])  # fmt: skip
@pytest.mark.parametrize("size", [4, 7, 50, 1 << 20])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_log_with_a_byte_order_mark_is_read(tmp_path, monkeypatch, mark, encoding, size, end):
    monkeypatch.setattr(streams.stretches, "__defaults__", (max(size, 80),))
    monkeypatch.setattr(files, "STRETCH", size)
    log = "step 7: train loss 4.5 (took 1.5 ms)\n" + LOG + "größe 日本 😀\n"
    data = mark + log.replace("\n", end).encode(encoding)
    for packed in (data, gzip.compress(data), zipped(("a", data))):
        metrics = read(tmp_path, packed)
        assert steps(metrics) == [(1, 7, 0.0015), *((line + 1, *rest) for line, *rest in STEPS)]
        assert list(metrics.sources["lines"]) == [9]
        assert list(metrics.sources["unread"]) == [0]


def test_half_a_letter_of_utf16_at_the_end_is_no_number(tmp_path):
    data = codecs.BOM_UTF16_LE + (LOG + "val loss 5.25").encode("utf-16-le")
    for cut in range(1, 6):
        assert read(tmp_path, data[:-cut]).evals.empty


def test_bytes_of_any_encoding_may_stand_beside_what_is_read(tmp_path):
    lines = [
        "größe".encode("latin-1"),
        "größe".encode(),
        "大きさ".encode("shift_jis"),
        b"\xff\xfe\xfd",
        b"\xed\xa0\x80",
    ]
    data = b"\n".join([*lines, LOG.encode()])
    assert steps(read(tmp_path, data)) == [(line + len(lines), *rest) for line, *rest in STEPS]
    mixed = data + b"step 3: train loss 4.5 (took 5.0 ms) \xe9t\xe9 \x80\n"
    assert steps(read(tmp_path, mixed))[-1] == (len(lines) + 8, 3, 0.005)


def test_lines_that_end_as_windows_ends_them(tmp_path):
    metrics = read(tmp_path, LOG.replace("\n", "\r\n"))
    assert steps(metrics) == STEPS
    assert list(metrics.sources["lines"]) == [7]


def test_a_progress_bar_does_not_make_lines(tmp_path):
    bar = "".join(f"\r{percent}%|{'#' * (percent // 10)}" for percent in range(100))
    lines = LOG.splitlines()
    log = "\n".join([*lines[:4], bar + "\r" + lines[4], lines[5] + bar, bar, lines[6]]) + "\n"
    metrics = read(tmp_path, log)
    assert steps(metrics) == [(5, 0, 0.030), (6, 1, 0.010), (8, 2, 0.020)]
    assert list(metrics.sources["lines"]) == [8] == [log.count("\n")]


def test_colours_are_no_part_of_the_text(tmp_path):
    log = "\x1b[0m\x1b[32mstep\x1b[0m 0: train loss \x1b[1;31m5.2\x1b[38;5;12m5\x1b[m (took 3.0 ms)\x1b[K\n"
    log += "\x1b]0;title\x07step 1: train loss 4.5 (took \x1b[31m2.0\x1b[0m ms)\x1b(B\n\x1b[0m"
    metrics = read(tmp_path, log)
    assert steps(metrics) == [(1, 0, 0.003), (2, 1, 0.002)]
    assert list(metrics.steps["loss"]) == [5.25, 4.5]
    assert list(metrics.sources["lines"]) == [3]


def test_nuls_that_a_crash_left_hide_nothing_else(tmp_path):
    lines = LOG.splitlines(keepends=True)
    metrics = read(tmp_path, "".join([*lines[:5], "\0" * 5000, "\n", *lines[5:]]))
    assert steps(metrics) == [(5, 0, 0.030), (7, 1, 0.010), (8, 2, 0.020)]
    inside = LOG.replace("loss 5.0", "loss 5\0.0", 1)
    metrics = read(tmp_path, inside)
    assert 5 not in list(metrics.steps["line"])
    assert metrics.sources["unread"].sum() == 1


# Stretches.

TEXT = "".join(
    f"step {step}: train loss {9 - step / 99:f} (took {10 + step % 7:f} ms)\n"
    + "\n" * (step % 3)
    + "é\r\n" * (step % 2)
    for step in range(300)
)


@pytest.mark.parametrize("size", [1, 63, 100, 1000, 4096])
@pytest.mark.parametrize("kind", ["plain", "gz", "zip", "tar"])
def test_stretches_of_any_size_give_the_same(tmp_path, monkeypatch, size, kind):
    pack = {
        "plain": bytes,
        "gz": gzip.compress,
        "zip": lambda data: zipped(("a", data)),
        "tar": lambda data: tar(("a", data)),
    }
    expected = steps(read(tmp_path, TEXT))
    assert [line for line, *_ in expected] == [
        number for number, line in enumerate(TEXT.split("\n"), 1) if "step" in line
    ]
    monkeypatch.setattr(streams.stretches, "__defaults__", (max(size, 80),))
    monkeypatch.setattr(streams, "STRETCH", size)
    monkeypatch.setattr(files, "STRETCH", size)
    metrics = read(tmp_path, pack[kind](TEXT.encode()))
    assert steps(metrics) == expected
    assert list(metrics.sources["lines"]) == [TEXT.count("\n")]


@pytest.mark.parametrize("where", ["first", "middle", "last", "open"])
@pytest.mark.parametrize("longest", [64 << 20, 300])
@pytest.mark.parametrize("packed", [False, True])
def test_a_line_longer_than_a_stretch_moves_no_other_line(tmp_path, monkeypatch, where, longest, packed):
    long = "x" * 5000
    log = {
        "first": f"{long}\n{LOG}",
        "middle": LOG.replace("step 1", f"{long}\nstep 1"),
        "last": f"{LOG}{long}\n",
        "open": f"{LOG}{long}",
    }[where]
    monkeypatch.setattr(streams.stretches, "__defaults__", (100,))
    monkeypatch.setattr(files, "STRETCH", 100)
    monkeypatch.setattr(files, "_LONGEST", longest)
    metrics = read(tmp_path, gzip.compress(log.encode()) if packed else log)
    assert steps(metrics) == [
        (number, int(line.split()[1][:-1]), float(line.split()[-2]) / 1000)
        for number, line in enumerate(log.split("\n"), 1)
        if line.startswith("step")
    ]
    assert list(metrics.sources["lines"]) == [8]


@pytest.mark.parametrize("packed", [False, True])
def test_no_number_is_read_where_a_long_line_is_cut(tmp_path, monkeypatch, packed):
    """The end of a stretch falls on every place of a line that is far too long."""
    monkeypatch.setattr(files, "_LONGEST", 180)
    for size in range(100, 180):
        monkeypatch.setattr(streams.stretches, "__defaults__", (size,))
        monkeypatch.setattr(files, "STRETCH", size)
        log = f"{LOG}{'x' * 400} val loss 5.252525\nval loss 4.125000\n"
        metrics = read(tmp_path, gzip.compress(log.encode()) if packed else log, formats=["llmc-cpu"])
        values = {row.line: row.value for row in metrics.evals.itertuples()}
        assert values.items() <= {8: 5.252525, 9: 4.125}.items()
        assert 9 in values


# The end of a log that is still written, or was cut by a limit.


RESIDENT = "\tMaximum resident set size (kbytes): "


@pytest.mark.parametrize(("end", "there", "left"), [
    ("123", [], 1), ("1234\n", [1234 << 10], 0), ("1.5\n", [1536], 0), ("1.", [], 1), ("1.\n", [1 << 10], 0),
    ("", [], 1), ("12e", [], 1), ("-", [], 1), ("7\r", [7 << 10], 0), ("7 ", [7 << 10], 0), ("7\0", [7 << 10], 0),
    ("7\x1b[0", [7 << 10], 0),
])  # fmt: skip
@pytest.mark.parametrize("pack", [bytes, gzip.compress, lambda data: zipped(("a", data))], ids=["plain", "gz", "zip"])
def test_the_last_number_of_a_log_that_was_cut_is_not_read_but_counted(tmp_path, end, there, left, pack):
    for data in ((RESIDENT + end).encode(), codecs.BOM_UTF16_LE + (RESIDENT + end).encode("utf-16-le")):
        metrics = read(tmp_path, pack(RESIDENT.encode() + b"5\n" + data if data[0] == 9 else data))
        values = [value for value in metrics.counters["value"] if value != 5 << 10]
        if data[0] == 9 or there:
            assert (values, list(metrics.sources["unread"])) == (there, [left])
        else:
            assert values == []


def test_a_number_before_the_last_line_is_whole_though_the_last_line_ends_alike(tmp_path):
    metrics = read(tmp_path, RESIDENT + "5\nprose of 1985")
    assert list(metrics.counters["value"]) == [5 << 10]


# What is no log.

IMAGE = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 1, 1)


def table(folder):
    parquet.write_table(pa.table({"a": [1.0]}), folder / "x")
    return (folder / "x").read_bytes()


def database(folder):
    with sqlite3.connect(folder / "x") as connection:
        connection.execute("create table a (b)")
    connection.close()
    return (folder / "x").read_bytes()


def array(folder):
    np.save(folder / "x.npy", np.zeros(9))
    return (folder / "x.npy").read_bytes()


@pytest.mark.parametrize("packed", [bytes, gzip.compress], ids=["plain", "gz"])
@pytest.mark.parametrize("make", [
    lambda _: IMAGE, lambda _: b"\x7fELF\2\1\1" + b"\0" * 100, table, database, array,
    lambda _: b"GGUF\3\0\0\0", lambda _: b"%PDF-1.7\n", lambda _: b"\xff\xd8\xff\xe0JFIF", lambda _: b"\x80\4\x95\0\0",
    lambda _: struct.pack("<Q", 100) + b'{"__metadata__":{}}',
], ids=["png", "elf", "parquet", "sqlite", "npy", "gguf", "pdf", "jpeg", "pickle", "safetensors"])  # fmt: skip
def test_what_holds_no_text_is_said_to_be_binary(tmp_path, make, packed):
    data = make(tmp_path)
    assert said(read(tmp_path, packed(data + LOG.encode()))) == [("a.log", "binary", 0)]


@pytest.mark.parametrize(("data", "lines"), [
    (b"", 0), (b"\n", 1), (b"\r", 1), (b"\xef\xbb\xbf", 0), (b"\xff\xfe", 0), (b"\xff\xfe\n\0", 1), (b"x", 1),
    (b"\x1b[0m", 1), (b"\x1b[0m\n\x1b[0m", 2), (b"PK\5\6" + b"\0" * 18, 1),
])  # fmt: skip
def test_hardly_anything_is_an_empty_log(tmp_path, data, lines):
    metrics = read(tmp_path, data)
    assert metrics.sources["records"].sum() == metrics.sources["unread"].sum() == 0
    assert metrics.sources["lines"].sum() == lines
