"""What the processes of a case cost: the load that each pays, and the cores that they share."""

import answered
import pytest
import written

from hpcbench.analyse.processes import processes
from hpcbench.analyse.summary import compare
from hpcbench.parse import parse
from hpcbench.report import section

LOAD = [("import", 3.0), ("model", 1.5), ("data", 0.5)]


def process(number, start, *working):
    return answered.phases(number, start, [*LOAD, *working])


def case(folder, mode, wall, events, cpu=None, questions=30, **parameters):
    used = {} if cpu is None else {"user_time": cpu, "system_time": 0.5}
    answers = answered.answers("ethics", questions, questions // 3)
    answered.case(folder / mode, wall, events, answers=answers, used=used, parameters={"mode": mode, **parameters})


def sequential(folder):
    """Three processes one after another: 5 s of load and 8 s of work each, with a second between them."""
    events = [row for n in range(3) for row in process(n, 14.0 * n, ("prefill", 2.0), ("score", 6.0))]
    case(folder, "sequential", 42.0, events, cpu=39.0)


def parallel(folder, slower):
    events = [row for n in range(3) for row in process(n, 0.0, ("prefill", 2.0 * slower), ("score", 6.0 * slower))]
    case(folder, "parallel", 5 + 8.0 * slower, events, cpu=40.0)


def batched(folder):
    case(folder, "batched", 20.0, process(0, 0.0, ("prefill", 3.0), ("score", 10.0)))


def told(folder):
    metrics = parse(written.run(folder, benchmark="mmlu"))
    [comparison] = compare(metrics)
    return section(metrics, comparison).findings


def test_processes_are_counted_with_their_load_and_their_work(tmp_path):
    sequential(tmp_path / "r")
    parallel(tmp_path / "r", 3.0)
    batched(tmp_path / "r")
    metrics = parse(written.run(tmp_path / "r", benchmark="mmlu"))
    found = {each.row.point["mode"]: each for each in processes(metrics, compare(metrics)[0])}
    figures = {mode: (each.count, each.load, each.work, each.working) for mode, each in found.items()}
    assert figures == {
        "sequential": (3, 5, 24, 24),
        "parallel": (3, 5, 72, 24),
        "batched": (1, 5, 13, 13),
    }
    assert {mode: each.together for mode, each in found.items()} == {"sequential": 1, "parallel": 3, "batched": 1}


def test_the_load_that_each_process_pays_is_told_beside_that_of_one(tmp_path):
    sequential(tmp_path / "r")
    batched(tmp_path / "r")
    assert (
        "mode sequential: 3 processes took 5.00 s of import and load each, 15.0 s of 42.0 s in all; the one process of "
        "mode batched took 5.00 s"
    ) in told(tmp_path / "r")


def test_processes_at_once_that_share_the_cores_are_told(tmp_path):
    sequential(tmp_path / "r")
    parallel(tmp_path / "r", 3.0)
    [finding] = [sentence for sentence in told(tmp_path / "r") if "share" in sentence]
    assert finding == (
        "mode parallel: 3 processes, 3.0 at once, needed 72.0 s of prefill and scoring between them, 3.00 times as "
        "much as mode sequential (24.0 s): they share the cores, and on the clock it was 24.0 s against 24.0 s; CPU "
        "time 40.5 s against 39.5 s"
    )


def test_processes_with_room_of_their_own_are_not(tmp_path):
    sequential(tmp_path / "r")
    parallel(tmp_path / "r", 1.1)
    assert not [sentence for sentence in told(tmp_path / "r") if "share" in sentence]


@pytest.mark.parametrize("other", [{"questions": 60}, {"dtype": "float32"}, {"device": "cuda"}])
def test_rows_that_did_other_work_are_not_held_against_each_other(tmp_path, other):
    sequential(tmp_path / "r")
    events = [row for n in range(3) for row in process(n, 0.0, ("score", 30.0))]
    case(tmp_path / "r", "parallel", 35.0, events, **other)
    assert not [sentence for sentence in told(tmp_path / "r") if "share" in sentence]


# Who is faster.


def walls(folder, **times):
    for mode, repeats in times.items():
        for repeat, wall in enumerate(repeats, 1):
            answered.case(
                folder / f"{mode}-{repeat}", wall, answers=answered.answers("ethics", 8, 4), repeat=repeat,
                parameters={"mode": mode},
            )  # fmt: skip
    [sentence] = told(folder)
    return sentence


@pytest.mark.parametrize(("times", "verdict"), [
    ([20.0, 20.4, 20.2], "40.20 s: faster (1.99×, 95 % interval 1.95 to 2.03)"),
    ([80.0, 80.4, 80.2], "40.20 s: slower (0.50×, 95 % interval 0.50 to 0.51)"),
    ([20.0, 60.0, 40.0], "40.20 s: not distinguishable (1.01×, 95 % interval not bounded)"),
    ([20.0], "40.20 s: faster (one run against 3 of 40.00 s to 40.40 s; p = 0.00013)"),
    ([40.6], "40.20 s: not distinguishable (one run against 3 of 40.00 s to 40.40 s; p = 0.23)"),
])  # fmt: skip
def test_batching_wins_only_where_its_ratio_says_so(tmp_path, times, verdict):
    assert verdict in walls(tmp_path / "r", sequential=[40.0, 40.4, 40.2], batched=times)


def test_of_what_was_measured_once_nothing_is_claimed(tmp_path):
    assert walls(tmp_path / "r", sequential=[40.0], batched=[10.0]) == (
        "mode batched against mode sequential: wall time 10.00 s against 40.00 s (4.00×), each measured once: nothing "
        "says whether it would be so again"
    )
