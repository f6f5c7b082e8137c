import pytest
import written

from hpcbench.formats import failures


def find(log):
    """Return kind, line and message of every failure that a log tells of, one kind after another."""
    found = [(each.values["kind"], each.line, each.values["message"]) for each in written.read("failures", log)[0]]
    return sorted(
        found, key=lambda each: (["out_of_memory", "traceback", "assertion", "time_limit"].index(each[0]), each[1])
    )


# file, what it tells of (kind and line), the beginning of the first message
REAL = [
    ("failures/llmc_cuda_oom.log", [("out_of_memory", 62)], "[CUDA ERROR] at file train_gpt2.cu:265: out of memory"),
    ("failures/llmc_assert_abort.log", [("assertion", 1)], "train_gpt2cu: train_gpt2.cu:1518: int main("),
    (
        "failures/slurm_cuda_oom_with_bash_time.out", [("out_of_memory", 32), ("traceback", 7)],
        "RuntimeError: CUDA out of memory. Tried to allocate 2.93 GiB",
    ),
    ("failures/slurm_oom_plink_hyak.txt", [("out_of_memory", 190)], "slurmstepd: error: Detected 1 oom_kill event"),
    ("failures/slurm_longform_timelimit.out", [("time_limit", 8267)], "slurmstepd: error: *** JOB 20942500 ON ng30703"),
    (  # fused with the line of a step
        "training/llmc_cuda/llmc_cuda_nan_timelimit.log", [("time_limit", 168)],
        "step 100/19560 | loss nan (+nanz)| norm nan (+nanz)| lr 8.57e-05 | 3616.slurmstepd: error: *** JOB 11679010",
    ),
    ("training/mllog/mllog_supermicro_retinanet_step_timelimit.txt", [], ""),  # a step's limit; the job succeeded
    ("training/llmc_cuda/llmc_cuda_124M_full_19560.log", [], ""),
]  # fmt: skip


@pytest.mark.parametrize(("file", "expected", "message"), REAL, ids=[each[0] for each in REAL])
def test_a_real_log_tells_how_it_failed_and_where(corpus, file, expected, message):
    found = find((corpus / file).read_bytes())
    assert [(kind, line) for kind, line, _ in found] == expected
    assert not found or found[0][2].startswith(message)


@pytest.mark.parametrize("line", [
    "MemoryError",
    "MemoryError: Unable to allocate 8.00 GiB",
    "numpy._core._exceptions.MemoryError: Unable to allocate",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB",
    "torch.cuda.OutOfMemoryError: HIP out of memory.",
    "RuntimeError: [enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried",
    "RuntimeError: DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes.",
    "  what():  std::bad_alloc",
    "bash: fork: Cannot allocate memory",
    "slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.batch.",
])  # fmt: skip
def test_the_ways_in_which_programs_say_that_memory_ran_out(line):
    assert failures.out_of_memory(b"before\n" + line.encode() + b"\nafter\n") == " ".join(line.split())


@pytest.mark.parametrize("line", [
    "handles OutOfMemoryError gracefully",
    "memory: 64 GiB, none out of it",
    "NotAMemoryErrorAtAll",
    "out of memory",
    "Assertion `x > 0' was checked",
    "a Traceback (most recent call last): in prose",
    "",
])  # fmt: skip
def test_lines_that_tell_of_no_failure(line):
    assert find(line) == []


def test_a_line_that_says_it_twice_counts_once_and_every_line_counts():
    log = b"CUDA out of memory, CUDA out of memory\nfine\nMemoryError\n"
    assert [line for _, line, _ in find(log)] == [1, 3]


def test_the_cause_is_the_last_line_that_says_so():
    assert failures.out_of_memory(b"MemoryError: first\nMemoryError: second\n") == "MemoryError: second"
    assert failures.out_of_memory(b"") is None


def test_the_message_of_an_endless_line_is_the_part_that_matters():
    log = b"x" * 1_000_000 + b" CUDA out of memory " + b"y" * 1_000_000
    [(_, line, message)] = find(log)
    assert line == 1
    assert "CUDA out of memory" in message
    assert len(message) <= 500


def test_a_message_is_one_line_without_control_characters():
    [(_, _, message)] = find(b"MemoryError: \x1b[2J\x07 caf\xe9 \t tab\r\n")
    assert message == "MemoryError: \N{REPLACEMENT CHARACTER} caf\N{REPLACEMENT CHARACTER} tab"
