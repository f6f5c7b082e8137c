import pytest
import written

from hpcbench.formats import failures


def find(log):
    """Return kind, line and message of every failure that a log tells of."""
    return [(each.values["kind"], each.line, each.values["message"]) for each in written.read("failures", log)[0]]


# file, what it tells of (kind and line), the beginning of the first message
REAL = [
    ("failures/llmc_cuda_oom.log", [("out_of_memory", 62)], "[CUDA ERROR] at file train_gpt2.cu:265: out of memory"),
    ("failures/llmc_assert_abort.log", [("assertion", 1), ("aborted", 3)], "train_gpt2cu: train_gpt2.cu:1518: int m"),
    (
        "failures/slurm_cuda_oom_with_bash_time.out", [("traceback", 7), ("out_of_memory", 32)],
        "RuntimeError: CUDA out of memory. Tried to allocate 2.93 GiB",
    ),
    (
        "failures/slurm_oom_plink_hyak.txt", [("killed", 189), ("out_of_memory", 190)],
        "/usr/bin/bash: line 1: 52881 Killed python3",
    ),
    ("failures/slurm_longform_timelimit.out", [("time_limit", 8267)], "slurmstepd: error: *** JOB 20942500 ON ng30703"),
    (  # fused with the line of a step
        "training/llmc_cuda/llmc_cuda_nan_timelimit.log", [("time_limit", 168)],
        "step 100/19560 | loss nan (+nanz)| norm nan (+nanz)| lr 8.57e-05 | 3616.slurmstepd: error: *** JOB 11679010",
    ),
    ("training/mllog/mllog_supermicro_retinanet_step_timelimit.txt", [], ""),  # a step's limit; the job succeeded
    ("training/llmc_cuda/llmc_cuda_124M_full_19560.log", [], ""),
    ("training/modded_nanogpt/modded_flexattention.txt", [], ""),  # a source text with assertions
    ("training/fairseq/fairseq_mhmoe_train.log", [], ""),
    (  # three processes, the first through a logger
        "failures/vllm_serve_no_kv_cache_memory.log", [("traceback", 39), ("traceback", 65), ("traceback", 94)],
        "ValueError: No available memory for the cache blocks.",
    ),
    (
        "training/tf_bert/a100_bert_out.stdout",
        [*(("traceback", line) for line in range(150, 211, 10)), ("failed", 256)], "IndexError: list index",
    ),
    (
        "training/megatron/megatron_gpt2_n8_tp4_pp8_slurmcancel.out", [("cancelled", 1560), ("cancelled", 1573)],
        "slurmstepd: error: *** STEP 1809562.0 ON r6i5n1 CANCELLED AT",
    ),
    (
        "training/sambanova/sambanova_bertlarge_logs4_sarora.out",
        [("traceback", 906), ("failed", 915), ("cancelled", 917)], "AssertionError: Expected throughput",
    ),
    ("sites/slurm_time_limit.txt", [("time_limit", 1)], "slurmstepd: error: *** JOB 10763635 ON c0662 CANCELLED"),
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
    "it ends in Traceback (most recent call last):",
    "srun --oom-kill=false ./a.out",
    "it was Killed, Aborted and had a Segmentation fault",
    "reduce the batch if you see CUDA out of memory",
    "throws std::bad_alloc when MemoryError would be right",
    "an exit code: 1 is bad; mpirun exited on signal 9",
    "  exitcode  : 0 (pid: 12)",
    "export NCCL_ASYNC_ERROR_HANDLING=1",
    "node12:1:1 [0] NCCL INFO NET/OFI Plugin: no error",
    "slurmstepd: error: *** STEP 526.13 ON n1 CANCELLED AT 2025-10-07T08:35:19 DUE TO TIME LIMIT ***",
    "MemoryErrors are rare",
    "python: handles 'Cannot allocate memory' well",
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
    log = b"x" * 1_000_000 + b" CUDA out of memory. Tried to allocate 2 GiB " + b"y" * 1_000_000
    [(_, line, message)] = find(log)
    assert line == 1
    assert "CUDA out of memory" in message
    assert len(message) <= 500


def test_a_message_is_one_line_without_control_characters():
    [(_, _, message)] = find(b"MemoryError: \x1b[2J\x07 caf\xe9 \t tab\r\n")
    assert message == "MemoryError: \N{REPLACEMENT CHARACTER} caf\N{REPLACEMENT CHARACTER} tab"


@pytest.mark.parametrize(("line", "kind"), [
    ("Memory cgroup out of memory: Killed process 52881 (python3) total-vm:1kB", "out_of_memory"),
    ("[1234.5] Out of memory: Kill process 52881 (python3) score 900 or sacrifice child", "out_of_memory"),
    ("python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0", "out_of_memory"),
    ("srun: error: node1: task 0: Out Of Memory", "out_of_memory"),
    ("slurmstepd: error: Job 12 exceeded memory limit (5 > 4), being killed", "out_of_memory"),
    ("slurmstepd: error: Step 12.0 on n1: Exceeded job memory limit at some point.", "out_of_memory"),
    ("slurmstepd-node1: error: StepId=6.batch exceeded memory limit (9 > 5), being killed", "out_of_memory"),
    ("slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-21T17:10:12 DUE TO TIME LIMIT ***", "time_limit"),
    ("=>> PBS: job killed: mem 3500kb exceeded limit 2048kb", "out_of_memory"),
    ("=>> PBS: job killed: walltime 14 exceeded limit 5", "time_limit"),
    ("jaxlib.xla_extension.XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying", "out_of_memory"),
    ("ggml_backend_cuda_buffer_type_alloc_buffer: cudaMalloc failed: out of memory", "out_of_memory"),
    ("terminate called after throwing an instance of 'std::bad_alloc'", "out_of_memory"),
    ("/x/job.sh: line 14: 2520 Killed                  ./a.out -n 1", "killed"),
    ("Killed", "killed"),
    ("/x/job.sh: line 3: 12 Segmentation fault      (core dumped) ./a.out", "segmentation_fault"),
    ("Segmentation fault (core dumped)", "segmentation_fault"),
    ("Fatal Python error: Segmentation fault", "segmentation_fault"),
    ("[n1:12345] Signal: Segmentation fault (11)", "segmentation_fault"),
    ("[n1:1:0:1] Caught signal 11 (Segmentation fault: address not mapped to object at address 0x8)",
     "segmentation_fault"),
    ("zsh: segmentation fault  ./a.out", "segmentation_fault"),
    ("srun: error: n1: tasks 0-3,7: Bus error (core dumped)", "bus_error"),
    ("job.sh: line 3: 12 Illegal instruction     (core dumped) ./a.out", "illegal_instruction"),
    ("Aborted (core dumped)", "aborted"),
    ("terminate called after throwing an instance of 'c10::Error'", "aborted"),
    ("MPI_ABORT was invoked on rank 3 in communicator MPI_COMM_WORLD", "aborted"),
    ("model.cu:12: Assertion `t >= 0 && t < n` failed.", "assertion"),
    ("[rank0]:[E321 02:07:08.4 ProcessGroupNCCL.cpp:607] [Rank 0] Watchdog caught collective operation timeout: "
     "WorkNCCL(SeqNum=1, OpType=ALLREDUCE) ran for 600004 milliseconds before timing out.", "nccl_timeout"),
    ("torch.distributed.DistBackendError: NCCL error in: /x/ProcessGroupNCCL.cpp:1691, unhandled cuda error",
     "nccl_error"),
    ("[rank3]: ncclSystemError: System call (e.g. socket, malloc) or external library call failed", "nccl_error"),
    ("[NCCL ERROR] at file train_gpt2.cu:12:", "nccl_error"),
    ("RuntimeError: CUDA error: an illegal memory access was encountered", "cuda_error"),
    ("srun: error: n1: tasks 1-7: Exited with exit code 134", "failed"),
    ("  exitcode  : 1 (pid: 78970)", "failed"),
    ("  exitcode  : -9 (pid: 78970)", "failed"),
    ("E1 api.py:826] failed (exitcode: -9) local_rank: 0 (pid: 1322) of binary: /usr/bin/python", "failed"),
    ("mpirun noticed that process rank 1 with PID 0 on node n1 exited on signal 9 (Killed).", "failed"),
    ("x3006c0s13b1n0: rank 0 exited with code 1", "failed"),
    ("=   EXIT CODE: 9", "failed"),
    ("Command exited with non-zero status 3", "failed"),
    ("train.py: error: unrecognized arguments: --x", "failed"),
    ("slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2021-06-18T13:05:36 DUE TO PREEMPTION ***", "preempted"),
    ("slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2021-06-18T13:05:36 DUE TO NODE FAILURE, SEE SLURMCTLD LOG "
     "FOR DETAILS ***", "node_failure"),
    ("slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2021-06-18T13:05:36 ***", "cancelled"),
    ("srun: error: Node failure on n1", "node_failure"),
])  # fmt: skip
def test_the_ways_in_which_things_fail(line, kind):
    found = find(f"before\n{line}\nafter\n")
    assert (kind, 2) in [(kind, line) for kind, line, _ in found]


def test_a_time_that_was_printed_is_that_of_the_event():
    line = "slurmstepd: error: *** JOB 1 ON n1 CANCELLED AT 2021-06-18T13:05:36 ***"
    assert [each.values["time"] for each in written.read("failures", line)[0]] == [1624021536]


TRACE = """Traceback (most recent call last):
  File "train.py", line 3, in <module>
    main()
  File "train.py", line 2, in main
    raise ValueError(
    ^^^^^^^^^^^^^^^^^
"""


@pytest.mark.parametrize(
    "last", ["ValueError: no data", "KeyboardInterrupt", "queue.Empty", "mine.errors.Odd: because"]
)
def test_the_message_of_a_traceback_is_the_exception(last):
    assert find(f"\n{TRACE}{last}\nCommon: words\n") == [("traceback", 2, last)]


@pytest.mark.parametrize(
    "before", ["[rank0]: ", "0: ", "(EngineCore pid=25) ERROR 08-18 02:57:12 [core.py:1231] ", "    "]
)
def test_what_stands_before_every_line_of_a_traceback_is_left_out(before):
    text = "".join(f"{before}{line}\n" for line in f"{TRACE}ValueError: no data".splitlines())
    assert find(text.replace("02:57:12", "02:57:13", 3)) == [("traceback", 1, "ValueError: no data")]


def test_lines_of_other_ranks_may_stand_within_a_traceback():
    lines = f"{TRACE}ValueError: no data".splitlines()
    text = "".join(f"[rank0]: {line}\n[rank1]: step 3 Odd: thing\n" for line in lines)
    assert find(text) == [("traceback", 1, "ValueError: no data")]


def test_a_traceback_that_was_cut_is_one_all_the_same():
    assert find(TRACE) == [("traceback", 1, "Traceback (most recent call last):")]


def test_mpirun_names_the_process_and_its_exit_code():
    text = "The first process to do so was:\n\n  Process name: [[11051,1],4]\n  Exit code:    3\n"
    assert find(text) == [("failed", 4, "Process name: [[11051,1],4], Exit code: 3")]
    assert find(text.replace("3\n", "0\n")) == []


def test_how_the_tasks_of_a_step_ended_that_reached_its_own_limit_is_no_failure():
    text = "srun: error: n1: tasks 1-7: Exited with exit code 134\n"
    text += "slurmstepd: error: *** STEP 5.1 ON n1 CANCELLED AT 2025-10-07T08:35:19 DUE TO TIME LIMIT ***\n"
    assert find(text) == []
    assert [kind for kind, _, _ in find(text.replace("STEP 5.1", "JOB 5"))] == ["failed", "time_limit"]
