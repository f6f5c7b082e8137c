"""Lines that are alike are read at once; what is read is to the last bit what the search reads line by line."""

import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcbench import formats
from hpcbench.formats import POWERS, Format, Line, in_si
from hpcbench.parse import alike, columns, engine
from hpcbench.parse.engine import Scanner
from hpcbench.parse.text import Text

ALL = Scanner(list(formats.all_formats().values()))
UNITS = ["", "ms", "us", "%", "K", "T", "GiB", "min"]


def number(draw):
    """Write a number as some program might: plain and of two widths, mostly."""
    if draw.random() < 0.97:
        return f"{draw.uniform(8, 10.1):.2f}"
    return draw.choice([
        "nan", "-nan", "inf", "-inf", "1.2.3", "1_000", "-", ".5", "5.", "+7.25", "-0.0", "-3.25", "1e400", "7e-324",
        "123456789012345", "1234567890123456", "9007199254740993", "0.000000000000001", "12345678.1234567",
        f"{draw.uniform(0, 1):.17g}", f"{draw.uniform(0, 1e-4):.2e}", f"{draw.uniform(0, 1e9):.3E}", "1.5e-99", "",
        f"{-draw.uniform(0, 20):.2f}", f"{draw.uniform(0, 2000):.2f}", str(draw.randrange(10**6)), "1,234", "0x1F",
    ])  # fmt: skip


def cerebras(draw, step):
    rate = f", Rate={number(draw)} samples/sec" if draw.random() < 0.9 else ""
    return (
        f"2025-10-13 15:{draw.randrange(60):02d}:04,385 INFO:   | Train Device=CSX, Step={step}, "
        f"Loss={draw.choice([f'{draw.uniform(8, 11):.5f}', 'nan']) if draw.random() < 0.1 else '9.12345'}{rate}, "
        f"GlobalRate={number(draw)} samples/sec, LoopTimeRemaining=1:20:41, TimeRemaining=1:20:41"
    )


def llmc_cpu(draw, step):
    return f"step {step}: train loss {number(draw)} (took {number(draw)} ms)"


def llmc_cuda(draw, step):
    return (
        f"step {step:4d}/19560 | loss {number(draw)} (+0.56z)| norm {number(draw)} (-0.12z)| lr "
        f"{draw.choice(['3.00e-04', '2.99E-05', number(draw)])} | {number(draw)} ms | {number(draw)}% bf16 MFU "
        f"| {draw.randrange(9 * 10**5, 11 * 10**5)} tok/s"
    )


def megatron(draw, step):
    return (
        f" iteration {step:8d}/  500000 | consumed samples: {step * 64:12d} | elapsed time per iteration (ms): "
        f"{number(draw)} | learning rate: {draw.uniform(0, 1e-3):.6E} | global batch size:    64 | lm loss: "
        f"{draw.uniform(0, 12):.6E} | loss scale: 1.0 | grad norm: {draw.uniform(0, 4):.3f} | "
        "number of skipped iterations:   0 | number of nan iterations:   0 |"
    )


def nanogpt(draw, step):
    return (
        f"iter {step}: loss {draw.uniform(9, 11):.4f}, time {number(draw)}ms, mfu {draw.choice(['-100.00', '9.25'])}%"
    )


def gnu_time(draw, step):
    return f"\tMaximum resident set size (kbytes): {draw.randrange(9000, 11000)}"


PREFIXES = [
    lambda draw: "",
    lambda draw: f"[rank{draw.randrange(12)}]: ",
    lambda draw: f"{draw.randrange(3)}: ",
    lambda draw: f"[default{draw.randrange(8)}]:2025-10-13 15:20:{draw.randrange(60):02d} - ",
]


def damaged(draw, line):
    at = draw.randrange(len(line) + 1)
    return draw.choice([
        line[:at], line[at:], line[:at] + line, line + line, line + " 7", line[:at] + "7" + line[at + 1 :], line + ".",
        line[:at] + "x" + line[at + 1 :], line[:at] + "\xe9\xff" + line[at:], line[:at] + "\r" + line[at:], "", "7.25",
        line[:at] + "\n" + line[at:], line[:at] + " " + line[at:], line.replace("0", "\u0660"), line.upper(),
    ])  # fmt: skip


def log(draw, write, lines, *, damage=0.03, end="\n", cut=False):
    prefix = draw.choice(PREFIXES) if write is not cerebras else PREFIXES[0]
    step = draw.choice([1, 950, 99_000])
    written = [prefix(draw) + write(draw, step + at) for at in range(lines)]
    written = [damaged(draw, line) if draw.random() < damage else line for line in written]
    data = (end.join(written) + end).encode()
    return data[: len(data) - draw.randrange(1, 60)] if cut else data


def told(piece):
    """Return all that a piece says, so that only what is the same to the last bit is equal."""

    def exact(values):
        return values.tolist() if values.dtype == object else (str(values.dtype), values.tobytes())

    found = {
        number: (
            exact(each.line),
            [exact(column) for column in each.columns],
            {name: exact(values) for name, values in each.extra.items()},
            each.diverged,
            repr(each.records),
        )
        for number, each in piece.found.items()
    }
    return found, piece.unread, piece.first_unread, piece.first, piece.length, piece.breaks, piece.open_line


def read_both(data, scanner=ALL, last=True):
    """Read in both ways, check that they agree, and return how many rows were read at once."""
    counts = []

    def counted(text, part, ends):
        found = alike.read_alike(text, part, ends)
        counts.append(0 if found is None else len(found.hits))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(alike, "_MANY", 150)  # so that few lines are many
        patch.setattr(engine, "read_alike", counted)
        at_once = told(scanner.scan(data, last=last))
        patch.setattr(engine, "read_alike", lambda *_: None)
        one_by_one = told(scanner.scan(data, last=last))
    assert at_once == one_by_one
    return sum(counts)


@pytest.mark.parametrize("write", [cerebras, llmc_cpu, llmc_cuda, megatron, nanogpt, gnu_time])
def test_what_is_alike_is_read_as_one_by_one(write):
    at_once = 0
    for seed in range(24):
        draw = random.Random(seed)
        data = log(draw, write, draw.choice([200, 500, 1500]), end=draw.choice(["\n", "\r\n"]), cut=seed % 3 == 0)
        at_once += read_both(data, last=seed % 2 == 0)
    assert at_once > 1000


def test_several_programs_may_write_one_log():
    draw = random.Random(5)
    lines = [write(draw, step) for step in range(400) for write in (llmc_cpu, cerebras, nanogpt)]
    assert read_both("\n".join(lines).encode()) > 600


@pytest.mark.parametrize(
    ("line", "share"),
    [
        ("2025-10-13 15:00:01,385 INFO:   | Train Device=CSX, Step={step}, Loss={x:.5f}, Rate={y:.2f} samples/sec, "
         "GlobalRate={y:.2f} samples/sec, LoopTimeRemaining=1:20:41, TimeRemaining=1:20:41", 0.98),
        ("step {step}: train loss {x:.6f} (took {y:.6f} ms)", 0.98),
        ("step {step:4d}/19560 | loss {x:.6f} (+0.56z)| norm {x:.4f} (-0.12z)| lr {z:.2e} | {y:.2f} ms | {y:.1f}% bf16 "
         "MFU | 1{step:05d} tok/s", 0.98),
        ("iter {step}: loss {x:.4f}, time {y:.2f}ms, mfu -{y:.2f}%", 0.98),
        ("iter {step}: loss {x:.4f}, time {y!r}ms, mfu {y!r}%", 0),  # as many shapes as lines
    ],
)  # fmt: skip
def test_most_lines_of_a_program_are_read_at_once(line, share):
    draw = random.Random(3)
    lines = [
        line.format(step=step, x=draw.uniform(2, 9), y=draw.uniform(20, 90), z=draw.uniform(2e-5, 9e-5))
        for step in range(1000, 3000)
    ]
    read = read_both(("\n".join(lines) + "\n").encode())
    assert read >= share * 2000 if share else read == 0


def test_lines_of_several_shapes_are_read_at_once():
    draw = random.Random(4)
    text = "".join(f"step {at}: train loss {draw.uniform(5, 15):.6f} (took {draw.uniform(80, 120):.6f} ms)\n"
                   for at in range(9000, 11000))  # fmt: skip
    assert read_both(text.encode()) > 1900


@pytest.mark.parametrize(
    "pattern",
    [
        r"iter <step:int>: loss <loss>, 1x",
        r"iter <step:int>: loss (?:[0-4][-+.0-9]+, (?P<small>[0-9.]+)x|<loss>, )",
        r"iter <step:int>: loss <loss>, (?=\x31)",
        r"iter <step:int>: loss <loss>, (?=[+-1])",
        r"iter <step:int>: loss <loss>, (?![%-0-9])",
        r"iter <step:int>: loss <loss>, (?=x|(?P=step))",
        r"iter <step:int>: loss <loss:clock>, ",
        r"iter <step:int>: loss (?P<loss>[\d.]+), ",
    ],
)
def test_a_pattern_that_tells_digits_apart_is_searched(pattern):
    part = Line("evals", pattern, anchor=": loss ")
    scanner = Scanner([Format("x", "x", "", "training", (part,))], forced=True)
    draw = random.Random(1)
    text = "".join(f"iter {draw.randrange(10)}: loss {draw.uniform(1, 9):.3f}, {draw.randrange(10)}x\n"
                   for _ in range(1000))  # fmt: skip
    assert read_both(text.encode(), scanner) == 0


@pytest.mark.parametrize(
    "pattern",
    [r"^loss\] {1,8}<p50 ms> [^0-9]*x", r"loss\] +<value:.3>(?:, <p2 ms>)? {,3}[-a-f0-9]", r"loss\] .{5} <p50>$"],
)
def test_a_pattern_may_count_and_name_groups_with_digits(pattern):
    assert alike._treats_digits_alike(Line("evals", pattern).regex)


@pytest.mark.parametrize("place", [1, 4, 5, 9, 10, 23, 24, 25, 31, 37, 45, 48, 49])
def test_any_byte_in_the_place_of_another_is_seen(place):
    lines = [f"step {at}: train loss 2.{at}57 (took 33.738404 ms)".encode() for at in range(1000, 3000)]
    for byte in set(range(256)) - set(b"\r\n\x1b"):
        line = lines[5 * byte]
        lines[5 * byte] = line[:place] + bytes([byte]) + line[place + 1 :]
    assert 1700 < read_both(b"\n".join([*lines, b""])) < 1790


def test_what_a_program_prints_when_it_does_not_know_is_missing():
    part = Line("evals", "score <value %>%, mfu <mfu>;", unknown={"value": -100, "mfu": 0})
    scanner = Scanner([Format("x", "x", "", "training", (part,))], forced=True)
    text = "".join(f"score {'-100.00' if at % 3 else '-250.00'}%, mfu {at % 5};\n" for at in range(1000))
    assert read_both(text.encode(), scanner) == 1000
    found = scanner.scan(text.encode()).found[0]
    assert np.isnan(found.columns[0]).sum() == 666
    assert found.columns[0][0] == -2.5


def test_a_line_that_holds_its_anchor_twice_is_searched():
    line = "step {0}: train loss 2.5 (took 8.5 ms)"
    lines = [line.format(at) if at % 7 else line.format(at) + line.format(at) for at in range(1000, 3000)]
    assert 0 < read_both("\n".join(lines).encode()) < 1999 * 6 / 7 + 1


@settings(max_examples=100, deadline=None)
@given(
    text=st.from_regex(columns._DECIMAL.pattern.decode(), fullmatch=True).filter(str.isascii),
    unit=st.sampled_from([*UNITS, *POWERS]),
    seed=st.integers(0, 1 << 20),
)
def test_digits_become_numbers_as_text_does(text, unit, seed):
    draw = random.Random(seed)
    texts = [text, *(re.sub("[0-9]", lambda _: str(draw.randrange(10)), text) for _ in range(5))]
    lines = [f"x={each};" for each in texts]
    part = Line("evals", f"x=<value {unit}>;" if unit else "x=<value>;", anchor="x=1")
    data = "\n".join([*lines, ""]).encode()
    found = Text(data, np.frombuffer(data, np.uint8) == 10, last=True)
    begins = np.arange(len(lines)) * (len(lines[0]) + 1)
    digits, same = alike._compare(found, begins, data[: len(lines[0]) + 1])
    assert same.all()
    values = columns.from_digits(digits, 0, part.regex.match(data), part)
    if values is not None:
        want = np.array([in_si(each, unit) for each in texts])
        assert np.broadcast_to(values[0], len(texts)).tobytes() == want.tobytes()
    else:
        assert len(re.findall("[0-9]", re.split("[eE]", text)[0])) > 15 or "e" in text.lower() or len(text) > 9


def test_real_logs_are_read_as_one_by_one(corpus):
    """Of each log the lines that hold an anchor of one part, so often that they are dense; some are damaged."""
    draw = random.Random(2)
    at_once = set()
    for file in sorted(each for each in corpus.rglob("*") if each.is_file()):
        with file.open("rb") as stream:
            data = stream.read(1 << 20)
        for index, ends in ALL._search(data).items():
            lines = {data.rfind(b"\n", 0, end) + 1: data.find(b"\n", end) for end in ends[:300]}
            lines = [data[start : stop if stop > 0 else None] for start, stop in lines.items()]
            parts = [number for number in ALL.anchors[index][1] if isinstance(ALL.parts[number][1], Line)]
            if not parts or max(map(len, lines)) > 3000:
                continue
            repeated = (lines * (160 // len(lines) + 1))[: max(160, len(lines))]
            for at in draw.sample(range(len(repeated)), 4):
                written = damaged(draw, repeated[at].decode("latin-1")).encode("latin-1", "replace")
                if all(ALL.anchors[index][0] in line for line in re.split(b"[\r\n]", written)):  # still in all of it
                    repeated[at] = written
            of_part = Scanner([ALL.formats[number] for number in sorted({ALL.parts[each][0] for each in parts})])
            if read_both(b"\n".join([*repeated, b""]), of_part):
                at_once.add(ALL.formats[ALL.parts[parts[0]][0]].name)
    assert {"cerebras", "llmc-cuda", "llmc-main-log", "megatron", "nanogpt"} <= at_once


def test_a_last_line_that_is_shorter_than_what_stands_before_the_first_stamp_has_no_time():
    record = "| Train Device=CSX, Step={}, Loss=2.50000\n"
    before = "[abcdefghij 123456]: " * 3 + "2025-10-13 15:20:04,385 INFO:   "
    piece = ALL.scan((before + record.format(1) + record.format(2)).encode())
    (found,) = [each for number, each in piece.found.items() if ALL.parts[number][1].table == "steps"]
    assert np.isnan(found.extra["time"]).tolist() == [False, True]
