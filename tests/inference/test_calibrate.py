"""This client held against a server that knows the truth, and what is remembered of it."""

import json
import os
from dataclasses import asdict, replace

import numpy as np
import pytest
from click.testing import CliRunner
from toy import hpcbench

from hpcbench.cli import main
from hpcbench.inference import calibrate as calibration
from hpcbench.inference.calibrate import LIMIT, STEPS, Error, calibrate, known

ERROR = Error(4, 50.0, 32, 200.0, 1e-4, 2e-4, 3e-4, 4e-4, 5e-5, 6e-5, 0.25)
LATE = replace(ERROR, ttft_p99=0.003)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The folder of what is remembered: empty, and this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hpcbench"


def keep(cache, *errors):
    for error in errors:
        calibration._keep(error)
    (file,) = cache.iterdir()
    return file


def test_this_client_against_the_truth(cache, monkeypatch):
    monkeypatch.setattr(calibration, "TOKENS", 16)
    found = list(calibrate([16, 8], 50.0))
    assert [(each.streams, each.rate, each.requests) for each in found] == [(16, 50.0, 64), (8, 50.0, 32)]
    for each in found:
        # wide, for a busy machine: first tokens differ by some 130 ms from prompt to prompt, tokens are 20 ms apart
        assert 0 < each.ttft_mean < 0.05
        assert 0 < each.latency_mean < 0.05
        assert 0 < each.gap_mean < 0.01
        assert each.ttft_mean <= each.ttft_p99 < 0.2
        assert each.latency_mean <= each.latency_p99 < 0.2
        assert each.gap_p99 < 0.2
        assert 0 < each.cpu < (os.cpu_count() or 1)
        assert 0 < each.tokens_per_second < each.streams * 50
    (file,) = cache.iterdir()
    assert json.loads(file.read_text()) == {"16x50": asdict(found[0]), "8x50": asdict(found[1])}
    assert known(8, 0.0) == min(found, key=lambda each: each.tokens_per_second)
    assert known(16, 0.0) == found[0]


def test_an_error_has_no_sign():
    assert calibration._of(np.array([-1.0, 1.0])) == (1.0, 1.0)
    assert calibration._of(-np.arange(101.0)) == (50.0, 99.0)


def test_an_error_is_small_where_both_times_are_known_to_a_millisecond():
    assert ERROR.small
    assert not LATE.small
    assert not replace(ERROR, latency_p99=LIMIT).small


LOADS = [replace(ERROR, streams=n, tokens_per_second=rate) for n, rate in ((64, 3200.0), (4, 200.0), (16, 800.0))]


@pytest.mark.parametrize(
    ("streams", "rate", "least"),
    [
        (1, 1.0, 4), (4, 200.0, 4),
        (5, 200.0, 16), (4, 201.0, 16), (16, 800.0, 16),
        (17, 1.0, 64), (1, 801.0, 64),
        (65, 1.0, None), (1, 3201.0, None),
    ],
)  # fmt: skip
def test_what_is_known_is_the_least_load_that_is_no_smaller(cache, streams, rate, least):
    keep(cache, *LOADS)
    found = known(streams, rate)
    assert (found and found.streams) == least


def test_a_load_that_is_measured_again_replaces_what_was_known(cache):
    file = keep(cache, ERROR, LATE)
    assert known(4, 200.0) == LATE
    assert list(json.loads(file.read_text())) == ["4x50"]


def test_nothing_is_known_at_first():
    assert known(1, 1.0) is None


@pytest.mark.parametrize("damaged", [
    "", "{", "7", "[1]", '{"4x50": 1}', '{"4x50": {"streams": 4}}', '{"4x50": {"a": 1}}', "[" * 100_000,
    json.dumps({"4x50": {**asdict(ERROR), "streams": "x"}}),
    json.dumps({"4x50": {**asdict(ERROR), "tokens_per_second": None}}),
])  # fmt: skip
def test_a_damaged_file_is_none(cache, damaged):
    keep(cache, ERROR).write_text(damaged)
    assert known(1, 1.0) is None
    keep(cache, ERROR)
    assert known(1, 1.0) == ERROR


def test_a_file_that_was_cut_off_is_written_anew(cache):
    file = keep(cache, ERROR)
    file.write_bytes(b"\xff" + file.read_bytes()[:50])
    assert known(1, 1.0) is None
    keep(cache, ERROR)
    assert known(1, 1.0) == ERROR


def test_a_cache_that_cannot_be_written_loses_nothing_but_the_memory(cache):
    cache.parent.write_text("a file is where the folder should be")
    calibration._keep(ERROR)
    assert known(1, 1.0) is None


# The command


def test_the_command_measures_and_remembers(tmp_path, cache):
    out = hpcbench("calibrate", "--streams", "16", "--rate", "400", "--json", cwd=tmp_path, check=0).stdout
    told = json.loads(out)
    (load,) = told["loads"]
    small = load.pop("small")
    assert (told["schema"], told["limit"]) == ("hpcbench/calibrate/1", LIMIT)
    assert known(16, 1.0) == (error := Error(**load))
    assert (error.streams, error.rate, error.small) == (16, 400.0, small)


def command(monkeypatch, errors, *options):
    """Run the command on a client whose errors are these, in turn; return the loads it asked for and what it says."""
    asked = []

    def measured(streams, rate):
        for count, error in zip(streams, errors, strict=False):
            asked.append((count, rate))
            yield replace(error, streams=count, rate=rate, tokens_per_second=count * rate)

    monkeypatch.setattr(calibration, "calibrate", measured)
    done = CliRunner().invoke(main, ["calibrate", *options])
    assert done.exit_code == 0
    return asked, done.output.splitlines()


def test_the_table(monkeypatch):
    asked, lines = command(monkeypatch, [ERROR, LATE], "--streams", "4, 16", "--rate", "100")
    assert asked == [(4, 100.0), (16, 100.0)]
    assert lines[0].endswith("mean / 99th percentile, in ms")
    assert lines[1:] == [
        "streams  tokens/s  to first token        latency         gap  client's CPU",
        "      4       400    0.10 /  0.20    0.30 /  0.40    0.05 /  0.06     25%",
        "     16      1600    0.10 /  3.00    0.30 /  0.40    0.05 /  0.06     25%",
        "below 1 ms (99th percentile) up to 4 streams and 400 tokens/s",
    ]


def test_a_client_that_is_never_to_be_trusted(monkeypatch):
    _, lines = command(monkeypatch, [LATE], "--streams", "1")
    assert lines[-1] == "at none of these loads is the error below 1 ms (99th percentile): is the machine busy?"


def test_steps_end_where_two_in_a_row_are_too_much(monkeypatch):
    asked, lines = command(monkeypatch, [LATE, ERROR, LATE, ERROR, LATE, LATE, ERROR])
    assert asked == [(count, 50.0) for count in STEPS[:6]]
    assert lines[-1] == "below 1 ms (99th percentile) up to 128 streams and 6400 tokens/s"
    asked, _ = command(monkeypatch, 3 * [LATE], "--streams", "1,2,3")  # who names them gets them
    assert len(asked) == 3


@pytest.mark.parametrize("streams", ["0", "x", "1,,2", "-1", "1.5", "10001"])
def test_streams_that_are_none(streams):
    done = CliRunner().invoke(main, ["calibrate", "--streams", streams])
    assert done.exit_code != 0
    assert "streams  tokens/s" not in done.output
