"""E1's sweep as a user types it, with a small model: submitted, waited for, parsed and reported."""

import json

import pytest

pytest.importorskip("torch", reason="mmlu needs torch")
pytest.importorskip("transformers", reason="mmlu needs transformers")

from inference import multiple_choice
from toy import hpcbench
from workloads import tiny_models

COUNT = sum(map(len, multiple_choice.SUBJECTS.values()))
MODES = ("sequential", "parallel", "batched")


def test_modes_side_by_side_with_their_phases_and_what_follows(tmp_path):
    multiple_choice.write(tmp_path / "questions")
    tiny_models.write(tmp_path / "model")
    hpcbench(
        "submit", "--site", "local", "--benchmark", "mmlu", "--model", "model", "--data", "questions",
        "--subjects", "animals,weather", "--shots", "2", "--mode", ",".join(MODES), cwd=tmp_path, check=0,
    )  # fmt: skip
    hpcbench("wait", cwd=tmp_path, check=0)
    hpcbench("report", "-o", "mine", cwd=tmp_path, check=0)
    text = (tmp_path / "mine" / "report.md").read_text()
    [section] = json.loads((tmp_path / "mine" / "report.json").read_text())["sections"]
    rows = {row["point"]["mode"]: row for row in section["rows"]}
    assert set(rows) == set(MODES)
    assert rows["batched"]["speedup"]["value"] > 0
    assert {score["questions"] for score in section["scores"]} == {COUNT}
    assert len({score["accuracy"] for score in section["scores"]}) == 1
    for each in section["phases"]:
        assert {"import", "load model", "load data", "prefill", "score"} <= set(each["seconds"])
    assert f"All {COUNT} answers are the same in 3 cases" in text
    assert all(pair["questions"] == COUNT and not pair["flips"] for pair in section["pairs"])
    loads = [finding for finding in section["findings"] if "of import and load each" in finding]
    assert any(finding.startswith("mode sequential: 2 processes took") for finding in loads)
    assert any("nothing says whether it would be so again" in finding for finding in section["findings"])
