"""Published tables, written as the logs that their tools would leave, come back from `parse`."""

import json

import numpy as np
import pytest

from hpcbench.analyse.phases import phases
from hpcbench.analyse.summary import compare
from hpcbench.parse import parse

# Llama-7B on a wafer, 200 steps: batch → rate, rate since the start, total time in s, final loss
WAFER = {
    256: (32.84, 32.86, 8615, 5.87924),
    512: (33.34, 33.27, 4151, 6.32152),
    1024: (33.05, 33.04, 7394, 6.10848),
    2048: (34.10, 34.09, 13866, 5.96367),
}


def wafer_log(batch, rate, global_rate, total, loss):
    lines = [
        f"| Train Device=CSX, Step={step}, Loss={loss + (200 - step) / 100:.5f}, Rate={rate:.2f} samples/sec, "
        f"GlobalRate={global_rate:.2f} samples/sec, LoopTimeRemaining=0:10:00, TimeRemaining=0:10:00"
        for step in (50, 100, 150, 200)
    ]
    lines += ["Training completed successfully!"]
    lines += [f"Processed {batch * 200} training sample(s) in {total}.000000000 seconds."]
    return "".join(f"2025-10-13 15:{minute:02d}:00,000 INFO:   {line}\n" for minute, line in enumerate(lines))


@pytest.fixture
def wafer(tmp_path):
    for batch, row in WAFER.items():
        (tmp_path / f"bs{batch}.log").write_text(wafer_log(batch, *row))
    return parse(tmp_path, label=r"bs(?P<batch>\d+)")


def test_rates_of_a_wafer_come_back_and_do_not_depend_on_its_set_up(wafer):
    [comparison] = compare(wafer)
    assert comparison.metrics[0] == "samples_per_second"
    rates = {row.point["batch"]: row.metrics["samples_per_second"].mean for row in comparison.rows}
    assert rates == pytest.approx({batch: row[0] for batch, row in WAFER.items()}, rel=1e-12)
    assert max(rates.values()) / min(rates.values()) - 1 == pytest.approx(0.038, abs=5e-4)


def test_what_a_wafer_says_at_the_end_comes_back(wafer):
    owners = wafer.owners()
    found = {(owners[row.source][1], row.name): row.value for row in wafer.counters.itertuples()}
    last = wafer.steps.groupby("source").last()
    for batch, (_, global_rate, total, loss) in WAFER.items():
        case = f"batch{batch}"
        assert (found[case, "samples"], found[case, "processed_time"]) == (batch * 200, total)
        [row] = [row for source, row in last.iterrows() if owners[source][1] == case]
        assert (row["loss"], row["mean_samples_per_second"]) == (loss, global_rate)


# Data-parallel training: world size → training time and tokens per second a device, mean and deviation over epochs
PARALLEL = {1: (45.23, 2.15, 2845.67, 123.45), 2: (24.56, 1.89, 5234.89, 234.56)}


def spread(mean, deviation, count=9):
    values = np.linspace(-1, 1, count)
    return mean + values / values.std(ddof=1) * deviation


def test_data_parallel_training_comes_back_with_its_speed_up(tmp_path):
    for size, (time, time_std, rate, rate_std) in PARALLEL.items():
        folder = tmp_path / f"world_size{size}"
        folder.mkdir()
        times, rates = spread(time, time_std), spread(rate, rate_std) / size
        for rank in range(size):
            for epoch in range(10):
                result = {"validation_loss": 4.0, "bleu": 1.0}
                # the first epoch is initialisation and is not counted
                result |= (
                    {"training_time": 99.0, "tokens_per_sec": 1.0}
                    if epoch == 0
                    else {
                        "training_time": times[epoch - 1] + (rank - (size - 1) / 2),  # ranks differ, their mean counts
                        "tokens_per_sec": rates[epoch - 1],
                    }
                )
                (folder / f"rank{rank}_results_epoch{epoch}.json").write_text(json.dumps(result))
    [comparison] = compare(parse(tmp_path))
    for row in comparison.rows:
        time, time_std, rate, rate_std = PARALLEL[row.point["world_size"]]
        duration, tokens = row.metrics["duration"], row.metrics["tokens_per_second"]
        assert (duration.mean, duration.over_steps) == pytest.approx((time, time_std), rel=1e-12)
        assert (tokens.mean, tokens.over_steps) == pytest.approx((rate, rate_std), rel=1e-12)
        assert (duration.steps, tokens.steps) == (9, 9)
    assert comparison.rows[1].ratio.speedup == pytest.approx(1.84, abs=5e-3)
    assert comparison.rows[1].ratio.efficiency == pytest.approx(0.92, abs=5e-3)


@pytest.mark.parametrize(("mode", "real", "seconds"), [
    ("sequential", "19m22.641s", 1162.641),
    ("parallel", "2m4.327s", 124.327),
])  # fmt: skip
def test_wall_times_of_scripts_come_back(tmp_path, mode, real, seconds):
    (tmp_path / f"{mode}.log").write_text(f"loading\n\nreal\t{real}\nuser\t0m1.000s\nsys\t0m1.000s\n")
    metrics = parse(tmp_path)
    wall = metrics.counters[metrics.counters["name"] == "wall_time"]
    assert list(wall["value"]) == [pytest.approx(seconds)]
    assert dict(zip(phases(metrics)["phase"], phases(metrics)["duration"], strict=True)) == {
        "other": pytest.approx(seconds)
    }
