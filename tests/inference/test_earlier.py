"""What earlier cases tell: a sweep over streams ends where more bring no more tokens; prompts were sent before."""

import json
import subprocess
import sys

import pytest

from hpcbench import benchmark
from hpcbench.inference.earlier import asked_before, saturated

URL = "http://127.0.0.1:9/v1"  # nobody answers there


def case(run, streams: int, rate: float | None = None, *, ended: bool = True, site: str = "a", **parameters):
    """Write a case as it is while it runs or, with a rate, after it; returns it."""
    folder = run / f"{streams}-{site}-{len(list(run.iterdir()))}"
    folder.mkdir()
    asked = {**benchmark.load("chat").defaults(), "until_saturated": True, "concurrency": streams, **parameters}
    written = {
        "case": folder.name,
        "site": site,
        "repeat": 1,
        "parameters": asked,
        "endpoint": {"base_url": URL, "model": "m"},
    }
    (folder / "case.json").write_text(json.dumps(written))
    if rate is not None:
        said = [{"record": "counter", "name": "output_tokens_per_second", "value": rate, "unit": "tokens/s"}]
        said += [{"record": "event", "kind": "finished"}] * ended
        (folder / "stdout.log").write_text("".join(f"{json.dumps(each)}\n" for each in said))
    return written


@pytest.mark.parametrize(("rates", "expected"), [
    ({}, ""),
    ({1: 100.0}, ""),
    ({1: 100.0, 2: 190.0}, ""),
    ({1: 100.0, 2: 104.0}, "not measured: 104.0 tokens/s came at concurrency 2, and 100.0 at 1"),
    ({1: 100.0, 2: 190.0, 4: 150.0}, "not measured: 150.0 tokens/s came at concurrency 4, and 190.0 at 2"),
    ({2: 190.0, 4: 370.0, 1: 185.0}, ""),  # only the last step counts
    ({1: 100.0, 16: 101.0}, ""),  # 16 is more than this one has
])  # fmt: skip
def test_the_two_cases_with_the_most_streams_are_compared(tmp_path, rates, expected):
    for streams, rate in rates.items():
        case(tmp_path, streams, rate)
    assert saturated(case(tmp_path, 8), tmp_path) == expected


def test_cases_that_are_others_or_came_to_no_end_count_for_nothing(tmp_path):
    case(tmp_path, 1, 100.0)
    case(tmp_path, 2, 100.0, site="b")
    case(tmp_path, 2, 100.0, max_tokens=7)
    case(tmp_path, 2, 100.0, ended=False)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "case.json").write_text("[")
    assert saturated(case(tmp_path, 4), tmp_path) == ""
    case(tmp_path, 2, 100.0)
    assert saturated(case(tmp_path, 4), tmp_path) != ""


def test_such_a_case_sends_nothing_says_why_and_has_ended(tmp_path):
    case(tmp_path, 1, 100.0)
    case(tmp_path, 2, 100.0)
    case(tmp_path, 4)
    (folder,) = tmp_path.glob("4-*")
    argv = [sys.executable, "-m", "hpcbench.inference", "chat"]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, check=True)
    note, finished = map(json.loads, done.stdout.splitlines())
    assert (note["kind"], finished["kind"]) == ("note", "finished")
    assert note["message"].startswith("not measured: ")
    assert json.loads(benchmark.load("chat").model_dump_json())["end"]["text"] in done.stdout


def test_the_same_prompts_at_the_same_endpoint_are_told(tmp_path):
    for streams in (1, 2):
        case(tmp_path, streams, 100.0)
    (first,) = tmp_path.glob("1-*")
    now = case(tmp_path, 4)
    assert asked_before(now, tmp_path) == ""  # nothing was sent
    (first / "requests.jsonl").write_text("{}\n")
    assert asked_before(now, tmp_path).startswith(f"case {first.name} sent the same prompts before: ")
    for other in ({"seed": 2}, {"vary_prefix": True}, {"input_tokens": 99}):
        assert asked_before({**now, "parameters": {**now["parameters"], **other}}, tmp_path) == ""
    assert asked_before({**now, "endpoint": {**now["endpoint"], "base_url": "http://other/v1"}}, tmp_path) == ""
    assert asked_before({key: value for key, value in now.items() if key != "endpoint"}, tmp_path) == ""
    assert asked_before({**now, "case": "0"}, tmp_path) == ""  # it came before that one
