"""SGLang: what `sglang.bench_serving` prints, and the JSON lines it appends."""

from __future__ import annotations

from hpcbench.formats import Block, Each, Format, Reading, Record
from hpcbench.formats.measurements import Text, number_parts
from hpcbench.formats.vllm import TITLE, arguments, console, details, summary


def _document(data: bytes, _name: str) -> Reading:
    """Read results, one a line; a rate without limit is written as a bare Infinity."""
    text = Text(data)
    records: list[Record] = []
    results = 0
    for value, at in text.objects("request_throughput", "total_output_tokens_retokenized"):
        records += summary(text, at, value) + details(text, at, value)
        results += 1
    return records, max(0, text.text.count('"request_throughput"') - results)


FORMATS = (
    Format(
        name="sglang-bench",
        kind="inference",
        title="sglang.bench_serving",
        example="============ Serving Benchmark Result ============\n"
        "Backend:                                 sglang    \n"
        "Successful requests:                     20        \nMean TTFT (ms):                          120.25    \n",
        parts=(
            Block(TITLE, lambda data: console(data, backend=True), size=1 << 14),
            Each("Namespace(", arguments, weak=True),
        ),
        finish=number_parts,
        untried="the console written from threads of sgl-project/sglang (pull requests 9428 and 9812)",
    ),
    Format(
        name="sglang-bench-jsonl",
        kind="inference",
        title="sglang.bench_serving, JSON lines",
        example='{"backend": "sglang", "request_rate": Infinity, "duration": 2.0, "completed": 4, '
        '"total_output_tokens_retokenized": 80, "request_throughput": 2.0, "mean_ttft_ms": 50.5}',
        sniff=('"request_throughput"', '"total_output_tokens_retokenized"'),
        document=_document,
        finish=number_parts,
    ),
)
