"""hpcbench: from a sweep to run to a report that can be defended."""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# Public names and the module that holds each. They load on first use: `hpcbench --help` must not wait for pandas.
_HOME = {
    "Axis": "plan",
    "Benchmark": "benchmark",
    "Case": "plan",
    "ConfigError": "errors",
    "HpcbenchError": "errors",
    "Metrics": "metrics",
    "Plan": "plan",
    "Run": "run",
    "RunError": "errors",
    "Site": "site",
    "Sweep": "plan",
    "UsageError": "errors",
    "parse": "parse",
    "plan": "plan",
    "report": "report",
    "submit": "submit",
}

__all__ = [
    "Axis", "Benchmark", "Case", "ConfigError", "HpcbenchError", "Metrics", "Plan", "Run", "RunError", "Site", "Sweep",
    "UsageError", "__version__", "parse", "plan", "report", "submit",
]  # fmt: skip

if TYPE_CHECKING:
    from hpcbench.benchmark import Benchmark
    from hpcbench.errors import ConfigError, HpcbenchError, RunError, UsageError
    from hpcbench.metrics import Metrics
    from hpcbench.parse import parse
    from hpcbench.plan import Axis, Case, Plan, Sweep, plan
    from hpcbench.report import report
    from hpcbench.run import Run
    from hpcbench.site import Site
    from hpcbench.submit import submit


class _Package(ModuleType):
    """This package, where `hpcbench.parse` is the function even after the module of that name was imported."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module 'hpcbench' has no attribute {name!r}")
        value = getattr(import_module(f"hpcbench.{_HOME[name]}"), name)
        setattr(self, name, value)
        return value

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_HOME})


sys.modules[__name__].__class__ = _Package
