import os
from pathlib import Path

import pytest

pytest_plugins = ["services.fixtures"]


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep what tests read out of the user's cache."""
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    yield
    patch.undo()


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of real logs, whose SOURCES.md says where each is from; many may not be passed on."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "corpus"
    folder = Path(os.environ.get("HPCBENCH_CORPUS") or beside)
    if not folder.is_dir():
        pytest.skip(f"no real logs: {folder} is absent, and HPCBENCH_CORPUS names no other folder")
    return folder
