import importlib
import pkgutil
import shutil
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
    sources = tmp_path / "sources"  # a copy: what a build leaves behind would be in the next wheel
    for name in ("hpcbench", "sites", "templates"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("LICENSE", "README.md", "pyproject.toml", "setup.cfg"):
        shutil.copy(ROOT / name, sources)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "-w", str(tmp_path), str(sources)], check=True, timeout=180, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {
        "hpcbench/py.typed",
        "hpcbench/sites/local.yaml",
        "hpcbench/submit/schedulers/scripts/common.sh",
        "hpcbench/templates/gpt2/benchmark.yaml",
        "hpcbench/templates/jobs/case.sh.j2",
        "hpcbench/templates/reports/report.md.j2",
        "hpcbench/workloads/gpt2.py",
        "hpcbench/workloads/measure.py",
    } <= names
    modules = {str(file.relative_to(ROOT)) for file in (ROOT / "hpcbench").rglob("*.py")}
    assert modules <= names
    assert not [name for name in names if name.startswith(("tests/", "logs/", "reports/"))]


def test_the_command_line_starts_without_what_is_slow_to_import():
    slow = "pandas numpy matplotlib scipy pyarrow pydantic jinja2 yaml rich submitit paramiko torch"
    code = f"import sys, hpcbench.cli; print(sorted(set({slow.split()}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_planning_and_rendering_need_no_tables_of_numbers():
    code = "import sys, hpcbench.render; print(sorted({'pandas', 'numpy', 'matplotlib', 'scipy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_each_public_name_is_there_first_thing_in_a_new_process():
    code = "import sys, hpcbench; print(callable(getattr(hpcbench, sys.argv[1])))"
    running = [
        subprocess.Popen([sys.executable, "-c", code, name], stdout=subprocess.PIPE)
        for name in ("plan", "submit", "Site", "Axis", "ConfigError")
    ]
    assert [each.communicate(timeout=60)[0] for each in running] == [b"True\n"] * len(running)


def test_everything_can_be_imported_at_once():
    names: dict[str, object] = {}
    exec("import hpcbench.plan, hpcbench.parse\nfrom hpcbench import *", names)
    assert set(hpcbench.__all__) <= set(names)
    assert callable(names["plan"])
