import importlib
import pkgutil
import subprocess
import sys
import zipfile
from pathlib import Path

import hpcbench

ROOT = Path(__file__).parent.parent


def test_the_public_names_are_these():
    assert hpcbench.__all__ == [
        "Axis", "Benchmark", "Case", "ConfigError", "HpcbenchError", "Metrics", "Plan", "Run", "RunError", "Site",
        "Sweep", "UsageError", "__version__", "parse", "plan", "report", "submit",
    ]  # fmt: skip
    assert all(getattr(hpcbench, name) is not None for name in hpcbench.__all__)


def test_functions_keep_their_names_when_the_modules_of_that_name_are_imported():
    for name in ("parse", "plan", "report", "submit"):
        module = importlib.import_module(f"hpcbench.{name}")
        assert getattr(hpcbench, name) is getattr(module, name)
        assert callable(getattr(hpcbench, name))


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(hpcbench, "nothing")
    assert "parse" in dir(hpcbench)


def test_every_module_imports():
    names = [each.name for each in pkgutil.walk_packages(hpcbench.__path__, "hpcbench.")]
    programs = ("hpcbench.__main__", "hpcbench.workloads.gpt2")  # they are run, not imported
    assert len([importlib.import_module(name) for name in names if name not in programs]) > 20


def test_a_wheel_holds_sites_templates_workloads_and_the_types_marker(tmp_path):
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(tmp_path), str(ROOT)], check=True, timeout=180, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "hpcbench/py.typed",
        "hpcbench/sites/local.yaml",
        "hpcbench/templates/gpt2/benchmark.yaml",
        "hpcbench/templates/jobs/bash.sh.j2",
        "hpcbench/templates/reports/report.md.j2",
        "hpcbench/workloads/gpt2.py",
        "hpcbench/workloads/measure.py",
    } <= names
    assert not [name for name in names if name.startswith(("tests/", "logs/", "reports/"))]
