"""Reading on processes, on a pool from Python and on a real Dask cluster gives what reading in one process gives."""

import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pandas as pd
import pytest
import toy
import written

from hpcbench.parse import files, parse


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Sixty small logs and one that is cut into ranges."""
    folder = tmp_path_factory.mktemp("tree")
    for index in range(60):
        times = [30 + index, *[10 + index + step / 100 for step in range(50)]]
        (folder / f"threads{index}.log").write_text(written.llmc(times, {0: 5.0, 20: 4.5}))
    big = "".join(f"step {step}: train loss 4.000000 (took {10 + step % 7:f} ms)\n" for step in range(40_000))
    (folder / "threads1000.log").write_text("prose before it\n" + big + "val loss 3.500000\n")
    return folder


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch):
    monkeypatch.setattr(files, "_RANGE", 1 << 18)
    monkeypatch.setattr(files, "_BATCH", 1)


def same(one, other):
    for name, table in one.tables().items():
        pd.testing.assert_frame_equal(table, other.tables()[name])


@pytest.mark.parametrize("pool", [ProcessPoolExecutor, ThreadPoolExecutor])
def test_any_executor_gives_the_same_tables(tree, pool):
    alone = parse(tree, cache=False)
    assert len(alone.steps) == 60 * 51 + 40_000
    with pool(2) as executor:
        same(alone, parse(tree, executor=executor, cache=False))


def test_workers_give_the_same_tables(tree):
    same(parse(tree, cache=False), parse(tree, workers=2, cache=False))


def test_ranges_of_any_size_give_the_same_lines(tree, monkeypatch):
    alone = parse(tree / "threads1000.log", cache=False)
    for size in (1000, 4096, 77_777):
        monkeypatch.setattr(files, "STRETCH", size)
        same(alone, parse(tree / "threads1000.log", cache=False))


class Cluster:
    """A Dask scheduler and two workers, each a process of its own, on loopback."""

    def __init__(self, folder):
        self.folder = folder
        self.address = f"tcp://127.0.0.1:{toy.free_port()}"
        self.scheduler = self.start("scheduler", "--host", self.address, "--no-dashboard", "--no-show")
        self.workers = [self.start("worker", self.address, "--nthreads", "1", "--no-dashboard") for _ in range(2)]

    def start(self, *arguments):
        with (self.folder / f"{arguments[0]}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments], cwd=self.folder, stdout=log, stderr=subprocess.STDOUT
            )

    def stop(self):
        for process in (*self.workers, self.scheduler):
            process.terminate()
        for process in (*self.workers, self.scheduler):
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def cluster(tmp_path):
    pytest.importorskip("distributed", reason="Dask is not installed")
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.stop()


@pytest.mark.filterwarnings("default")  # Dask's own
def test_a_dask_cluster_that_loses_a_worker_gives_the_same_tables(tree, cluster):
    from distributed import Client

    alone = parse(tree, cache=False)
    with Client(cluster.address, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)
        same(alone, parse(tree, executor=client.get_executor(), cache=False))

        class Killing:
            """Hands tasks to the cluster, and kills a worker when half of them are on their way."""

            def __init__(self, executor):
                self.executor, self.count = executor, 0

            def submit(self, *task):
                self.count += 1
                future = self.executor.submit(*task)
                if self.count == 30:
                    cluster.workers[0].kill()
                return future

        killing = Killing(client.get_executor())
        same(alone, parse(tree, executor=killing, cache=False))
        assert killing.count > 60
        assert cluster.workers[0].wait(20) != 0


@pytest.mark.filterwarnings("default")
def test_the_command_line_reads_on_dask(tree, cluster, tmp_path):
    from distributed import Client

    with Client(cluster.address, timeout=60) as client:
        client.wait_for_workers(2, timeout=60)
    done = toy.hpcbench("parse", str(tree), "--dask", cluster.address, "--json", cwd=tmp_path, check=0)
    assert '"steps": 43060' in done.stdout


def test_an_address_where_no_scheduler_answers_is_one_line(tree, tmp_path):
    pytest.importorskip("distributed", reason="Dask is not installed")
    address = f"tcp://127.0.0.1:{toy.free_port()}"
    done = toy.hpcbench("parse", str(tree), "--dask", address, cwd=tmp_path, check=2)
    assert done.stderr.startswith("hpcbench: --dask: no scheduler answers at tcp://127.0.0.1:")
    assert done.stderr.count("\n") == 1
