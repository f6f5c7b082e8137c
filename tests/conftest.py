import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real logs, whose SOURCES.md says where each is from; many may not be passed on."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "corpus"
    folder = Path(os.environ.get("HPCBENCH_CORPUS") or beside)
    if not folder.is_dir():
        pytest.skip(f"no real logs: {folder} is absent, and HPCBENCH_CORPUS names no other folder")
    return folder
