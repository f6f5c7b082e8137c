import math
import re
from datetime import datetime, timezone
from pathlib import PurePosixPath
from statistics import fmean

import pytest

import hpcbench
from hpcbench.formats import all_formats, own
from hpcbench.parse.content import read_bytes, records

NAN = math.nan  # a number that must be missing
KEYS = {"counters": "name", "events": "kind", "jobs": "job", "evals": "metric", "samples": "device"}
FAILURES = {
    "aborted", "assertion", "bus_error", "cancelled", "cuda_error", "failed", "illegal_instruction", "killed",
    "nan_loss", "nccl_error", "nccl_timeout", "node_failure", "out_of_memory", "preempted", "segmentation_fault",
    "time_limit", "traceback",
}  # fmt: skip


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc).timestamp()


def near(number):
    return pytest.approx(number, rel=1e-12)


# What SOURCES.md names of each file, and what the file itself says: file, formats in the order of their first line,
# expectations. One of these is a table and its number of rows, or a table, which row, and what that holds. Which: a
# number, the row's key (see KEYS), the key and a number, columns that tell it, or max or fmean over all rows. Of events
# by kind a number counts them and a tuple has the line of each; a file without a failure here must give none.
CORPUS = [
    ("failures/llmc_assert_abort.log", (), [("steps", 0), ("events", "assertion", (1,)), ("events", "aborted", (3,))]),
    ("failures/llmc_cuda_oom.log", ("llmc-cuda",), [("steps", 0), ("events", "out_of_memory", (62,))]),
    ("failures/slurm_cuda_oom_with_bash_time.out", ("time",), [
        ("events", "out_of_memory", (32,)), ("events", "traceback", (7,)), ("counters", 3),
        ("counters", "wall_time", 56.895), ("counters", "user_time", 11.272), ("counters", "system_time", 6.233)]),
    ("failures/slurm_longform_timelimit.out", (), [
        ("events", "time_limit", (8267,)), ("events", "time_limit", {"time": at("2023-09-11T21:25:45")})]),
    ("failures/slurm_oom_plink_hyak.txt", (), [("events", "killed", (189,)), ("events", "out_of_memory", (190,))]),
    ("failures/vllm_serve_no_kv_cache_memory.log", (), [("events", "traceback", (39, 65, 94))]),
    ("inference/aiperf/profile_export_aiperf_wellflat.json", ("aiperf",), [
        ("counters", "requests_per_second", 0.19245648570156926), ("counters", "completed", 100),
        ("counters", "output_tokens_per_second", 54.55756456668085),
        ("counters", "ttft_mean", near(0.08284651240000001)), ("counters", "ttft_p99", near(0.09964934874)),
        ("counters", "latency_mean", near(5.171998897789999)), ("counters", "tpot_mean", near(0.01803231861805396))]),
    ("inference/guidellm/guidellm_benchmarks_stripped.json", ("guidellm",), [
        ("counters", "requests_per_second", 1.5481806532737452), ("counters", "concurrency_mean", 0.9977627456483604),
        ("counters", "duration", 29.997201442718506), ("counters", "completed", 46), ("counters", "failed", 0),
        ("counters", "incomplete", 1), ("requests", 1),
        ("requests", 0, {"status": "completed", "input_tokens": 257, "output_tokens": 128,
                         "ttft": near(0.021281957626342773), "latency": 0.6891846656799316,
                         "started": 1749157168.1827004, "finished": 1749157168.871885})]),
    ("inference/llama_bench/llamabench_md_llama2_7b_radv.log", ("llama-bench",), [
        ("counters", 4),
        ("counters", "tokens_per_second", {"value": 1337.70, "test": "pp512"}),
        ("counters", "tokens_per_second_std", {"value": 0.75, "test": "pp512"}),
        ("counters", ("tokens_per_second", 1), {"value": 55.73, "test": "tg128"}),
        ("counters", ("tokens_per_second_std", 1), {"value": 0.04, "test": "tg128"})]),
    ("inference/llama_bench/llamabench_rx7900xtx_vulkan.txt", ("llama-bench",), [
        ("counters", 12),
        ("counters", ("tokens_per_second", 0), {"value": 3229.07, "test": "pp512", "part": 1}),
        ("counters", ("tokens_per_second", 1), {"value": 150.97, "test": "tg128", "part": 1}),
        ("counters", ("tokens_per_second", 2), {"value": 3290.92, "test": "pp512", "part": 2}),
        ("counters", ("tokens_per_second", 3), {"value": 172.86, "test": "tg128", "part": 2}),
        ("counters", ("tokens_per_second", 4), {"value": 2546.13, "test": "pp512", "part": 3}),
        ("counters", ("tokens_per_second", 5), {"value": 129.80, "test": "tg128", "part": 3})]),
    ("inference/llmperf/llmperf_together_70b.json", ("llmperf",), [
        ("counters", "ttft_mean", 0.622329721273333), ("counters", "latency_per_token_mean", 0.01578128072700586),
        ("counters", "latency_mean", 2.4906428459), ("counters", "max_concurrency", 5),
        ("counters", "request_output_tokens_per_second_mean", 59.88706863756876),
        ("counters", "output_tokens_per_second", 216.45553311958628), ("counters", "completed", 150),
        ("counters", "failed", 0)]),
    ("inference/lm_eval/lmeval_pythia160m_step63000.json", ("lm-eval",), [
        ("evals", 172),
        ("evals", {"subject": "high_school_mathematics", "metric": "acc"},
         {"task": "hendrycksTest", "value": 0.18888888888888888, "stderr": 0.023865318862285326}),
        ("evals", {"subject": "professional_medicine", "metric": "acc_norm"},
         {"value": 0.26838235294117646, "stderr": 0.026917481224377232})]),
    ("inference/mlperf_inference/mlperf_log_detail_resnet50_tf220_offline.txt", ("mlperf-inference-detail",), [
        ("counters", "samples_per_second", 21.0563), ("counters", "valid", 1), ("counters", "errors", 0),
        ("counters", "latency_min", 6.061944390), ("counters", "latency_mean", 14.875703031),
        ("counters", "latency_p90", 23.724530891), ("counters", "samples_per_query", 500)]),
    ("inference/mlperf_inference/mlperf_log_summary_resnet50_tf220_offline.txt", ("mlperf-inference-summary",), [
        ("counters", "samples_per_second", {"value": 21.0563, "scenario": "Offline", "line": 7}),
        ("counters", "valid", 1), ("counters", "latency_mean", 14.875703031),
        ("counters", "latency_p99.9", 23.745810228), ("counters", "samples_per_query", 500),
        ("counters", "target_queries_per_second", 1)]),
    ("inference/ollama/ollama_generate_json_demo.md", ("ollama",), [  # names no eval_duration
        ("requests", 2),
        ("requests", 0, {"input_tokens": 81, "output_tokens": 104, "server_latency": 0.502221716}),
        ("requests", 1, {"input_tokens": 81, "output_tokens": 77, "server_latency": 0.501412829})]),
    ("inference/ollama/ollama_verbose_qwen2.5_7b_4060Ti.md", ("ollama-verbose",), [
        ("requests", 1),
        ("requests", 0, {"server_decode_tokens_per_second": 48.80, "server_prefill_tokens_per_second": 233.77,
                         "server_latency": 6.8323566, "server_load_time": 0.0190565, "server_prefill_time": 0.154,
                         "server_decode_time": 6.394, "input_tokens": 36, "output_tokens": 312})]),
    ("inference/pnookala_metis_curl_time.md", ("sambanova-usage", "zsh-time"), [
        ("requests", 2),
        ("requests", 0, {"output_tokens": 128, "server_output_tokens_per_second": 208.6463763362214,
                         "server_ttft": 0.16283941268920898, "server_latency": 0.6134781837463379}),
        ("requests", 1, {"output_tokens": 95, "server_output_tokens_per_second": 427.9359651515705,
                         "server_ttft": 0.06494784355163574, "server_latency": 0.22199583053588867}),
        ("counters", ("wall_time", 0), 1.369), ("counters", ("wall_time", 1), 1.030)]),
    ("inference/sglang/sglang_pd_local.jsonl", ("sglang-bench-jsonl",), [
        ("counters", "completed", 200), ("counters", "requests_per_second", 22.49436306687912),
        ("counters", "output_tokens_per_second", 4831.451771319632),
        ("counters", "ttft_mean", near(1.7525851068040356)), ("counters", "ttft_p99", near(1.782903974885121)),
        ("counters", "duration", 8.891116383485496), ("counters", "request_rate", NAN)]),  # Infinity: without limit
    ("inference/vllm_console/vllm_bench_h100_minimax_i512_o256.log", ("vllm-bench",), [
        ("counters", 23), ("counters", "completed", 1000), ("counters", "failed", 0),
        ("counters", "requests_per_second", 3.06), ("counters", "output_tokens_per_second", 782.80),
        ("counters", "ttft_mean", 0.12534), ("counters", "chunk_gap_p99", 0.01091), ("counters", "duration", 327.03)]),
    ("inference/vllm_json/vllm_bench_serve_all_failed.json", ("vllm-bench-json",), [
        ("counters", "completed", 0), ("counters", "failed", 8), ("counters", "requests_per_second", 0),
        ("counters", "ttft_mean", NAN), ("counters", "tpot_mean", NAN),  # it writes 0 for the mean of no request
        ("events", "failed", (1,))]),
    ("inference/vllm_json/vllm_bench_serve_v0.25.1_opt125m.json", ("vllm-bench-json",), [
        ("counters", "completed", 8), ("counters", "requests_per_second", 5.180810671273421),
        ("counters", "output_tokens_per_second", 82.89297074037474), ("counters", "request_rate", NAN),
        ("counters", "ttft_mean", near(0.21553594200008774)), ("counters", "ttft_p99", near(0.7344049174101428))]),
    ("excerpts/aiperf_profile_exports.md", (), []),
    ("excerpts/alcf_megatron_deepspeed_README.md", ("deepspeed", "megatron"), [
        ("steps", 14), ("steps", {"loss": 11.17136}, {"line": 660, "step": 1, "step_time": 25.8491}),
        ("steps", {"line": 476}, {"step": 1, "skipped_steps": 0, "lr": 1.887433467970254e-08}),
        ("steps", {"line": 1128}, {"step": 200, "skipped_steps": 4, "lr": 0.000240653265864008}),
        ("steps", -1, {"line": 1130, "step": 200, "loss": 5.897035, "step_time": 14.5414, "lr": 2.407e-4,
                       "samples_per_second": 52.815, "tokens_per_second_per_device": 1126.713, "samples": 153600}),
        ("events", "traceback", {"line": 1139})]),
    ("excerpts/bloom_176B_chronicles.md", ("megatron", "gnu-time"), [
        ("steps", 18), ("steps", 0, {"step": 12695, "step_time": 105.22, "loss": 2.463556, "grad_norm": 0.174}),
        ("steps", {"step": 31218}, {"line": 206, "grad_norm": 145.119, "loss": 2.345279, "step_time": 107.53}),
        ("steps", {"step": 42784}, {"line": 269, "step_time": 111.14}),
        ("steps", -1, {"step": 45000, "step_time": 111.00, "loss": 2.113567, "lr": 4.298e-05}),
        ("counters", "wall_time", near(47 * 60 + 55.47)), ("counters", "user_time", 9864.93),
        ("counters", "max_memory", 65719976 * 1024), ("counters", "exit_status", 0),
        ("events", "aborted", (82,)), ("events", "cuda_error", (83,))]),
    ("excerpts/llamacpp_rpc_perf_context_print.md", ("llama-bench", "llama-cpp"), [
        ("counters", 45), ("counters", "tokens_per_second", {"value": 404.67, "test": "pp512"}),
        ("counters", ("tokens_per_second", -1), {"value": 6.66, "line": 272, "test": "tg128"}),
        ("counters", "load_time", {"value": 760.22815, "line": 204}), ("counters", "duration", 840.39042),
        ("counters", "total_tokens", 642), ("counters", "decoded_tokens", 641), ("events", "aborted", (326,))]),
    ("excerpts/llmc_README_cpu_output.md", ("llmc-cpu",), [
        ("steps", 5), ("evals", 2), ("evals", 0, {"value": 5.252026, "step": 0}), ("evals", 1, {"value": 4.107781}),
        ("steps", 0, {"step": 0, "loss": 5.356189, "step_time": 1.452121}),
        ("steps", -1, {"step": 39, "loss": 3.970751, "step_time": 1.323779})]),
    ("excerpts/maxtext_logs_guide.md", ("maxtext",), [
        ("steps", 13), ("steps", 0, {"step": 0, "step_time": 44.923, "loss": 12.038}),
        ("steps", -1, {"step": 9, "step_time": 5.669, "loss": 9.580, "flops_per_second_per_device": 134.884e12,
                       "tokens_per_second_per_device": 8670.184, "total_weights": 155934})]),
    ("excerpts/opt175b_56_percent_update.md", (), []),
    ("excerpts/pbs_qstat_f_barnacle.txt", ("pbs-qstat-full",), [
        ("jobs", 1), ("jobs", "522083.barnacle.ucsd.edu", {
            "elapsed": 14, "max_memory": 3500 * 1024, "state": "C", "queue": "short4gb"})]),
    ("excerpts/scontrol_show_job_failed.txt", ("slurm-scontrol",), [
        ("jobs", 1), ("events", "failed", (3,)),
        ("jobs", 0, {"state": "FAILED", "exit_status": 1, "elapsed": 0, "nodes": 1, "cores": 2, "queue": "compute",
                     "started": at("2018-11-01T14:54:03"), "ended": at("2018-11-01T14:54:03")})]),
    ("excerpts/tgi_benchmark_table.md", ("tgi-benchmark",), [
        ("counters", 51), ("counters", "prefill_time_mean", {"value": 0.04207, "batch_size": 1}),
        ("counters", ("prefill_time_mean", -1), {"value": 0.04224, "batch_size": 32}),
        ("counters", "decode_step_time_mean", {"value": 0.02803, "batch_size": 1}),
        ("counters", {"name": "decode_step_time_mean", "batch_size": 2}, NAN),
        ("counters", {"name": "decode_step_time_max", "batch_size": 2}, 0.02805),
        ("counters", {"name": "decode_step_time_p99", "batch_size": 4}, 0.02811)]),
    ("excerpts/torchtitan_pr1287_rank0_gc_lines.txt", ("torchtitan",), [
        ("steps", 6), ("steps", 0, {"step": 200, "loss": 6.1384, "tokens_per_second_per_device": 5856}),
        ("steps", -1, {"step": 250, "loss": 5.8383, "tokens_per_second_per_device": 5862, "mfu": 0.3433, "rank": 0,
                       "grad_norm": NAN, "max_device_memory": near(49.66 * 2**30)})]),
    ("excerpts/torchtitan_pr3393_rank0.txt", ("torchtitan",), [
        ("steps", 8), ("steps", 0, {"step": 14, "loss": 3.24405, "grad_norm": 0.8319}),
        ("steps", -1, {"step": 21, "loss": 3.00867, "tokens_per_second_per_device": 7304, "mfu": 0.0017, "rank": 0})]),
    ("excerpts/vllm_bench_pr18566_console.txt", ("vllm-bench",), [
        ("counters", 16), ("counters", "requests_per_second", 32.42), ("counters", "output_tokens_per_second", 6582.87),
        ("counters", "ttft_mean", 9.62613), ("counters", "chunk_gap_p99", 0.21435), ("counters", "completed", 1000)]),
    ("system/bash_time_clean.out", ("time",), [
        ("counters", 3),
        ("counters", "wall_time", 3.918), ("counters", "user_time", 2.618), ("counters", "system_time", 0.477)]),
    ("system/cobalt_10060996.cobaltlog", ("cobalt",), [
        ("jobs", 1), ("jobs", "10060996", {"queue": "single-gpu", "nodes": 1, "submitted": at("2022-03-04T19:30:02"),
                                           "started": at("2022-03-04T19:30:17")}),
        ("events", "cancelled", (25,)), ("events", "cancelled", {"time": at("2022-03-04T19:35:06")})]),
    ("system/macos_time_l_output.txt", ("bsd-time",), [
        ("counters", "wall_time", 0.08), ("counters", "user_time", 0.07), ("counters", "max_memory", 40075264),
        ("counters", "instructions", 983440026), ("counters", "cycles", 268138965)]),
    ("system/nvidia_smi/gpu_log_rtx4090.csv", ("nvidia-smi",), [
        ("samples", 2619), ("samples", max, {"memory_used": 18141 * 2**20}),
        ("samples", fmean, {"utilization": near(217344 / 2619 / 100)}),
        ("samples", 0, {"utilization": 0.01, "memory_used": 1129 * 2**20, "power": 33.09,
                        "device": "NVIDIA GeForce RTX 4090", "time": at("2026-01-03 15:36:53.507")}),
        ("samples", -1, {"utilization": 0.03, "memory_used": 1141 * 2**20, "power": 34.15})]),
    ("system/nvidia_smi/nvidia_smi_flame.csv", ("nvidia-smi",), [
        ("samples", 73), ("samples", 0, {"power": 22.89, "time": at("2024-10-30 18:42:33.189")}),
        ("samples", -1, {"power": 22.63, "time": at("2024-10-30 18:42:36.813")})]),
    ("system/perf_stat/perf_stat_598APE.txt", ("perf-stat",), [
        ("counters", "task-clock", 18.00370), ("counters", "instructions", 140122007951),
        ("counters", "wall_time", 18.005087828), ("counters", "user_time", 18.004352),
        ("counters", "branch-misses", 13608081)]),
    ("system/perf_stat/perf_stat_tiledmatmul_commalocale_hybrid.txt", ("perf-stat",), [
        ("counters", 26), ("counters", "task-clock", 1.10101), ("counters", "cpu_core/cycles/", 4963414681),
        ("counters", "cpu_atom/cycles/", 3642649330), ("counters", "wall_time", 1.101976138),
        ("counters", "system_time", 0.078992)]),
    ("system/perf_stat/perf_stat_two_sum.txt", ("perf-stat",), [
        ("counters", 48),
        ("counters", "task-clock", 60.24387), ("counters", "instructions", 374205673499),
        ("counters", "wall_time", 60.248690210), ("counters", ("instructions", 1), 157923601609),
        ("counters", ("task-clock", 2), 8.55633), ("counters", ("wall_time", 2), 8.557783540)]),
    ("system/slurm/sacct_hyak.txt", ("slurm-sacct",), [
        ("jobs", 2292), ("events", "time_limit", 15), ("events", "failed", 51), ("events", "cancelled", 17),
        ("jobs", "16290213", {"state": "TIMEOUT", "name": "seq_cmaes", "cores": 30, "line": 6}),
        ("jobs", ("16290213", 1), {"state": "CANCELLED", "step": "batch", "signal": 15, "line": 7}),
        ("jobs", "16312549", {"state": "FAILED", "exit_status": 1, "line": 33}),
        ("jobs", "16312613", {"state": "COMPLETED", "exit_status": 0, "cores": 40}),
        ("jobs", "16321582", {"state": "CANCELLED", "line": 63}),
        ("jobs", 0, {"job": "16261988", "state": "RUNNING"})]),
    ("training/cerebras/cerebras_bertlarge_b512_sarora_mytest.log", ("cerebras",), [
        ("steps", 10), ("steps", 0, {"step": 100, "loss": 9.39062, "samples_per_second": 535.43}),
        ("steps", -1, {"step": 1000, "loss": 7.125, "samples_per_second": 1265.96, "mean_samples_per_second": 1199.57,
                       "time": at("2024-04-08 04:38:25.489")}),
        ("counters", "samples", 512000), ("counters", "processed_time", 426.819169997), ("jobs", 2),
        ("jobs", "wsjob-fhinsqdwzqebojjzgbkwgn", {"name": "execute"}), ("events", "completed", (87,))]),
    ("training/cerebras/cerebras_gpt2_2024_README.md", ("cerebras",), [
        ("steps", 112), ("jobs", 2), ("steps", -1, {
            "step": 11200, "loss": 3.32812, "samples_per_second": 493.04, "mean_samples_per_second": 494.08})]),
    ("training/cerebras/cerebras_llama2_7b_2024_README.md", ("cerebras",), [
        ("steps", 16), ("jobs", 2), ("steps", -1, {
            "step": 1600, "loss": 5.85938, "samples_per_second": 20.44, "mean_samples_per_second": 20.45})]),
    (
        "training/cerebras/cerebras_sambanova_homework7_kharelb.md",
        ("cerebras", "graphcore", "groqflow", "sambanova-bert"), [
            ("steps", 20 + 184), ("steps", {"line": 48}, {"step": 100, "loss": 9.39062, "samples_per_second": 2983.97}),
            ("steps", {"line": 102}, {"step": 1000, "loss": 7.14844, "samples_per_second": 6715.34,
                                      "mean_samples_per_second": 6727.92}),
            ("steps", {"line": 615}, {"step": 505, "loss": 8.28232, "lr": 7.06e-06}), ("jobs", 3),
            ("counters", "samples", 512000), ("counters", ("samples", 1), 2048000),
            ("counters", "groq_end_to_end_latency", 0.00005), ("counters", "cpu_end_to_end_latency", 0.00223),
            ("counters", "training_samples_per_second", 3889.197319101485), ("counters", "wall_time", 486),
            ("evals", {"line": 142}, {"metric": "accuracy", "value": 0.9872}),
            ("evals", {"subject": "groq"}, {"value": 0.7747, "line": 166}),
            ("events", "cancelled", (670,)), ("events", "cancelled", {"time": at("2024-04-06T18:35:22")}),
            ("events", "traceback", (659,)), ("events", "failed", (668,)), ("events", "killed", (672,))],
    ),
    ("training/deepspeed/ds_pipeline_parallel_console.txt", ("deepspeed",), [
        ("steps", 41), ("steps", -2, {"step": 200, "skipped_steps": 0, "lr": 0.001}),
        ("steps", -1, {"step": 200, "loss": 1.5927, "step_time": 0.332, "samples_per_second": 771.709})]),
    ("training/deepspeed/hf_ds_gpt2_n16.out", ("deepspeed", "hf-trainer"), [
        ("steps", 3), ("steps", 0, {"step": 0, "skipped_steps": 0, "lr": 5e-05, "line": 333}),
        ("counters", 3 * 16), ("counters", "train_runtime", 273.0148), ("counters", ("train_runtime", 15), 273.0149),
        ("counters", ("train_samples_per_second", 15), 3.663), ("counters", ("train_runtime", 8), 272.9369)]),
    ("training/fairseq/fairseq_mhmoe_train.log", ("fairseq",), [
        ("steps", 340), ("steps", -1, {"step": 17000, "loss": 0.091, "tokens_per_second": 123320, "lr": 0.000566708,
                                       "grad_norm": 0.005, "time": at("2023-06-29 14:51:45"), "line": 913})]),
    ("training/hf_trainer/aigoncharov_trainer_state.json", ("hf-trainer-state",), [
        ("steps", 30), ("evals", 186 * 2),
        ("steps", -1, {"step": 12030, "epoch": 30, "loss": 0.0549, "grad_norm": 1.7071932554244995}),
        ("evals", ("accuracy", -1), {"subject": "g5", "step": 12030, "epoch": 30, "value": 0.2518703241895262}),
        ("evals", ("loss", -1), {"subject": "g5", "step": 12030, "epoch": 30, "value": 4.835134983062744})]),
    ("training/hf_trainer/hf_cpt_console.txt", ("hf-trainer",), [
        ("steps", 10), ("steps", -1, {"loss": 0.2645, "epoch": 9.11, "lr": 1.7850637522768672e-06}),
        ("counters", "train_runtime", 64358.151), ("counters", "train_samples_per_second", 0.511),
        ("counters", "train_loss", 0.4479398911550831), ("evals", 10 * 5),
        ("evals", ("loss", -1), {"value": 0.4916660189628601, "epoch": 10})]),
    ("training/hf_trainer/jaong_cpt/all_results.json", ("hf-results",), [
        ("counters", 5), ("counters", "train_loss", 0.4479398911550831), ("counters", "train_runtime", 64358.151),
        ("counters", "train_samples", 3290), ("counters", "train_samples_per_second", 0.511)]),
    ("training/hf_trainer/jaong_cpt/train_results.json", ("hf-results",), [
        ("counters", 5), ("counters", "train_loss", 0.4479398911550831), ("counters", "train_runtime", 64358.151),
        ("counters", "train_samples", 3290), ("counters", "train_samples_per_second", 0.511)]),
    ("training/hf_trainer/jaong_cpt/trainer_state.json", ("hf-trainer-state",), [
        ("steps", 10), ("evals", 20 * 5), ("steps", -1, {"step": 5000, "epoch": 9.11, "loss": 0.2645}),
        ("evals", {"task": "validation", "epoch": 10, "metric": "loss"}, {"step": 5490, "value": 0.4916660189628601}),
        ("evals", {"task": "prediction", "epoch": 10, "metric": "loss"}, {"value": 0.4661196768283844}),
        ("counters", "train_runtime", 64358.151), ("counters", "train_loss", 0.4479398911550831)]),
    ("training/keras/keras_kanji_model_log.txt", ("keras",), [
        ("epochs", 66), ("epochs", -1, {"epoch": 14, "loss": 0.0455, "duration": 274, "validation_loss": NAN}),
        ("evals", -1, {"task": "training", "metric": "accuracy", "value": 0.9854, "epoch": 14}),
        ("events", "early_stopping", 2)]),
    ("training/keras/keras_verbose2_0508_results.txt", ("keras",), [
        ("epochs", 329), ("evals", 2 * 329),
        ("epochs", -1, {"epoch": 14, "loss": 0.7125, "validation_loss": 1.7588, "duration": 141}),
        ("evals", -2, {"task": "training", "metric": "accuracy", "value": 0.7906, "epoch": 14}),
        ("evals", -1, {"task": "validation", "metric": "accuracy", "value": 0.5495, "epoch": 14})]),
    ("training/lightning/slm_v8_metrics.csv", ("lightning-csv",), [
        ("steps", 1511), ("steps", -1, {"step": 75549, "loss": 4.575737476348877, "perplexity": 97.09961700439453})]),
    ("training/lightning/xkv_metrics.csv", ("lightning-csv",), [
        ("steps", 2), ("steps", -1, {"step": 19, "epoch": 0, "loss": 6.386987686157227, "mae": 0.9867267608642578})]),
    ("training/llmc_cuda/llmc_cuda_124M_full_19560.log", ("llmc-cuda",), [
        ("steps", 13043), ("evals", 54 + 53),
        ("steps", -1, {"step": 19560, "loss": 3.253402, "grad_norm": 0.2241, "lr": 0, "step_time": 4.36824,
                       "mfu": 0.309, "tokens_per_second": 122878}),
        ("evals", ("loss", -1), {"value": 3.264775, "line": 13230}),
        ("evals", ("accuracy", -1), {"value": 0.304621, "correct": 3059, "count": 10042, "step": 19560})]),
    ("training/llmc_cuda/llmc_cuda_nan_timelimit.log", ("llmc-cuda",), [
        ("steps", 99), ("steps", 0, {"step": 1, "loss": NAN, "step_time": 3.99472}),
        ("steps", -1, {"step": 99, "loss": NAN, "grad_norm": NAN, "step_time": 3.61367, "mfu": 0.374}),
        ("events", "nan_loss", (69,)), ("events", "time_limit", (168,)),
        ("events", "time_limit", {"time": at("2024-10-10T18:59:58")})]),
    ("training/llmc_mainlog/llmc_main_siddanth.log", ("llmc-main-log",), [
        ("steps", 19552), ("steps", -1, {"step": 19551, "loss": 3.2813, "lr": 0, "grad_norm": 0.23}), ("evals", 159),
        ("evals", ("loss", -1), {"step": 19552, "value": 3.2731}),
        ("evals", ("accuracy", -1), {"task": "hellaswag", "step": 19552, "value": 0.3054})]),
    ("training/llmc_mainlog/s_tel_only_medium.log", ("llmc-main-log",), [
        ("steps", 0), ("evals", 241), ("evals", -1, {"step": 60000, "value": 2.9282})]),
    ("training/megatron/megatron_ds3d_n16_dsoff.out", ("megatron",), [
        ("steps", 62), ("steps", -1, {"step": 62, "samples": 63488, "step_time": 125.2478, "loss": 20.43871,
                                      "loss_scale": 12, "grad_norm": 8.017, "flops_per_second_per_device": NAN})]),
    ("training/megatron/megatron_gpt2_n8_tp4_pp8_slurmcancel.out", ("megatron",), [
        ("steps", 20), ("steps", -1, {"step": 200, "step_time": 1.6172, "loss": 7.534106, "grad_norm": 4.197}),
        ("evals", ("loss", -1), {"step": 200, "value": 7.645013}),
        ("evals", ("perplexity", -1), {"step": 200, "value": 2090.196}),
        ("events", "cancelled", (1560, 1573)), ("events", "cancelled", {"time": at("2021-05-23T08:29:53")})]),
    ("training/mllog/mllog_amd_mi350x_llama31_8b_result2.txt", ("mllog",), [
        ("evals", 16), ("evals", -1, {"metric": "eval_accuracy", "value": 3.2730205059051514, "samples": 196576}),
        ("counters", "time_to_train", 8087.535), ("events", "finished", (140,)),
        ("steps", -1, {"step": 196608, "samples_per_second": 24.982641767883106})]),
    ("training/mllog/mllog_supermicro_retinanet_step_timelimit.txt", ("mllog",), [
        ("steps", -1, {"step": 5, "samples_per_second": 3903.0091620997932}), ("events", "finished", (1213,)),
        ("evals", 4), ("evals", -1, {"epoch": 4, "value": 0.3452189127798534})]),  # no failure: it had ended well
    ("training/modded_nanogpt/modded_flexattention.txt", ("modded-nanogpt",), [
        ("steps", 1875), ("evals", 16), ("steps", -1, {"step": 1875, "loss": 3.3139, "elapsed": 301.784}),
        ("evals", -1, {"step": 1875, "value": 3.2783, "elapsed": 301.825, "mean_step_time": 0.16184})]),
    ("training/nanogpt/nanogpt_char_cpu_nan.log", ("nanogpt",), [
        ("steps", 91), ("steps", 0, {"step": 0, "loss": 4.2709, "step_time": 10.26808, "mfu": NAN, "evaluates": True}),
        ("steps", {"step": 420}, {"loss": 3.5023, "mfu": 0.0001}), ("steps", {"step": 425}, {"loss": NAN}),
        ("steps", -1, {"step": 450, "loss": NAN, "step_time": 1.44008}), ("events", "nan_loss", (104,)),
        ("evals", -1, {"task": "validation", "step": 400, "value": 3.3687})]),
    ("training/other/graphcore_mnist_b8_e10_sarora.out", ("graphcore",), [
        ("steps", 10 * 150), ("steps", 0, {"loss": 2.2961, "accuracy": 0.15, "epoch": 1}), ("epochs", 10),
        ("steps", -1, {"loss": 1.4862, "accuracy": 0.975, "epoch": 10}), ("epochs", -1, {"epoch": 10, "elapsed": 114}),
        ("evals", -1, {"metric": "accuracy", "value": 0.9785, "line": 2419})]),
    ("training/other/groq_bert_tiny_custom_sarora.out", ("groqflow",), [
        ("counters", 6), ("counters", "cpu_end_to_end_latency", 0.0041),
        ("counters", "cpu_end_to_end_inferences_per_second", 243.63),
        ("counters", "groq_end_to_end_latency", 0.00008),
        ("counters", "groq_end_to_end_inferences_per_second", 12762.62),
        ("counters", "groq_on_chip_latency", 0.00004),
        ("counters", "groq_on_chip_inferences_per_second", 23391.20),
        ("evals", {"subject": "cpu"}, {"value": 0.7747}), ("evals", {"subject": "groq"}, {"value": 0.7747})]),
    ("training/rank_json/kortemaki_2rank/config.json", (), []),
    ("training/rank_json/kortemaki_2rank/rank*_results_epoch*.json", ("rank-results",), [
        ("epochs", 2 * 10),
        ("epochs", {"rank": 0, "epoch": 1}, {"duration": 27.076265573501587, "tokens_per_second": 82900.48008784461,
                                             "validation_loss": 5.928079545497894, "bleu": 1.2964413526760543}),
        ("epochs", {"rank": 1, "epoch": 1}, {"duration": 24.840542316436768, "tokens_per_second": 82697.63364045913,
                                             "validation_loss": 5.928079545497894}),
        ("epochs", {"rank": 0, "epoch": 9}, {"duration": 26.08042001724243, "tokens_per_second": 82757.56847430373}),
        ("epochs", {"rank": 1, "epoch": 9}, {"duration": 24.91656494140625, "bleu": 5.402902270903659})]),
    ("training/sambanova/sambanova_bertlarge_compile_base.out", ("sambanova",), [
        ("counters", "wall_time", {"value": 781, "line": 1785}), ("steps", 0), ("events", "compile_end", (1522,))]),
    ("training/sambanova/sambanova_bertlarge_logs4_sarora.out", ("sambanova", "sambanova-bert"), [
        ("steps", 505), ("steps", 0, {"step": 1, "loss": 11.18015, "lr": 0}),
        ("steps", -1, {"step": 505, "loss": 8.32533, "masked_lm_loss": 7.7035, "lr": 7.06e-06, "line": 892}),
        ("counters", "training_samples_per_second", 1198.1254408449947),
        ("counters", "end_to_end_train_time", 431.60756158828735), ("counters", "final_loss", 8.350910186767578),
        ("events", "traceback", (906,)), ("events", "failed", (915,)), ("events", "cancelled", (917,)),
        ("events", "cancelled", {"time": at("2024-04-07T10:36:10")})]),
    ("training/sambanova/sambanova_starter_slurm.out", ("sambanova",), [
        ("evals", 2 * 8), ("evals", "accuracy", {"value": 0.8986, "line": 51}), ("evals", "loss", {"value": 0.3443}),
        ("evals", ("accuracy", -1), {"value": 0.8923}), ("evals", ("loss", -1), {"value": 0.3676, "line": 58}),
        ("events", "compile_end", (14,)), ("events", "failed", (60, 62, 64, 66, 68, 70, 72, 74))]),
    ("training/tf_bert/a100_bert_dllogger.json", (), []),  # the units of what it would have measured
    ("training/tf_bert/a100_bert_out.stdout", (), [
        ("events", "failed", (256,)), ("events", "traceback", (150, 160, 170, 180, 190, 200, 210))]),
    ("sites/alcf_batch_result.json.txt", ("alcf-batch",), [
        ("counters", "duration", 27837.440138816833), ("counters", "total_tokens_per_second", 3899.833442250346),
        ("counters", "total_tokens", 108561380), ("counters", "completed", 99985), ("counters", "requests", 100000)]),
    ("sites/bash_time_local.txt", ("time",), [
        ("counters", 3),
        ("counters", "wall_time", 4.442), ("counters", "user_time", 2.396), ("counters", "system_time", 0.011)]),
    ("sites/cerebras_bert_eval_lines.log", ("cerebras",), [
        ("evals", 7), ("evals", 2, {"step": 1000, "batch": 220, "value": 6.98112, "samples_per_second": 6014.04,
                                    "mean_samples_per_second": 6665.64}),
        ("evals", "loss", {"value": 6.981118208711798, "step": 1000}),
        ("evals", "accuracy_cls", {"value": 0.7051668763160706}),
        ("evals", "accuracy_masked_lm", {"value": 0.13364547491073608}),
        ("evals", "mlm_perplexity", {"value": 701.6852416992188}),
        ("counters", "samples", 3720000), ("counters", "processed_time", 1017.47348681)]),
    ("sites/cerebras_esm2_progressbars.log", ("cerebras",), [
        ("steps", 4), ("steps", -1, {"step": 400, "loss": 5.03271, "samples_per_second": 974.58,
                                     "mean_samples_per_second": 989.11}),
        ("counters", "samples", 819200), ("counters", "processed_time", 4049.286902367),
        ("events", "checkpoint_start", (15, 20)), ("events", "checkpoint_end", (17, 22))]),
    ("sites/cerebras_gpt3_111m_eval_and_jobids.log", ("cerebras",), [
        ("evals", 8), ("evals", 4, {"step": 400, "batch": 100, "value": 5.92817, "samples_per_second": 1172.36}),
        ("evals", "loss", {"value": 5.928174624443054}), ("evals", "lm_perplexity", {"value": 375.4686584472656}),
        ("evals", "accuracy", {"value": 0.16977091133594513}), ("counters", "samples", 48000), ("jobs", 3),
        ("jobs", "wsjob-acxb4mqan53ppiffvdaafq", {"name": "compile"}),
        ("jobs", "wsjob-uttzzftdpppygmvqspykpr", {"name": "execute"})]),
    ("sites/cerebras_gptj_timeremaining_gt.log", ("cerebras",), [
        ("steps", 4), ("steps", -1, {"step": 200, "loss": 8.01509, "samples_per_second": 44.77,
                                     "mean_samples_per_second": 44.75}),
        ("counters", "samples", 24000), ("counters", "processed_time", 1443.67300221)]),
    ("sites/cerebras_llama2_7b_bs1024_cached_compile.log", ("cerebras",), [
        ("steps", 4), ("steps", -1, {"step": 200, "loss": 6.09834, "samples_per_second": 31.97,
                                     "mean_samples_per_second": 31.99, "time": at("2025-10-13 16:40:05.444")}),
        ("counters", "samples", 204800), ("counters", "processed_time", 7303.586917439),
        ("events", "compile_cached", (1,)), ("jobs", "wsjob-kgqvqqxnp9zvpmwulcbxuj", {"name": "execute"})]),
    ("sites/cerebras_llama2_7b_bs128_fresh_compile.log", ("cerebras",), [
        ("steps", 4), ("steps", -1, {"step": 200, "loss": 6.4426, "samples_per_second": 33.24,
                                     "mean_samples_per_second": 32.44}),
        ("counters", "estimated_samples_per_second", 34.1), ("counters", "samples", 25600), ("jobs", 2),
        ("counters", "processed_time", 5389.258144948), ("events", "compile_cached", ()),
        ("events", "compile_end", (48,))]),
    ("sites/cerebras_llama2_7b_bs32_cached_compile.log", ("cerebras",), [
        ("steps", 4), ("steps", -1, {"step": 200, "loss": 7.34266, "samples_per_second": 30.97,
                                     "mean_samples_per_second": 28.51}),
        ("counters", "samples", 6400), ("counters", "processed_time", 1216.494026363)]),
    ("sites/cerebras_llama2_7b_bs512.log", ("cerebras",), [
        ("steps", 4), ("steps", -1, {"step": 200, "loss": 6.32152, "samples_per_second": 33.38,
                                     "mean_samples_per_second": 33.28}),
        ("counters", "samples", 102400), ("counters", "processed_time", 4109.419267056)]),
    ("sites/cerebras_llama3_8b_fitsummary_and_eval.log", ("cerebras",), [  # the last line is cut
        ("steps", 5), ("steps", -1, {"step": 5, "loss": 12.59109, "samples_per_second": 19.42,
                                     "mean_samples_per_second": 19.37, "line": 53}),
        ("events", "compile_cached", (27,)), ("jobs", 2),
        ("jobs", "wsjob-9tfhwpsvhxpcgfzt92rydm", {"name": "compile"})]),
    ("sites/cerebras_peft_import_error.txt", (), []),
    ("sites/cerebras_queueing_2p4.log", ("cerebras",), [
        ("jobs", 1), ("jobs", "wsjob-duhl7jck7hjhbtxdpxvk67", {
            "name": "compile", "submitted": at("2025-07-11 15:28:12.047")}),
        ("events", "queueing", (3,))]),
    ("sites/cerebras_vit_intermediate_ckpt.log", ("cerebras",), [
        ("steps", 20), ("steps", -1, {"step": 200, "loss": 6.72418, "samples_per_second": 3690.48,
                                      "mean_samples_per_second": 776.21}),
        ("counters", "samples", 570000), ("counters", "processed_time", 5447.945427605),
        ("events", "checkpoint_end", 2)]),
    ("sites/csctl_cancel_job.txt", (), []),
    ("sites/csctl_get_jobs.txt", ("cerebras-jobs",), [
        ("jobs", "wsjob-ewhzngfg6rdjhw3s3k2wbh", {"line": 3, "name": "compile", "state": "RUNNING", "elapsed": 720})]),
    ("sites/gnu_time_v_local.txt", ("gnu-time",), [
        ("counters", "wall_time", 0.20), ("counters", "user_time", 0), ("counters", "max_memory", 1780 * 1024),
        ("counters", "minor_page_faults", 97), ("counters", "exit_status", 0)]),
    ("sites/llmc_cpu_train_gpt2_readme.txt", ("llmc-cpu",), [
        ("steps", 5), ("steps", -1, {"step": 39, "loss": 3.970751, "step_time": 1.323779}), ("evals", 2),
        ("evals", -1, {"value": 4.107781, "step": 40})]),
    ("sites/llmc_cpu_train_gpt2_run_tiny.txt", ("llmc-cpu",), [
        ("steps", 41), ("steps", -1, {"step": 40, "loss": 5.525311, "step_time": 0.051307461}), ("evals", 5),
        ("evals", -1, {"value": 5.519736, "step": 40})]),
    ("sites/llmc_cuda_a100_slurm_steps.txt", ("llmc-cuda",), [
        ("steps", 2), ("steps", 0, {"step": 1, "loss": 11.010252, "grad_norm": 15.1374, "tokens_per_second": 111830}),
        ("steps", -1, {"step": 80, "loss": 7.512386, "step_time": 4.18758, "mfu": 0.322, "lr": 6.86e-05})]),
    ("sites/llmc_cuda_train_gpt2cu_a800.txt", ("llmc-cuda",), [
        ("steps", 5), ("steps", -1, {"step": 5, "loss": 10.107232, "step_time": 2.39687, "tokens_per_second": 191497,
                                     "mfu": NAN}),
        ("evals", 1), ("evals", 0, {"value": 11.006021, "line": 64})]),
    ("sites/metis_sophia_homework_stdout.txt", ("endpoint-test",), [
        ("requests", 10), ("requests", 0, {"output_tokens": 50}), ("requests", -1, {"output_tokens": 34}),
        ("counters", "duration", 5.95), ("counters", "output_tokens_per_second", 34.60),
        ("counters", ("duration", 1), 9.99), ("counters", ("output_tokens_per_second", 1), 15.42)]),
    ("sites/pbs_messages.txt", (), []),
    ("sites/pbs_qstat_default.txt", ("pbs-qstat",), [
        ("jobs", 3), ("jobs", 0, {"name": "PDE2", "state": "Q", "queue": "prod"}), ("jobs", 1, {"state": "H"}),
        ("jobs", 2, {"name": "3d-2.sub", "state": "R", "queue": "large"})]),
    ("sites/pbs_qstat_json_jq.txt", ("pbs-qstat-json",), [
        ("jobs", 2), ("jobs", "349710.polaris-pbs-01.hsn.cm.polaris.alcf.anl.gov", {
            "name": "P38", "submitted": at("2022-11-04 11:04:12"), "started": at("2022-11-11 07:52:12")}),
        ("jobs", 1, {"submitted": at("2022-11-10 22:41:55"), "started": at("2022-11-11 09:00:12")})]),
    ("sites/pbs_qstat_was1.txt", ("pbs-qstat",), [
        ("jobs", 4), ("jobs", 0, {"state": "R", "queue": "large", "nodes": 60, "elapsed": 8 * 3600 + 25 * 60}),
        ("jobs", 1, {"state": "Q", "queue": "medium", "nodes": 32, "elapsed": NAN}),
        ("jobs", -1, {"state": "H", "nodes": 464})]),
    ("sites/perf_stat_csv_local.txt", ("perf-stat-separated",), [
        ("counters", 8), ("counters", "task-clock", 1.57123), ("counters", "context-switches", 273),
        ("counters", "page-faults", 890), ("counters", "cycles", NAN), ("counters", "branch-misses", NAN)]),
    ("sites/perf_stat_local.txt", ("perf-stat",), [
        ("counters", 11), ("counters", "task-clock", 2.57547), ("counters", "page-faults", 889),
        ("counters", "instructions", NAN), ("counters", "wall_time", 3.917918562),
        ("counters", "user_time", 2.570467), ("counters", "system_time", 0.00376)]),
    ("sites/sambanova_modelzoo_latency_throughputs.txt", ("sambanova-generation",), [
        ("requests", 1), ("requests", 0, {"ttft": 1.1981, "tpot": 0.3330, "latency": 1.5310})]),
    ("sites/sambanova_sn30_epoch_lines.txt", ("sambanova",), [
        ("steps", 6), ("steps", 0, {"epoch": 1, "step": 10000, "loss": 0.4642}),
        ("steps", -1, {"epoch": 1, "step": 60000, "loss": 0.3553}),
        ("evals", "accuracy", {"value": 0.914}), ("evals", "loss", {"value": 0.3014}),
        ("counters", "train_time", 374.6789753437042),
        ("counters", "end_to_end_samples_per_second", 88.82270474202953)]),
    ("sites/sambanova_sn30_inner_train_loop.txt", ("sambanova",), [
        ("counters", 16), ("counters", "train_time", 36.314290046691895),
        ("counters", "end_to_end_samples_per_second", 563.9653143065),
        ("counters", ("train_time", -1), 25.332663536071777),
        ("counters", ("end_to_end_samples_per_second", -1), 808.442427336472)]),
    ("sites/sambanova_sn30_modelzoo_epoch.txt", ("sambanova",), [
        ("steps", 14), ("steps", 0, {"epoch": 1, "step": 1, "loss": 0.8184}),
        ("steps", -1, {"epoch": 1, "step": 1143, "loss": 0.1626})]),
    ("sites/sambanova_usage_response.json", ("sambanova-usage",), [
        ("requests", 1), ("requests", 0, {
            "input_tokens": 10, "output_tokens": 51, "server_ttft": 0.1313478946685791,
            "server_latency": 0.3774144649505615, "server_output_tokens_per_second": 135.12995588730448})]),
    ("sites/slurm_time_limit.txt", (), [
        ("events", "time_limit", (1,)), ("events", "time_limit", {"time": at("2026-10-02T14:02:37")})]),
    ("sites/time_p_local.txt", ("time",), [
        ("counters", 3),
        ("counters", "wall_time", 0.20), ("counters", "user_time", 0), ("counters", "system_time", 0)]),
]  # fmt: skip


def read(corpus, file):
    """Read a file, or a folder where the name is a pattern: the formats, and the rows of each table."""
    if "*" not in file:
        path = corpus / file
        content = read_bytes(path.read_bytes(), None, path.name)
        tables = {}
        for record in records(content):
            tables.setdefault(record.table, []).append({**record.values, "line": record.line})
        return tuple(content.formats), tables
    folder, pattern = (corpus / file).parent, PurePosixPath(file).name
    metrics = hpcbench.parse(folder)
    sources = [row for row in metrics.sources.to_dict("records") if PurePosixPath(row["path"]).match(pattern)]
    assert len(sources) == len(list(folder.glob(pattern)))
    tables = {name: table.to_dict("records") for name, table in metrics.tables().items()}
    return tuple({row["format"]: None for row in sources}), tables


def missing(value):
    return value is None or (isinstance(value, float) and math.isnan(value))


def same(found, expected):
    return missing(found) if isinstance(expected, float) and math.isnan(expected) else found == expected


def chosen(table, rows, which):
    """Return the row that an expectation is about, or None."""
    if callable(which):
        names = {name for row in rows for name, value in row.items() if not isinstance(value, str)}
        known = {name: [float(row[name]) for row in rows if not missing(row.get(name))] for name in names}
        return {name: which(values) for name, values in known.items() if values}
    if isinstance(which, str):
        which = (which, 0)
    if isinstance(which, tuple):
        rows, which = [row for row in rows if row.get(KEYS[table]) == which[0]], which[1]
    if isinstance(which, dict):
        rows, which = [row for row in rows if all(row.get(name) == value for name, value in which.items())], 0
    return rows[which] if -len(rows) <= which < len(rows) else None


def wrong(tables, expectation):
    """Tell what an expectation finds missing or wrong, one text each."""
    table, *which, expected = expectation
    rows = tables.get(table, [])
    if not which:
        return [] if len(rows) == expected else [f"{table}: expected {expected} rows, found {len(rows)}"]
    name = getattr(which[0], "__name__", which[0])
    if table == "events" and not isinstance(expected, dict):
        lines = tuple(row["line"] for row in rows if row["kind"] == which[0])
        found = len(lines) if isinstance(expected, int) else lines
        return [] if found == expected else [f"events {name}: expected {expected}, found {found}"]
    row = chosen(table, rows, which[0])
    values = expected if isinstance(expected, dict) else {"value": expected}
    if row is None:
        return [f"{table} {name}: missing"] if not all(same(None, value) for value in values.values()) else []
    return [
        f"{table} {name} {column}: expected {value}, found {row.get(column)}"
        for column, value in values.items()
        if not same(row.get(column), value)
    ]


@pytest.mark.parametrize(("file", "formats", "expectations"), CORPUS, ids=[each[0] for each in CORPUS])
def test_a_real_log_gives_what_it_says(corpus, file, formats, expectations):
    found, tables = read(corpus, file)
    errors = [] if found == formats else [f"formats: expected {formats}, found {found}"]
    errors += [text for each in expectations for text in wrong(tables, each)]
    named = {each[1] for each in expectations if each[0] == "events" and len(each) > 2}
    for row in tables.get("events", []):
        if row["kind"] in FAILURES - named:
            errors.append(f"events: {row['kind']} in line {row['line']}, which tells of no failure")
    if not formats and not expectations and tables:
        errors.append(f"expected nothing, found {', '.join(tables)}")
    assert not errors, f"{file}:\n" + "\n".join(errors)


def test_every_file_is_in_the_table(corpus):
    files = {file.relative_to(corpus).as_posix() for file in corpus.rglob("*") if file.is_file()} - {"SOURCES.md"}
    listed = [path.relative_to(corpus).as_posix() for name, *_ in CORPUS for path in corpus.glob(name)]
    assert sorted(files) == sorted(listed)
    assert [name for name, *_ in CORPUS if not list(corpus.glob(name))] == []


def test_every_format_was_seen_in_a_real_file_or_says_what_it_was_written_from():
    seen = {name for _, formats, _ in CORPUS for name in formats}
    excepted = {"failures", *(each.name for each in own.FORMATS)}
    unseen = [name for name, each in all_formats().items() if not each.untried and name not in seen | excepted]
    assert not unseen, f"in no real file, and `untried` does not say what they were written from: {', '.join(unseen)}"


_NUMBER = re.compile(rb"[-+]?\d[\d.,]*(?:[eE][-+]?\d+)?")
_FACTORS = (1, 1e-2, 1e-3, 1e-9, 1024, 2**20)


def numbers(line):
    """Yield what may be the numbers of a line: a comma may part thousands, decimals or columns."""
    for match in _NUMBER.findall(line):
        text = match.decode().strip(".,")
        readings = {text.replace(",", ""), text.replace(",", "."), *text.split(",")}
        if re.fullmatch(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?", text):
            readings.add(text.replace(".", "").replace(",", "."))
        yield from (float(each) for each in readings if each and each.count(".") < 2)


def holds(line, value):
    """Tell whether a line has a number, in some unit, or a word."""
    if isinstance(value, str):
        return value.encode() in line
    return any(math.isclose(value, number * factor, rel_tol=1e-12) for number in numbers(line) for factor in _FACTORS)


# file, table, the column whose number stands in the line of each row
LINES = [
    ("training/cerebras/cerebras_bertlarge_b512_sarora_mytest.log", "steps", "samples_per_second"),
    ("training/cerebras/cerebras_sambanova_homework7_kharelb.md", "steps", "loss"),
    ("sites/cerebras_esm2_progressbars.log", "steps", "loss"),
    ("training/llmc_cuda/llmc_cuda_124M_full_19560.log", "steps", "step_time"),
    ("training/llmc_cuda/llmc_cuda_124M_full_19560.log", "evals", "value"),
    ("training/nanogpt/nanogpt_char_cpu_nan.log", "steps", "step_time"),
    ("training/fairseq/fairseq_mhmoe_train.log", "steps", "tokens_per_second"),
    ("training/hf_trainer/hf_cpt_console.txt", "steps", "grad_norm"),
    ("training/hf_trainer/jaong_cpt/all_results.json", "counters", "value"),
    ("training/keras/keras_verbose2_0508_results.txt", "epochs", "loss"),
    ("training/lightning/slm_v8_metrics.csv", "steps", "loss"),
    ("training/other/graphcore_mnist_b8_e10_sarora.out", "steps", "loss"),
    ("training/sambanova/sambanova_bertlarge_logs4_sarora.out", "steps", "loss"),
    ("training/megatron/megatron_ds3d_n16_dsoff.out", "steps", "step_time"),
    ("training/mllog/mllog_amd_mi350x_llama31_8b_result2.txt", "evals", "value"),
    ("excerpts/torchtitan_pr1287_rank0_gc_lines.txt", "steps", "tokens_per_second_per_device"),
    ("inference/vllm_console/vllm_bench_h100_minimax_i512_o256.log", "counters", "value"),
    ("inference/aiperf/profile_export_aiperf_wellflat.json", "counters", "value"),
    ("inference/lm_eval/lmeval_pythia160m_step63000.json", "evals", "value"),
    ("training/llmc_mainlog/llmc_main_siddanth.log", "steps", "loss"),
    ("inference/llama_bench/llamabench_rx7900xtx_vulkan.txt", "counters", "value"),
    ("system/perf_stat/perf_stat_two_sum.txt", "counters", "value"),
    ("system/perf_stat/perf_stat_tiledmatmul_commalocale_hybrid.txt", "counters", "value"),
    ("system/nvidia_smi/gpu_log_rtx4090.csv", "samples", "memory_used"),
    ("system/slurm/sacct_hyak.txt", "jobs", "job"),
]


@pytest.mark.parametrize(("file", "table", "column"), LINES, ids=[f"{file}-{table}" for file, table, _ in LINES])
def test_every_row_names_the_line_that_holds_its_number(corpus, file, table, column):
    lines = (corpus / file).read_bytes().split(b"\n")
    rows = [row for row in read(corpus, file)[1][table] if not missing(row.get(column))]
    assert rows
    elsewhere = [(row["line"], row[column]) for row in rows if not holds(lines[row["line"] - 1], row[column])]
    assert not elsewhere, f"{len(elsewhere)} of {len(rows)} rows: {elsewhere[:5]}"
