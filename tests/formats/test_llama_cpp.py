import json

import pytest
import written
from said import parameters, records

from hpcbench.analyse.summary import compare
from hpcbench.parse import parse
from hpcbench.parse.content import read_bytes


def speeds(content):
    return [
        (record.line, record.values["test"], record.values["value"])
        for record in records(content)
        if record.table == "counters" and record.values["name"] == "tokens_per_second"
    ]


def test_a_table_is_read(corpus):
    content = read_bytes((corpus / "inference/llama_bench/llamabench_md_llama2_7b_radv.log").read_bytes())
    assert (content.formats, content.unread) == (["llama-bench"], 0)
    assert [record.values for record in records(content) if record.line == 6] == [
        {"name": f"tokens_per_second{end}", "value": value, "unit": "tokens/s", "test": "tg128",
         "model": "llama 7B Q4_0", "backend": "Vulkan", "format": "llama-bench"}
        for end, value in (("", 55.73), ("_std", 0.04))
    ]  # fmt: skip
    assert speeds(content)[0] == (5, "pp512", 1337.7)


def test_the_tables_of_one_file_are_numbered(corpus):
    content = read_bytes((corpus / "inference/llama_bench/llamabench_rx7900xtx_vulkan.txt").read_bytes())
    assert (content.formats, content.unread) == (["llama-bench"], 0)
    assert speeds(content) == [
        (40, "pp512", 3229.07), (41, "tg128", 150.97), (50, "pp512", 3290.92), (51, "tg128", 172.86),
        (61, "pp512", 2546.13), (62, "tg128", 129.80),
    ]  # fmt: skip
    assert [record.values["part"] for record in records(content)] == [1] * 4 + [2] * 4 + [3] * 4


def test_rows_without_a_header_and_the_times_of_a_run_are_read_between_prose(corpus):
    content = read_bytes((corpus / "excerpts/llamacpp_rpc_perf_context_print.md").read_bytes())
    assert (content.formats, content.unread) == (["llama-bench", "llama-cpp"], 0)
    found = records(content)
    assert len([record for record in found if record.values.get("format") == "llama-bench"]) == 40
    assert [
        (record.line, record.values["name"], record.values["value"])
        for record in found
        if record.values.get("format") == "llama-cpp"
    ] == [
        (204, "load_time", 760.22815), (205, "input_tokens", 1), (206, "decoded_tokens", 641),
        (207, "duration", 840.39042), (207, "total_tokens", 642),  # the times that are 0 were not measured
    ]  # fmt: skip


TIMES = """0.15.300.673 I llama_perf_context_print:        load time =    1431.67 ms
llama_print_timings:      sample time =      56.40 ms /   144 runs   (    0.39 ms per token,  2553.37 tokens per second)
common_perf_print: prompt eval time =    1444.25 ms /    47 tokens (   30.73 ms per token,    32.54 tokens per second)
       eval time =    8832.00 ms /   143 runs   (   61.76 ms per token,    16.19 tokens per second)
llama_print_timings:       total time =   10432.50 ms
"""


def test_the_times_of_all_versions_are_read():
    content = read_bytes(TIMES.encode())
    assert (content.formats, content.unread) == (["llama-cpp"], 0)
    assert {record.values["name"]: record.values["value"] for record in records(content)} == {
        "load_time": 1.43167, "sampling_time": 0.0564, "prefill_time": 1.44425, "input_tokens": 47,
        "prefill_tokens_per_second": 32.54, "decode_time": 8.832, "decoded_tokens": 143,
        "decode_tokens_per_second": 16.19, "duration": 10.4325,
    }  # fmt: skip


@pytest.mark.parametrize(("name", "line"), [
    ("llama-cpp", "llama_perf_context_print: eval time = 8832.02 ms / 143 runs ( 61.76 ms per token, 16.19 tok"),
    ("llama-cpp", "llama_perf_context_print: eval time = 8832,02 ms / 143 runs ( 61,76 ms per token, 16,19 tokens/s)"),
    ("llama-cpp", "llama_perf_context_print:       total time =  840390.42 ms /   64"),
    ("llama-bench", "| llama 7B | 3.56 GiB | 6.74 B | CUDA | 99 | pp512 | 1337.70 ± 0.7"),
    ("llama-bench", "| llama 7B | 3.56 GiB | 6.74 B | CUDA | 99 | pp512 | 1337.70 ± 0.75 "),
])  # fmt: skip
def test_a_damaged_line_is_counted_and_gives_no_number(name, line):
    assert written.read(name, line) == ([], 1)


@pytest.mark.parametrize("text", [
    "It made 1337.70 ± 0.75 tokens per second in pp512.",
    "| model | accuracy |\n| --- | --- |\n| llama | 0.75 ± 0.01 |",
    "The load time = 3 s is not a problem, nor is 20 ms per token, I think.",
])  # fmt: skip
def test_other_texts_are_none(text):
    assert read_bytes(text.encode()).formats == []


def test_depths_and_mixed_tests_have_names_of_their_own():
    row = "| qwen2 7B Q4_K - Medium |   4.36 GiB |     7.62 B | CUDA       |  99 | {} |      6425.91 ± 18.88 |\n"
    content = read_bytes((row.format("pp512 @ d4096") + row.format("pp 512") + row.format("pp64+tg16")).encode())
    assert [test for _, test, _ in speeds(content)] == ["pp512_d4096", "pp512", "pp64+tg16"]


TABLE = """| model          |     size |  params | backend | threads | n_batch | fa |  test |           t/s |
| -------------- | -------: | ------: | ------- | ------: | ------: | -: | ----: | ------------: |
| llama 7B Q4_0  | 3.56 GiB |  6.74 B | CPU     |       8 |     256 |  0 | pp512 |  45.23 ± 0.31 |
| llama 7B Q4_0  | 3.56 GiB |  6.74 B | CPU     |       8 |     256 |  0 | tg128 |  12.87 ± 0.05 |
"""


def test_the_columns_of_a_table_are_parameters(corpus):
    setup = {"model": "llama 7B Q4_0", "backend": "CPU", "threads": 8, "prompt_batch": 256, "flash_attention": "off"}
    assert parameters(TABLE) == setup
    more = TABLE.splitlines()[-1].replace("|       8 |", "|      16 |")
    assert parameters(f"{TABLE}{more}\n") == {name: value for name, value in setup.items() if name != "threads"}
    assert parameters((corpus / "inference/llama_bench/llamabench_rx7900xtx_vulkan.txt").read_bytes()) == {
        "model": "llama 7B Q4_0", "backend": "Vulkan", "prompt_batch": 512, "gpu_layers": 100, "flash_attention": "on",
    }  # fmt: skip


def test_json_says_the_same():
    row = {**RESULTS[0], "n_threads": 8, "n_batch": 256, "n_gpu_layers": 0, "flash_attn": False, "gpu_info": ""}
    assert parameters(json.dumps([row])) == {
        "model": "llama 7B Q4_0", "backend": "CUDA", "threads": 8, "prompt_batch": 256, "gpu_layers": 0,
        "flash_attention": "off",
    }  # fmt: skip


RESULTS = [
    {"model_type": "llama 7B Q4_0", "backends": "CUDA", "n_prompt": 512, "n_gen": 0, "n_depth": 0, "avg_ns": 256000000,
     "stddev_ns": 1000000, "avg_ts": 2000.5, "stddev_ts": 8.25, "samples_ts": [2000.5]},
    {"model_type": "llama 7B Q4_0", "backends": "CUDA", "n_prompt": 0, "n_gen": 128, "n_depth": 256,
     "avg_ns": 1280000000, "stddev_ns": 0, "avg_ts": 100.25, "stddev_ts": 0.5, "samples_ts": [100.25]},
]  # fmt: skip
EXPECTED = {
    ("pp512", "tokens_per_second"): 2000.5, ("pp512", "tokens_per_second_std"): 8.25, ("pp512", "test_time"): 0.256,
    ("pp512", "test_time_std"): 0.001, ("tg128_d256", "tokens_per_second"): 100.25,
    ("tg128_d256", "tokens_per_second_std"): 0.5, ("tg128_d256", "test_time"): 1.28, ("tg128_d256", "test_time_std"): 0,
}  # fmt: skip


def by_test(found):
    return {(record.values["test"], record.values["name"]): record.values["value"] for record in found}


@pytest.mark.parametrize(("text", "lines"), [
    (json.dumps(RESULTS), {1}),
    (json.dumps(RESULTS, indent=2), {2, 16}),
    ("".join(json.dumps(each) + "\n" for each in RESULTS), {1, 2}),
    (json.dumps(RESULTS)[:-1], {1}),  # a run that was killed leaves an array without its end
])  # fmt: skip
def test_json_and_json_lines_are_read(text, lines):
    content = read_bytes(text.encode())
    assert (content.formats, content.unread) == (["llama-bench-json"], 0)
    found = records(content)
    assert by_test(found) == EXPECTED
    assert not [record for record in found if "part" in record.values]
    assert {record.line for record in found} == lines


def test_csv_is_read():
    names = ["build_commit", *(name for name in RESULTS[0] if name != "samples_ts")]
    names = [*names[:-4], "test_time", *names[-4:]]
    rows = [",".join(f'"{each.get(name, "x, y")}"' for name in names) for each in RESULTS]
    text = "\n".join([",".join(names), *rows]) + "\n"
    content = read_bytes(text.encode())
    assert (content.formats, content.unread) == (["llama-bench-csv"], 0)
    assert by_test(records(content)) == EXPECTED
    cut = read_bytes(text[:-6].encode())
    assert ({record.line for record in records(cut)}, cut.unread) == ({2}, 1)


def test_the_rows_of_a_sweep_of_threads_say_their_threads(tmp_path):
    rows = [
        f"| llama 7B Q4_0         |   3.56 GiB |     6.74 B | CPU        | {threads:7} | {test} | {speed:.2f} ± 0.05 |"
        for threads, speed in ((1, 5.0), (2, 10.0), (4, 20.0)) for test in ("pp512", "tg128")
    ]  # fmt: skip
    head = "| model                 |       size |     params | backend    | threads |  test |        t/s |"
    rule = "| ------------------------------ | ---------: | ---------: | ---------- | ------: | ----: | ---------: |"
    (tmp_path / "a.md").write_text("\n".join([head, rule, *rows, ""]))
    [comparison] = compare(parse(tmp_path))
    assert comparison.axes == ("threads", "test")
    assert [row.ratio.speedup for row in comparison.rows] == pytest.approx([1, 1, 2, 2, 4, 4])
