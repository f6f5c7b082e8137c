"""Points that differ in several things: no speed-up is credited to one of them."""

import json

import pytest
import written

from hpcbench.analyse.confounded import confounded
from hpcbench.analyse.summary import compare
from hpcbench.parse import parse


def case(folder, name, time, device=None, site="local", ending=written.COMPLETED, **parameters):
    facts = json.dumps(device if isinstance(device, dict) else {"device": device})
    said = [{"record": "event", "kind": "environment", "message": facts}] if device is not None else []
    log = written.records(*said, *written.steps([9.0, time, time]))
    written.case(folder / name, log, ending, site=site, parameters=parameters, baseline={"mode": "slow"})


def found(folder):
    metrics = parse(written.run(folder))
    [comparison] = compare(metrics)
    ratios = {tuple(row.point.values()): row.ratio and row.ratio.speedup for row in comparison.rows}
    told = [tuple((each.name, each.base, each.here) for each in one.factors) for one in confounded(metrics, comparison)]
    return ratios, told


def test_two_parameters_that_change_together_have_no_ratio(tmp_path):
    case(tmp_path / "r", "a", 4.0, mode="slow", dtype="float32")
    case(tmp_path / "r", "b", 1.0, mode="fast", dtype="bfloat16")
    ratios, told = found(tmp_path / "r")
    assert ratios == {("fast", "bfloat16"): None, ("slow", "float32"): 1}
    assert told == [(("mode", "slow", "fast"), ("dtype", "float32", "bfloat16"))]


def test_a_case_that_tells_them_apart_gives_ratios_back(tmp_path):
    for mode, dtype, time in (("slow", "float32", 4.0), ("slow", "bfloat16", 2.0), ("fast", "bfloat16", 1.0)):
        case(tmp_path / "r", f"{mode}-{dtype}", time, mode=mode, dtype=dtype)
    ratios, told = found(tmp_path / "r")
    assert ratios == {("slow", "float32"): 1, ("slow", "bfloat16"): 1, ("fast", "bfloat16"): 2}
    assert told == []


def test_another_device_that_no_parameter_tells_of_is_a_factor(tmp_path):
    case(tmp_path / "r", "a", 4.0, "A CPU", mode="slow")
    case(tmp_path / "r", "b", 1.0, {"device": "cuda", "device_name": "A GPU"}, mode="fast")
    ratios, told = found(tmp_path / "r")
    assert ratios["fast",] is None
    assert told == [(("mode", "slow", "fast"), ("device", "A CPU", "A GPU"))]


@pytest.mark.parametrize("device", ["A CPU", None, "", "{", "[1]", '{"device": ["A GPU"]}', "[" * 9999])
def test_one_device_or_none_that_is_known_is_no_factor(tmp_path, device):
    case(tmp_path / "r", "a", 4.0, "A CPU", mode="slow")
    case(tmp_path / "r", "b", 1.0, None, mode="fast")
    if device != "A CPU" and device is not None:
        message = {"record": "event", "kind": "environment", "message": device}
        with (tmp_path / "r" / "b" / "stdout.log").open("a") as log:
            log.write(written.records(message))
    ratios, told = found(tmp_path / "r")
    assert (ratios["fast",], told) == (4, [])


def test_sites_are_compared_whatever_devices_they_have(tmp_path):
    for site, device, time in (("one", "A CPU", 4.0), ("two", "A GPU", 1.0)):
        for mode, factor in (("slow", 1.0), ("fast", 0.5)):
            case(tmp_path / "r", f"{site}-{mode}", time * factor, device, site, mode=mode)
    metrics = parse(written.run(tmp_path / "r"))
    [comparison] = compare(metrics, {"site": "one"})
    assert [row.ratio.speedup for row in comparison.rows if not row.is_baseline] == [4, 4]
    assert confounded(metrics, comparison) == []


def test_a_baseline_that_failed_is_no_factor(tmp_path):
    for dtype in ("float32", "bfloat16"):
        ending = written.FAILED if dtype == "bfloat16" else written.COMPLETED
        case(tmp_path / "r", f"a-{dtype}", 4.0, ending=ending, mode="slow", dtype=dtype)
        case(tmp_path / "r", f"b-{dtype}", 1.0, mode="fast", dtype=dtype)
    ratios, told = found(tmp_path / "r")
    assert (ratios["fast", "bfloat16"], ratios["fast", "float32"]) == (None, 4)
    assert told == []
