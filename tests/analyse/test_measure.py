import pytest
import written

from hpcbench.analyse.measure import measure
from hpcbench.parse import parse


def measured(folder):
    metrics = parse(folder, cache=False)
    [key] = {(row.run, row.case) for row in metrics.cases.itertuples()}
    parts = measure(metrics, {key})[key]
    return {part: {name: each.mean for name, each in found.items()} for part, found in parts.items()}


TIME = "\nreal\t0m{}s\nuser\t0m1.000s\nsys\t0m0.100s\n"


def test_times_of_several_programs_are_not_averaged(tmp_path):
    (tmp_path / "a.log").write_text(TIME.format("10.000") + TIME.format("90.000"))
    found = measured(tmp_path)
    assert {part: values["wall_time"] for part, values in found.items()} == {(("part", 1),): 10, (("part", 2),): 90}


def test_times_of_several_programs_say_nothing_beside_the_steps_of_one(tmp_path):
    (tmp_path / "a.log").write_text(TIME.format("10.000") + written.llmc([9, 1, 1]) + TIME.format("90.000"))
    [values] = measured(tmp_path).values()
    assert "wall_time" not in values
    assert values["step_time"] == 0.001


def test_the_same_said_by_two_tools_is_not_averaged(tmp_path):
    counters = [{"record": "counter", "name": "wall_time", "value": 20.0, "unit": "s"}]
    (tmp_path / "a.log").write_text(written.records(*counters) + TIME.format("21.000"))
    [values] = measured(tmp_path).values()
    assert values["wall_time"] == 20


def test_equal_values_have_no_deviation(tmp_path):
    steps = [{"record": "step", "step": step, "samples_per_second": 66.7} for step in range(50)]
    (tmp_path / "a.log").write_text(written.records(*steps))
    metrics = parse(tmp_path, cache=False)
    [key] = {(row.run, row.case) for row in metrics.cases.itertuples()}
    found = measure(metrics, {key})[key][()]["samples_per_second"]
    assert (found.mean, found.std) == (pytest.approx(66.7), 0.0)


def test_an_epoch_that_lacks_a_rank_is_in_no_mean(tmp_path):
    epochs = [
        {"record": "epoch", "epoch": epoch, "rank": rank, "duration": 10.0, "tokens_per_second": 1000.0}
        for epoch in range(4) for rank in (0, 1) if (epoch, rank) != (3, 1)
    ]  # fmt: skip
    (tmp_path / "a.log").write_text(written.records(*epochs))
    [values] = measured(tmp_path).values()
    assert values == {"tokens_per_second": 2000, "duration": 10}


def test_requests_of_a_log_of_several_measurements_are_of_none(corpus):
    found = measured(corpus / "sites" / "metis_sophia_homework_stdout.txt")
    assert len(found) == 2
    assert () not in found


def test_warm_up_and_failed_requests_are_in_no_mean(tmp_path):
    requests = [
        {"record": "request", "phase": phase, "error": error, "latency": latency}
        for phase, error, latency in (("warm-up", "", 90.0), ("measured", "", 2.0), ("measured", "status 500", 70.0))
    ]
    (tmp_path / "a.log").write_text(written.records(*requests))
    [values] = measured(tmp_path).values()
    assert (values["latency_mean"], values["latency_median"]) == (2, 2)
