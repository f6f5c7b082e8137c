"""lm-evaluation-harness on a folder of questions: run by its own Python; prints what it took and writes what it found.

harness.py MODEL DATA SUBJECT,... SHOTS BATCH LIMIT THREADS OUTPUT
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

BEGAN = time.time()
TASK = """\
task: local_{subject}
dataset_path: csv
dataset_kwargs:
  data_files: {{test: "{data}/{subject}_test.csv", dev: "{data}/{subject}_dev.csv"}}
test_split: test
fewshot_split: dev
fewshot_config: {{sampler: first_n}}
num_fewshot: {shots}
output_type: multiple_choice
description: "The following are multiple choice questions (with answers) about {words}.\\n\\n"
doc_to_text: "{text}"
doc_to_choice: ["A", "B", "C", "D"]
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
TEXT = r"{{question.strip()}}\nA. {{choice0}}\nB. {{choice1}}\nC. {{choice2}}\nD. {{choice3}}\nAnswer:"


def main(model: str, data: str, subjects: str, shots: str, batch: str, limit: str, threads: str, output: str) -> None:
    """Answer, as its task ``mmlu`` does but for where the questions lie."""
    os.environ |= {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    names = subjects.split(",")
    import torch

    torch.set_num_threads(int(threads))
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    imported = time.time()
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            task = TASK.format(text=TEXT, subject=name, words=name.replace("_", " "), data=data, shots=shots)
            (Path(folder) / f"{name}.yaml").write_text(task)
        lm = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=batch)
        loaded = time.time()
        spent = []
        right = lm._loglikelihood_tokens  # tokenising is before it, as it is before the scoring of the other

        def timed(*arguments: object, **options: object) -> object:
            began = time.time()
            found = right(*arguments, **options)
            spent.append(time.time() - began)
            return found

        lm._loglikelihood_tokens = timed
        report = lm_eval.simple_evaluate(
            model=lm, tasks=[f"local_{name}" for name in names], task_manager=TaskManager(include_path=folder),
            log_samples=True, bootstrap_iters=0, num_fewshot=int(shots), limit=int(limit) or None,
        )  # fmt: skip
    found = {
        name: [
            [float(each[0]) for each in sample["filtered_resps"]]
            for sample in sorted(report["samples"][f"local_{name}"], key=lambda sample: sample["doc_id"])
        ]
        for name in names
    }
    Path(output).write_text(json.dumps(found))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    told = {"version": lm_eval.__version__, "import": imported - BEGAN, "load": loaded - imported}
    print(json.dumps({**told, "scoring": sum(spent), "peak": peak}))


if __name__ == "__main__":
    main(*sys.argv[1:])
