import os
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("hpcbench", deadline=None)  # a busy machine makes nothing wrong
hypothesis.settings.load_profile("hpcbench")
pytest_plugins = ["services.fixtures"]

# Files whose tests wait for schedulers and servers: they begin first, so that none of them runs alone at the end.
LONG = (
    "test_exactly_once.py", "test_slurm_site.py", "test_local.py", "test_pbs_site.py", "test_transports.py",
    "test_endpoint_case.py", "test_appliance.py", "test_fetch.py", "test_cli.py", "test_hostile.py", "test_clients.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


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
