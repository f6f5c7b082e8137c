import math

import numpy as np
import pytest
import written
from scipy import stats
from scipy.optimize import brentq

from hpcbench.analyse import summary
from hpcbench.analyse.summary import Spread, compare, order
from hpcbench.errors import UsageError
from hpcbench.parse import parse
from hpcbench.report.view import comparison_table


def rows(folder, baseline=None):
    [comparison] = compare(parse(folder), baseline)
    return {tuple(row.point.values()): row for row in comparison.rows}


RNG = np.random.default_rng(2026)
# threads → repeats → step times in s; the first step is warm-up
TIMES = {
    threads: [[9.0, *(RNG.normal(8 / threads**0.8, 0.2, 12))] for _ in range(repeats)]
    for threads, repeats in ((1, 3), (2, 4), (4, 2))
}


def test_a_mean_is_over_steady_steps_then_over_repeats(tmp_path):
    found = rows(written.sweep(tmp_path / "r", TIMES))
    for threads, repeats in TIMES.items():
        spread = found[threads,].metrics["step_time"]
        means = [np.mean(times[1:]) for times in repeats]
        assert spread.values == pytest.approx(means, rel=1e-12)
        assert spread.mean == pytest.approx(np.mean(means), rel=1e-12)
        assert spread.over_repeats == pytest.approx(np.std(means, ddof=1), rel=1e-12)
        within = [np.var(times[1:], ddof=1) for times in repeats]
        assert spread.over_steps == pytest.approx(math.sqrt(np.mean(within)), rel=1e-12)
        assert spread.steps == 12 * len(repeats)


def fieller(above, below):
    """Return the ratios r at which Welch's test of `above` against r times `below` reaches p = 0.05, by search."""

    def excess(ratio):
        return stats.ttest_ind(above, np.asarray(below) * ratio, equal_var=False).pvalue - 0.05

    middle = np.mean(above) / np.mean(below)
    return brentq(excess, middle / 10, middle, xtol=1e-14), brentq(excess, middle, middle * 10, xtol=1e-14)


def test_a_speed_up_is_a_ratio_of_means_with_fiellers_interval(tmp_path):
    found = rows(written.sweep(tmp_path / "r", TIMES))
    base = [np.mean(times[1:]) for times in TIMES[1]]
    for threads in (2, 4):
        side = [np.mean(times[1:]) for times in TIMES[threads]]
        ratio = found[threads,].ratio
        assert ratio.speedup == pytest.approx(np.mean(base) / np.mean(side), rel=1e-12)
        # Welch's degrees of freedom are those at the ratio itself; the search has others at every step
        assert (ratio.low, ratio.high) == pytest.approx(fieller(base, side), rel=0.02)
        assert ratio.slowdown == pytest.approx(1 / ratio.speedup)
        assert ratio.efficiency == pytest.approx(ratio.speedup / threads)
    assert found[1,].ratio.speedup == 1
    assert math.isnan(found[1,].ratio.low)
    assert [row.is_baseline for row in found.values()] == [True, False, False]


def test_a_speed_up_of_a_rate_is_the_other_way_round(tmp_path):
    for threads in (1, 2):
        for repeat in (1, 2, 3):
            times = [9.0, 8.0 / threads + repeat / 10, 8.0 / threads]
            log = "".join(
                written.records({**step, "tokens_per_second": 64 / step["step_time"]}) for step in written.steps(times)
            )
            written.case(
                tmp_path / "r" / f"{threads}-{repeat}", log,
                parameters={"threads": threads}, repeat=repeat, headline=["tokens_per_second"],
            )  # fmt: skip
    found = rows(written.run(tmp_path / "r"))
    rate = {n: [2 * 64 / (16 / n + repeat / 10) for repeat in (1, 2, 3)] for n in (1, 2)}
    ratio = found[2,].ratio
    assert ratio.speedup == pytest.approx(np.mean(rate[2]) / np.mean(rate[1]))
    assert (ratio.low, ratio.high) == pytest.approx(fieller(rate[2], rate[1]), rel=2e-3)


def test_a_rate_is_all_the_work_over_all_the_time(tmp_path):
    times = [5.0, 1.0, 1.0, 10.0]
    log = "".join(
        written.records({**step, "tokens_per_second": 256 / step["step_time"]}) for step in written.steps(times)
    )
    written.case(tmp_path / "r" / "a", log, headline=["tokens_per_second", "step_time"])
    [row] = rows(written.run(tmp_path / "r")).values()
    assert row.metrics["tokens_per_second"].mean == pytest.approx(3 * 256 / 12)  # the mean of the rates is 179.2
    assert row.metrics["tokens_per_second"].over_steps == pytest.approx(np.std([256, 256, 25.6], ddof=1))


def test_a_rate_of_steps_without_a_time_is_all_their_work_over_all_their_time(tmp_path):
    log = written.records(*({"record": "step", "step": n, "samples_per_second": n} for n in (1, 2, 6)))
    written.case(tmp_path / "r" / "a", log, headline=["samples_per_second"])
    [row] = rows(written.run(tmp_path / "r")).values()
    # as many steps as since the line before, at the rate that the line says
    assert row.metrics["samples_per_second"].mean == pytest.approx((1 + 1 + 4) / (1 / 1 + 1 / 2 + 4 / 6))


@pytest.mark.parametrize(("times", "mean"), [
    ([9.0, 1.0, math.nan, 3.0], 2.0),
    ([9.0, 1.0, math.inf, 3.0], 2.0),
    ([9.0, None, 4.0], 4.0),
])  # fmt: skip
def test_what_is_no_number_is_in_no_mean(tmp_path, times, mean):
    found = rows(written.sweep(tmp_path / "r", {1: [times], 2: [[9.0, 1.0]]}))
    assert found[1,].metrics["step_time"].mean == mean


@pytest.mark.parametrize("times", [[9.0], [9.0, math.nan], []])
def test_a_case_without_a_steady_step_has_no_mean_and_no_ratio(tmp_path, times):
    found = rows(written.sweep(tmp_path / "r", {1: [[9.0, 1.0]], 2: [times]}))
    assert math.isnan(found[2,].metrics["step_time"].mean)
    assert found[2,].ratio is None
    assert found[2,].completed == 1


@pytest.mark.parametrize("times", [[9.0, 0.0, 0.0], [9.0, -1.0, -2.0]])
def test_a_time_that_is_not_above_zero_has_no_ratio(tmp_path, times):
    for sides in ({1: [times], 2: [[9.0, 1.0]]}, {1: [[9.0, 1.0]], 2: [times]}):
        found = rows(written.sweep(tmp_path / f"r{next(iter(sides.values()))[0][1]}", sides))
        assert found[2,].ratio is None


def test_equal_repeats_have_an_interval_of_one_value(tmp_path):
    found = rows(written.sweep(tmp_path / "r", {1: [[9, 4, 4]] * 2, 2: [[9, 2, 2]] * 2}))
    assert (found[2,].ratio.low, found[2,].ratio.speedup, found[2,].ratio.high) == (2, 2, 2)


def test_repeats_that_are_worlds_apart_have_an_interval_that_says_nothing(tmp_path):
    found = rows(written.sweep(tmp_path / "r", {1: [[9, 1e-300], [9, 1e300]], 2: [[9, 1e-300], [9, 1e300]]}))
    assert (found[2,].ratio.low, found[2,].ratio.high) == (0, math.inf)


def test_fiellers_interval_holds_the_true_ratio_as_often_as_it_says(tmp_path):
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(2000):
        above, below = random.normal(3, 0.15, 3), random.normal(2, 0.04, 4)
        spreads = [Spread(tuple(values), 1, math.nan) for values in (below, above)]
        ratio = summary._ratio(*spreads, lower_is_better=True)
        inside += ratio.low <= 1.5 <= ratio.high
    assert 0.93 < inside / 2000 < 0.975


# Which cases count.


def test_a_case_that_did_not_complete_is_in_no_mean(tmp_path):
    folder = tmp_path / "r"
    for case, ending, time in (("a", written.COMPLETED, 1.0), ("b", written.FAILED, 100.0), ("c", None, 100.0)):
        written.case(folder / case, written.records(*written.steps([9.0, time])), ending, parameters={"threads": 1})
    [row] = rows(written.run(folder)).values()
    assert row.metrics["step_time"].values == (1.0,)
    assert (row.completed, len(row.cases)) == (1, 3)


def test_a_case_that_completed_but_lost_its_log_is_not_counted_among_the_runs(tmp_path):
    folder = written.sweep(tmp_path / "r", {1: [[9, 2, 2], [9, 2, 2]], 2: [[9, 1, 1], [9, 1, 1]]})
    (folder / "2-1" / "stdout.log").unlink()
    [comparison] = compare(parse(folder))
    headings, lines = comparison_table(comparison)
    assert [line[headings.index("runs")] for line in lines] == ["2", "1 of 2"]


def test_a_baseline_that_one_of_two_benchmarks_has_is_used_there(tmp_path):
    for benchmark, axis in (("one", "threads"), ("two", "batch")):
        for value in (1, 2, 4):
            written.case(
                tmp_path / "r" / f"{benchmark}-{value}", written.records(*written.steps([9.0, 1.0 / value])),
                benchmark=benchmark, parameters={axis: value},
            )  # fmt: skip
    metrics = parse(written.run(tmp_path / "r"))
    found = {each.benchmark: each.baseline for each in compare(metrics, {"threads": "4"})}
    assert found == {"one": {"threads": 4}, "two": {"batch": 1}}
    with pytest.raises(UsageError, match="'treads' is not an axis"):
        compare(metrics, {"treads": "4"})


def test_where_all_failed_there_are_rows_without_numbers(tmp_path):
    folder = tmp_path / "r"
    for threads in (1, 2):
        log = written.records(*written.steps([9.0, 1.0]))
        written.case(folder / str(threads), log, written.FAILED, parameters={"threads": threads})
    found = rows(written.run(folder))
    assert [(row.completed, row.ratio) for row in found.values()] == [(0, None), (0, None)]
    assert all(math.isnan(row.metrics["step_time"].mean) for row in found.values())


def test_where_the_baseline_failed_nothing_has_a_ratio(tmp_path):
    folder = tmp_path / "r"
    for threads, ending in ((1, written.FAILED), (2, written.COMPLETED), (4, written.COMPLETED)):
        log = written.records(*written.steps([9.0, 1.0]))
        written.case(folder / str(threads), log, ending, parameters={"threads": threads}, baseline={"threads": 1})
    assert [row.ratio for row in rows(written.run(folder)).values()] == [None, None, None]


# What is compared with what.


def test_every_other_axis_has_its_own_baseline(tmp_path):
    for threads in (1, 2):
        for batch in (4, 8):
            log = written.records(*written.steps([9.0, batch / threads]))
            written.case(tmp_path / "r" / f"{threads}-{batch}", log, parameters={"threads": threads, "batch": batch})
    found = rows(written.run(tmp_path / "r"))
    assert {point: row.ratio.speedup for point, row in found.items()} == {(1, 4): 1, (1, 8): 1, (2, 4): 2, (2, 8): 2}
    assert {point for point, row in found.items() if row.is_baseline} == {(1, 4), (1, 8)}


@pytest.mark.parametrize(("asked", "speedups"), [
    (None, [1, 2, 4]),
    ({"threads": "first"}, [1, 2, 4]),
    ({"threads": "4"}, [0.25, 0.5, 1]),
])  # fmt: skip
def test_a_person_chooses_the_baseline(tmp_path, asked, speedups):
    found = rows(written.sweep(tmp_path / "r", {n: [[9.0, 4 / n]] for n in (1, 2, 4)}), asked)
    assert [row.ratio.speedup for row in found.values()] == speedups


@pytest.mark.parametrize(("asked", "message"), [
    ({"thread": "1"}, "--baseline: 'thread' is not an axis of these logs; did you mean 'threads'?"),
    ({"threads": "3"}, "--baseline: no case has threads=3; there is 1, 2"),
])  # fmt: skip
def test_a_baseline_that_is_not_there_is_one_clear_error(tmp_path, asked, message):
    with pytest.raises(UsageError) as error:
        rows(written.sweep(tmp_path / "r", {1: [[9, 1]], 2: [[9, 1]]}), asked)
    assert str(error.value) == message


def test_the_benchmarks_baseline_gives_way_to_the_first_value_where_the_sweep_lacks_it(tmp_path):
    [comparison] = compare(parse(written.sweep(tmp_path / "r", {2: [[9.0, 2.0]], 4: [[9.0, 1.0]]})))
    assert comparison.baseline == {"threads": 2}
    assert [row.ratio.efficiency for row in comparison.rows] == [1, 1]


def test_the_first_value_of_an_axis_is_its_least_whatever_the_other_axes_begin_with(tmp_path):
    """AVX alone, which says nothing of threads, sorts before the builds that do."""
    for index, parameters in enumerate(
        [{"build": "avx"}, {"threads": 2}, {"threads": 1}, {"build": "blas", "threads": 4}]
    ):
        written.case(tmp_path / "r" / str(index), written.records(*written.steps([9.0, 1.0])), parameters=parameters)
    [comparison] = compare(parse(written.run(tmp_path / "r")))
    assert comparison.axes == ("build", "threads")
    assert comparison.baseline == {"threads": 1}


def test_an_axis_that_does_not_count_devices_has_no_efficiency(tmp_path):
    for batch in (4, 8):
        written.case(
            tmp_path / "r" / str(batch), written.records(*written.steps([9.0, batch])), parameters={"batch": batch}
        )
    found = rows(written.run(tmp_path / "r"))
    assert [row.ratio.speedup for row in found.values()] == [1, 0.5]
    assert all(math.isnan(row.ratio.efficiency) for row in found.values())


def test_no_device_at_all_has_a_speed_up_and_no_efficiency(tmp_path):
    for gpus, time in ((0, 8.0), (1, 2.0), (2, 1.0)):
        written.case(
            tmp_path / "r" / str(gpus), written.records(*written.steps([9.0, time])),
            parameters={"gpus": gpus}, baseline={"gpus": 1},
        )  # fmt: skip
    found = rows(written.run(tmp_path / "r"))
    assert [row.ratio.speedup for row in found.values()] == [0.25, 1, 2]
    assert [row.ratio.efficiency for row in found.values()] == pytest.approx([math.nan, 1, 1], nan_ok=True)


def test_one_case_has_no_axis_and_no_ratio(tmp_path):
    [comparison] = compare(parse(written.sweep(tmp_path / "r", {1: [[9.0, 1.0]]})))
    assert (comparison.axes, comparison.baseline) == ((), {})
    assert comparison.fixed == {"threads": 1, "batch": 4}
    assert [row.ratio for row in comparison.rows] == [None]


def test_values_are_in_order_numbers_by_size_then_words_then_none(tmp_path):
    values = [16, "auto", 2, 0.5, "8", None, True, 10**30]
    assert sorted(values, key=order) == [0.5, True, 2, 16, 10**30, "8", "auto", None]
    for index, value in enumerate([16, "auto", 2, None]):
        parameters = {} if value is None else {"threads": value}
        written.case(tmp_path / "r" / str(index), written.records(*written.steps([9.0, 1.0])), parameters=parameters)
    found = rows(written.run(tmp_path / "r"))
    assert list(found) == [(2,), (16,), ("auto",), (None,)]
    assert [type(point[0]) for point in found] == [int, int, str, type(None)]


def test_several_runs_are_rows_of_their_own(tmp_path):
    for run, time in (("monday", 2.0), ("tuesday", 1.0)):
        written.sweep(tmp_path / run, {1: [[9.0, time]], 2: [[9.0, time / 2]]})
    [comparison] = compare(parse(tmp_path))
    assert comparison.axes == ("run", "threads")
    assert [tuple(row.point.values()) for row in comparison.rows] == [
        ("monday", 1), ("monday", 2), ("tuesday", 1), ("tuesday", 2),
    ]  # fmt: skip
    assert [row.ratio.speedup for row in comparison.rows] == [1, 2, 1, 2]


def test_several_benchmarks_are_compared_each_by_itself(tmp_path):
    for name, headline, warmup in (("one", "step_time", 2), ("two", "wall_time", 0)):
        for threads in (1, 2):
            log = written.records(*written.steps([9.0, 8.0, 4.0 / threads], warmup=warmup))
            ending = {**written.COMPLETED, "ended": 1000 + 60 / threads}
            written.case(
                tmp_path / name / str(threads), log, ending,
                benchmark=name, parameters={"threads": threads}, headline=[headline], baseline={"threads": threads},
            )  # fmt: skip
        written.run(tmp_path / name, benchmark=name, title=f"Benchmark {name}")
    one, two = compare(parse(tmp_path))
    assert (one.title, one.metrics, one.warmup) == ("Benchmark one", ("step_time",), (0, 1))
    assert (two.title, two.metrics, two.warmup) == ("Benchmark two", ("wall_time",), ())
    assert [row.metrics["wall_time"].mean for row in two.rows] == [60, 30]


# What each metric is.


def test_the_program_is_believed_before_what_was_measured_around_it(tmp_path):
    log = written.records({"record": "counter", "name": "max_memory", "value": 5, "unit": "B"})
    log += written.records({"record": "counter", "name": "wall_time", "value": math.nan, "unit": "s"})
    ending = {**written.COMPLETED, "max_memory": 7, "user_time": 3}
    written.case(tmp_path / "r" / "a", log, ending, headline=["max_memory", "user_time", "wall_time"])
    [row] = rows(written.run(tmp_path / "r")).values()
    assert {name: spread.mean for name, spread in row.metrics.items()} == {
        "max_memory": 5,
        "user_time": 3,
        "wall_time": 60.5,
    }


def test_the_validation_loss_is_the_last_one(tmp_path):
    evals = [
        {"record": "eval", "task": "validation", "metric": "loss", "value": 5 - step, "step": step} for step in range(3)
    ]
    other = {"record": "eval", "task": "hellaswag", "metric": "accuracy", "value": 0.3, "step": 2}
    written.case(tmp_path / "r" / "a", written.records(*evals, other), headline=["validation_loss"])
    [row] = rows(written.run(tmp_path / "r")).values()
    assert row.metrics["validation_loss"].values == (3,)


def test_logs_without_a_headline_are_compared_by_what_they_have(tmp_path):
    (tmp_path / "a.log").write_text(written.llmc([30, 10, 20]))
    [comparison] = compare(parse(tmp_path))
    assert comparison.metrics == ("step_time",)
    assert comparison.title == "Training"


def test_logs_without_any_metric_have_none(tmp_path):
    (tmp_path / "main.log").write_text("s:0 trl:11.0116 lr:0.000001 norm:14.96\n")
    [comparison] = compare(parse(tmp_path))
    assert comparison.metrics == ()


VLLM = """============ Serving Benchmark Result ============
Successful requests:                     {requests}
Benchmark duration (s):                  30.85
Request throughput (req/s):              {rate}
Output token throughput (tok/s):         {tokens}
"""


def test_logs_of_one_kind_are_compared_with_each_other_only(tmp_path):
    (tmp_path / "train.log").write_text(written.llmc([30, 10, 20]))
    (tmp_path / "idle.log").write_text("s:0 trl:11.0116 lr:0.000001 norm:14.96\n")
    (tmp_path / "serve.log").write_text(VLLM.format(requests=1000, rate=32.42, tokens=6582.87))
    (tmp_path / "run.txt").write_text("\nreal\t0m56.9s\nuser\t0m1.2s\nsys\t0m0.1s\n")
    found = {each.title: each for each in compare(parse(tmp_path))}
    assert list(found) == ["Training", "Inference", "Programs"]
    assert found["Training"].metrics == ("step_time",)
    assert [row.point["log"] for row in found["Training"].rows] == ["train"]
    assert found["Training"].unmeasured == 1
    [served] = found["Inference"].rows
    assert {name: spread.mean for name, spread in served.metrics.items()} == {
        "output_tokens_per_second": 6582.87, "requests_per_second": 32.42,
    }  # fmt: skip
    [program] = found["Programs"].rows
    assert program.metrics["wall_time"].mean == 56.9


def test_the_metrics_of_most_logs_are_compared_and_a_speed_comes_first(tmp_path):
    for batch in (1, 2):
        (tmp_path / f"bs{batch}.log").write_text(written.llmc([30, 10, 20]) + "val loss 4.107830\n")
    [comparison] = compare(parse(tmp_path))
    assert comparison.metrics == ("step_time", "validation_loss")


def test_the_measurements_of_one_log_have_a_row_each(corpus):
    [comparison] = compare(parse(corpus / "sites" / "metis_sophia_homework_stdout.txt"))
    assert comparison.axes == ("endpoint", "model")
    rates = {row.point["endpoint"]: row.metrics["output_tokens_per_second"].values for row in comparison.rows}
    assert rates == {"Metis (SambaNova)": (34.6,), "Sophia (NVIDIA)": (15.42,)}


def test_different_tasks_have_no_ratio(corpus):
    [comparison] = compare(parse(corpus / "system" / "perf_stat" / "perf_stat_two_sum.txt"))
    assert comparison.axes == ("block",)
    assert [row.metrics["wall_time"].mean for row in comparison.rows] == pytest.approx([60.25, 61.51, 8.558], rel=1e-3)
    assert not any(row.ratio for row in comparison.rows)


def test_no_values_have_no_spread():
    spread = Spread((), 0, math.nan)
    assert math.isnan(spread.mean)
    assert math.isnan(spread.over_repeats)
    assert math.isnan(Spread((1.0,), 1, math.nan).over_repeats)
    assert math.isnan(Spread((math.inf, math.inf), 2, math.nan).over_repeats)


def scaling(folder, **rates):
    """Write foreign logs of 1, 2 and 4 GPUs, of which each works on a batch of its own in the same time."""
    for gpus in (1, 2, 4):
        steps = [
            {"record": "step", "step": step, "step_time": 0.5, **{name: of(gpus) for name, of in rates.items()}}
            for step in range(4)
        ]
        written.case(
            folder / f"g{gpus}", written.records(*steps),
            benchmark="", headline=[], parameters={"batch": 32 * gpus, "gpus": gpus},
        )  # fmt: skip
    [comparison] = compare(parse(folder))
    return comparison


def test_parameters_that_grow_together_are_one_axis_and_a_rate_says_how_it_scales(tmp_path):
    comparison = scaling(tmp_path, samples_per_second=lambda gpus: 64.0 * gpus)
    assert comparison.baseline == {"batch": 32, "gpus": 1}
    assert comparison.metrics[0] == "samples_per_second"
    assert [row.ratio.speedup for row in comparison.rows] == pytest.approx([1, 2, 4])
    assert [row.ratio.efficiency for row in comparison.rows] == pytest.approx([1, 1, 1])


def test_a_rate_of_each_device_is_its_own_efficiency(tmp_path):
    comparison = scaling(tmp_path, tokens_per_second_per_device=lambda gpus: 1000.0 - 100 * gpus)
    assert [row.ratio.efficiency for row in comparison.rows] == pytest.approx([1, 800 / 900, 600 / 900])


def test_the_time_of_a_step_says_nothing_of_speed_where_its_work_differs(tmp_path):
    comparison = scaling(tmp_path)
    assert comparison.metrics[0] == "step_time"
    assert not any(row.ratio for row in comparison.rows)


def test_a_baseline_takes_along_what_varies_with_it(tmp_path):
    scaling(tmp_path, samples_per_second=lambda gpus: 64.0 * gpus)
    [comparison] = compare(parse(tmp_path), {"gpus": "2"})
    assert [row.ratio.speedup for row in comparison.rows] == pytest.approx([0.5, 1, 2])


def test_requests_that_succeeded_are_reduced_to_their_means(tmp_path):
    requests = [
        {"record": "request", "started": 10.0 + at, "finished": 12.0 + 2 * at, "ttft": 0.5, "latency": 2.0 + at,
         "output_tokens": 100, "error": "" if at < 3 else "status 500"}
        for at in range(4)
    ]  # fmt: skip
    written.case(
        tmp_path / "a", written.records(*requests), benchmark="serve", headline=["latency_mean", "ttft_median"]
    )
    [comparison] = compare(parse(tmp_path))
    [row] = comparison.rows
    assert row.metrics["latency_mean"].mean == 3.0
    assert row.metrics["latency_mean"].over_steps == 1.0
    assert row.metrics["latency_mean"].steps == 3
    assert row.metrics["ttft_median"].mean == 0.5
