import math

import pytest
import written

from hpcbench.analyse.counters import perf_counters
from hpcbench.analyse.summary import compare
from hpcbench.parse import parse


def perf(clock=2000.0, cycles="8,000,000,000", suffix="", elapsed=1.25):
    return f"""
 Performance counter stats for './train_gpt2':

          {clock:,.2f} msec task-clock{suffix}               #    1.600 CPUs utilized
     {cycles}      cycles{suffix}                   #    4.000 GHz
     4,000,000,000      instructions{suffix}             #    0.50  insn per cycle
       100,000,000      branches{suffix}                 #   50.000 M/sec
         1,000,000      branch-misses{suffix}            #    1.00% of all branches

       {elapsed:.9f} seconds time elapsed
"""


def counters(folder):
    metrics = parse(folder)
    [comparison] = compare(metrics)
    return [(row.point, found) for row, found in perf_counters(metrics, comparison)]


def values(found):
    return {name: counter.values for name, counter in found.items()}


def test_a_point_has_its_counters_and_the_rates_that_follow(tmp_path):
    (tmp_path / "perf.txt").write_text(perf())
    [(_, found)] = counters(tmp_path)
    assert values(found) == {
        "task-clock": (2.0,),
        "cycles": (8e9,),
        "instructions": (4e9,),
        "branches": (1e8,),
        "branch-misses": (1e6,),
        "wall_time": (1.25,),
        "CPUs utilised": (1.6,),
        "clock rate": (4.0,),
        "instructions per cycle": (0.5,),
        "branches missed": (1.0,),
    }
    assert {name: found[name].unit for name in ("task-clock", "cycles", "clock rate", "branches missed")} == {
        "task-clock": "s", "cycles": "", "clock rate": "GHz", "branches missed": "%",
    }  # fmt: skip


def test_the_rates_are_those_that_perf_itself_printed(corpus):
    [(_, found)] = counters(corpus / "system/perf_stat/perf_stat_598APE.txt")
    assert f"{found['CPUs utilised'].mean:.3f}" == "1.000"
    assert f"{found['clock rate'].mean:.3f}" == "5.167"
    assert f"{found['instructions per cycle'].mean:.2f}" == "1.51"
    assert f"{found['branches missed'].mean:.2f}" == "0.14"


def test_counters_of_the_program_alone_give_the_same_rates(tmp_path):
    (tmp_path / "perf.txt").write_text(perf(suffix=":u"))  # all that perf may count where the kernel is closed to it
    [(_, found)] = counters(tmp_path)
    assert values(found)["instructions per cycle"] == (0.5,)
    assert "cycles:u" in found


@pytest.mark.parametrize("cycles", ["<not supported>", "<not counted>", "            0"])
def test_a_counter_that_is_missing_or_zero_gives_no_rate(tmp_path, cycles):
    (tmp_path / "perf.txt").write_text(perf(cycles=cycles))
    [(_, found)] = counters(tmp_path)
    assert "instructions per cycle" not in found
    assert ("cycles" in found) == (not cycles.startswith("<"))


def test_repeats_are_values_of_one_counter(tmp_path):
    for repeat, clock in ((1, 2000.0), (2, 4000.0)):
        folder = written.case(tmp_path / "r" / str(repeat), "", repeat=repeat)
        (folder / "perf.txt").write_text(perf(clock))
    [(_, found)] = counters(written.run(tmp_path / "r"))
    assert found["task-clock"].values == (2.0, 4.0)
    assert found["task-clock"].mean == 3.0
    assert found["clock rate"].values == (4.0, 2.0)


def test_a_case_that_did_not_complete_is_in_no_counter(tmp_path):
    for name, ending, clock in (("a", written.COMPLETED, 2000.0), ("b", written.FAILED, 10.0)):
        folder = written.case(tmp_path / "r" / name, "", ending)
        (folder / "perf.txt").write_text(perf(clock))
    [(_, found)] = counters(written.run(tmp_path / "r"))
    assert found["task-clock"].values == (2.0,)


def test_what_another_program_measured_is_no_counter_of_perf(tmp_path):
    log = perf() + "\nreal\t0m1.900s\nuser\t0m1.000s\nsys\t0m0.100s\n"
    (tmp_path / "train.log").write_text(log)
    [(_, found)] = counters(tmp_path)
    assert found["wall_time"].values == (1.25,)
    assert "user_time" not in found


def test_each_point_has_its_own(tmp_path):
    for threads, clock in ((1, 2000.0), (2, 4000.0)):
        (tmp_path / f"threads{threads}.log").write_text(perf(clock))
    assert [(point, found["task-clock"].values) for point, found in counters(tmp_path)] == [
        ({"threads": 1}, (2.0,)),
        ({"threads": 2}, (4.0,)),
    ]


def test_without_perf_there_is_none(tmp_path):
    (tmp_path / "a.log").write_text(written.llmc([9, 1]))
    assert counters(tmp_path) == []


def test_a_repeat_that_lacks_a_counter_leaves_its_mean_unknown(tmp_path):
    for repeat, cycles in ((1, "8,000,000,000"), (2, "<not counted>")):
        folder = written.case(tmp_path / "r" / str(repeat), "", repeat=repeat)
        (folder / "perf.txt").write_text(perf(cycles=cycles))
    [(_, found)] = counters(written.run(tmp_path / "r"))
    assert math.isnan(found["cycles"].mean)
    assert math.isnan(found["clock rate"].mean)
