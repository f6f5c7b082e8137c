"""What 1,000 cases cost to submit and 20 to wait for: hpcbench, submitit, PSI/J and a loop of sbatch, on a real Slurm.

    python -m venv .venv-peers && .venv-peers/bin/pip install psij-python submitit
    .venv/bin/python benchmarks/submit/measure.py --peers .venv-peers/bin/python

The cluster is the one of the tests (tests/services), with accounting, started for this and stopped at the end. Nothing
starts while 1,000 cases are submitted, so that jobs take no time from what submits them; they are counted in the queue,
then cancelled and forgotten before the next contender's turn. Each contender is a process of its own, imports included.
Then all of them wait at once for 20 jobs each, and `squeue`, `sacct`, `scontrol` and `sinfo`, which are wrapped on
their PATH, write down when they were called; calls by the jobs themselves are left out.
"""

from __future__ import annotations

import argparse
import contextlib
import getpass
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from services import slurm, ssh
from services.latency import latency

HPCBENCH = [sys.executable, "-m", "hpcbench"]
BENCHMARK = """\
title: Sleeps
parameters:
  number: {type: int, default: 1, help: tells the cases apart}
  seconds: {type: int, default: 0, help: how long it takes}
command: ["sleep", "{{ seconds }}"]
resources: {cores: 1}
"""
SITE = """\
title: A private Slurm
scheduler: slurm
job: {{partition: RM-shared, time: "00:10:00"}}
benchmark: sleeps
{reach}
"""
SSH = """\
reach: {{ssh: {server.host}, port: {server.port}, user: {server.user}, identity: {server.key}, known_hosts: \
{server.known_hosts}}}
folder: $HOME/runs
"""
SUBMITIT = """
import sys, time
from pathlib import Path
import submitit
folder, cases, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
executor = submitit.AutoExecutor(folder=folder)
executor.update_parameters(timeout_min=10, slurm_partition="RM-shared")
jobs = executor.map_array(time.sleep, [seconds] * cases)
if seconds:
    Path("waiting").touch()
    for job in jobs:
        job.result()
"""
PSIJ = """
import sys
from datetime import timedelta
from pathlib import Path
from psij import Job, JobAttributes, JobExecutor, JobExecutorConfig, JobSpec
folder, cases, seconds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
executor = JobExecutor.get_instance("slurm", config=JobExecutorConfig(work_directory=folder))
jobs = []
for _ in range(cases):
    attributes = JobAttributes(duration=timedelta(minutes=10), queue_name="RM-shared")
    job = Job(JobSpec(executable="/bin/sleep", arguments=[str(seconds)], attributes=attributes))
    executor.submit(job)
    jobs.append(job)
if seconds:
    Path("waiting").touch()
    for job in jobs:
        job.wait()
"""
LOOP = """
mkdir "$1" && cd "$1" || exit
for ((n = 0; n < $2; n++)); do
  sbatch --parsable --partition=RM-shared --time=10 --wrap="sleep $3" >>jobs || exit
done
"""
WRAPPER = """\
#!/bin/bash
# a job's own calls are no queries of who waits for it
[[ -n $SLURM_JOB_ID || -z $QUERIES ]] || printf '%s {name}\\n' "$EPOCHREALTIME" >>"$QUERIES"
exec {program} "$@"
"""
PROFILE = """\
export PATH={wrappers}:$PATH
export QUERIES=$HOME/queries
echo >>"$HOME/commands"  # one login shell for each command that comes by ssh
"""


@dataclass
class Spent:
    """What one submission, or one wait, cost."""

    seconds: float
    cpu: float = 0.0
    files: int = 0
    commands: int | None = None
    connections: int | None = None
    status: float | None = None
    queries: int = 0


@dataclass
class Contender:
    """One way to submit: a command that takes a folder, how many cases, and seconds for each of them."""

    name: str
    command: list[str]
    site: str | None = None  # hpcbench's
    server: ssh.Server | None = None
    home: Path | None = None  # of the server's commands
    sent: list[Spent] = field(default_factory=list)
    waited: Spent | None = None

    def submit(self, cases: int, seconds: int) -> list[str]:
        if self.site is None:
            return [*self.command, "folder", str(cases), str(seconds)]
        numbers = f"--number=1:{cases}:1"
        return [*HPCBENCH, "submit", "--site", self.site, "--name=run", numbers, f"--seconds={seconds}"]

    def submit_and_wait(self, cases: int, seconds: int) -> list[str]:
        if self.site is None:
            return self.submit(cases, seconds)
        words = shlex.join(self.submit(cases, seconds)), shlex.join([*HPCBENCH, "wait", "run"])
        return ["bash", "-c", " && touch waiting && ".join(words)]

    def files(self, cwd: Path) -> int:
        """Count what is left in the executor's folder; for hpcbench that is its run, at the site too."""
        folders = [cwd / "folder"] if self.site is None else [cwd / "logs"]
        folders += [self.home / "runs"] if self.home else []
        return sum(len(names) for folder in folders for _, _, names in os.walk(folder))

    def traffic(self) -> tuple[int, int]:
        """Count the commands and the connections that the server has seen so far."""
        if self.server is None or self.home is None:
            return 0, 0
        seen = self.home / "commands"
        return len(seen.read_text().splitlines()) if seen.exists() else 0, self.server.log.read_text().count("Accepted")


class Bench:
    """The folder, environment and cluster that all contenders share."""

    def __init__(self, folder: Path, cluster: slurm.Slurm) -> None:
        self.folder, self.cluster = folder, cluster
        self.number = 0
        self.environment = {
            **os.environ,
            **cluster.environment,
            "PATH": f"{folder / 'wrappers'}:{os.environ['PATH']}",
            "HOME": str(folder / "home"),
            "XDG_CONFIG_HOME": str(folder / "home" / "config"),
            "XDG_CACHE_HOME": str(folder / "home" / "cache"),
        }

    def workplace(self) -> Path:
        """Make an empty folder with hpcbench's sites and benchmark."""
        self.number += 1
        cwd = self.folder / f"work{self.number}"
        shutil.copytree(self.folder / "given", cwd)
        return cwd

    def run(self, command: list[str], cwd: Path) -> Spent:
        """Run a process to its end: seconds of the clock, and of CPU with all its children."""
        with (cwd / "output").open("ab") as output:
            start = time.perf_counter()
            process = subprocess.Popen(
                command, cwd=cwd, env=self.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
            process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        if process.returncode:
            tail = (cwd / "output").read_text(errors="replace")[-2000:]
            raise SystemExit(f"{shlex.join(command)[:200]} ended with status {process.returncode}\n{tail}")
        return Spent(seconds, usage.ru_utime + usage.ru_stime)

    def queued(self) -> int:
        return len(self.cluster.run("squeue", "-h", "-r", "-t", "all").splitlines())

    def empty(self) -> None:
        """Cancel everything, and wait until the controller has forgotten it."""
        self.cluster.run("scancel", f"--user={getpass.getuser()}")
        while self.queued():
            time.sleep(0.5)

    def send(self, contender: Contender, cases: int) -> None:
        """Let a contender submit the cases, and hpcbench ask for them."""
        cwd = self.workplace()
        commands, connections = contender.traffic()
        spent = self.run(contender.submit(cases, 0), cwd)
        found = self.queued()
        if found != cases:
            raise SystemExit(f"{contender.name}: {found} of {cases} jobs are in the queue")
        spent.files = contender.files(cwd)
        if contender.server:
            now = contender.traffic()
            spent.commands, spent.connections = now[0] - commands, now[1] - connections
        if contender.site:
            spent.status = self.run([*HPCBENCH, "status", "run"], cwd).seconds
        contender.sent.append(spent)
        self.empty()
        shutil.rmtree(cwd)
        if contender.home:
            shutil.rmtree(contender.home / "runs")

    def wait(self, contenders: list[Contender], jobs: int, seconds: int) -> None:
        """Let all contenders wait at once, each for jobs of its own."""
        with contextlib.ExitStack() as started:
            running = []
            for each in contenders:
                cwd = self.workplace()
                log = started.enter_context((cwd / "output").open("ab"))
                process = subprocess.Popen(
                    each.submit_and_wait(jobs, seconds), cwd=cwd, env={**self.environment, "QUERIES": f"{cwd}/queries"},
                    stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                )  # fmt: skip
                started.callback(end, process)
                running.append((each, cwd, process))
            while running:
                time.sleep(0.1)
                for each, cwd, process in list(running):
                    if process.poll() is None:
                        continue
                    running.remove((each, cwd, process))
                    if process.returncode:
                        raise SystemExit(f"{each.name}: {(cwd / 'output').read_text(errors='replace')[-2000:]}")
                    began = (cwd / "waiting").stat().st_mtime if (cwd / "waiting").exists() else time.time()
                    log = (each.home or cwd) / "queries"
                    times = [float(line.split()[0]) for line in log.read_text().splitlines()] if log.exists() else []
                    each.waited = Spent(time.time() - began, queries=sum(moment >= began for moment in times))
            while self.cluster.run("squeue", "-h"):  # those that nobody waited for
                time.sleep(0.5)
        for each, number in zip(contenders, range(self.number - len(contenders) + 1, self.number + 1), strict=True):
            each.waited.files = each.files(self.folder / f"work{number}")


def end(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextlib.contextmanager
def bench(
    folder: Path, peers: str | None, nodes: int = 2, **settings: str | int
) -> Iterator[tuple[Bench, list[Contender]]]:
    """Start the cluster and its login nodes; stop them whatever happens."""
    (folder / "home").mkdir(parents=True)
    (folder / "wrappers").mkdir()
    for name in ("squeue", "sacct", "scontrol", "sinfo"):
        wrapper = folder / "wrappers" / name
        wrapper.write_text(WRAPPER.format(name=name, program=shutil.which(name)))
        wrapper.chmod(0o755)
    contenders = [Contender("hpcbench, on the login node", [], site="here")]
    if peers:
        contenders.append(Contender("submitit, `map_array`", [peers, "-c", SUBMITIT]))
        contenders.append(Contender("PSI/J", [peers, "-c", PSIJ]))
    contenders.append(Contender("`sbatch` in a loop", ["bash", "-c", LOOP, "bash"]))
    sites, benchmarks = folder / "given" / "sites", folder / "given" / "templates" / "sleeps"
    for each in (sites, benchmarks):
        each.mkdir(parents=True)
    (benchmarks / "benchmark.yaml").write_text(BENCHMARK)
    (sites / "here.yaml").write_text(SITE.format(reach="reach: local"))
    with contextlib.ExitStack() as services:
        # without the gatherer no job is ended for the memory of the Python it runs
        cluster = slurm.start(
            folder / "slurm", nodes, accounting=True, JobAcctGatherType="jobacct_gather/none", **settings
        )
        services.callback(cluster.stop)
        for name, title, delay in (("near", "hpcbench, by ssh", 0), ("far", "hpcbench, by ssh, 50 ms away", 50)):
            home = folder / f"home-{name}"  # where a login shell sets PATH anew, its profile puts the wrappers in front
            home.mkdir()
            (home / ".bash_profile").write_text(PROFILE.format(wrappers=folder / "wrappers"))
            server = ssh.start(folder / name, environment={**cluster.environment, "HOME": str(home)})
            services.callback(server.stop)
            seen = server.behind(services.enter_context(latency(server.port, delay))) if delay else server
            (sites / f"{name}.yaml").write_text(SITE.format(reach=SSH.format(server=seen)))
            contenders.append(Contender(title, [], site=name, server=server, home=home))
        yield Bench(folder, cluster), contenders


def middle(values: list[float], digits: int = 2) -> str:
    """Write a median and, in parentheses, the least and the most."""
    text = f"{statistics.median(values):.{digits}f}"
    return text if len(values) == 1 else f"{text} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(contenders: list[Contender], cases: int, jobs: int) -> Iterator[str]:
    """Write everything as Markdown; the ratios are of one round each."""
    heads = ["submit s", "× hpcbench", "CPU s", "× hpcbench", "files", "files a case, ended", "queries a minute"]
    yield f"| {' | '.join([f'{cases:,} cases', *heads, 'ssh commands', '`status` s'])} |"
    yield f"|{'---|' * 10}"
    first = contenders[0].sent
    for each in contenders:
        slower = [one.seconds / base.seconds for one, base in zip(each.sent, first, strict=True)]
        dearer = [one.cpu / base.cpu for one, base in zip(each.sent, first, strict=True)]
        last, waited = each.sent[-1], each.waited
        rate = f"{60 * waited.queries / waited.seconds:.1f} in {waited.seconds:.0f} s" if waited.seconds > 1 else "–"
        cells = [
            each.name,
            middle([one.seconds for one in each.sent]),
            "1" if each is contenders[0] else middle(slower, 1),
            middle([one.cpu for one in each.sent]),
            "1" if each is contenders[0] else middle(dearer, 1),
            f"{last.files}",
            f"{waited.files / jobs:.1f}",
            rate,
            "–" if last.commands is None else f"{last.commands} on {last.connections} connection",
            "–" if last.status is None else middle([one.status for one in each.sent]),
        ]
        yield f"| {' | '.join(cells)} |"


def circumstances(peers: str | None) -> str:
    """Say what was measured and where; the load is that of others, before anything was started."""
    tools = [f"{name} {metadata.version(name)}" for name in ("submitit", "paramiko")]
    if peers:
        ask = "from importlib.metadata import version as v; print('submitit', v('submitit'), 'PSI/J', v('psij-python'))"
        answer = subprocess.run([peers, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
        tools.append(f"peers: {answer}")
    return f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; {', '.join(tools)}"


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--peers", help="the Python of an environment that has psij-python and submitit")
    arguments.add_argument("--cases", type=int, default=1000)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--jobs", type=int, default=20, help="how many each contender waits for")
    arguments.add_argument("--seconds", type=int, default=120, help="how long each of these takes")
    options = arguments.parse_args()
    peers = options.peers and str(Path(options.peers).absolute())
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # then everything is stopped in order, as for Ctrl-C
    machine = circumstances(peers)
    with tempfile.TemporaryDirectory(prefix="hb-") as name:
        folder = Path(name).resolve()
        # a job that ended is forgotten at once: each turn begins with an empty queue
        with bench(folder / "send", peers, MinJobAge=2) as (place, contenders):
            place.cluster.run("scontrol", "update", "partitionname=RM-shared", "state=down")
            machine += f"; {place.cluster.run('sbatch', '--version').strip()}"
            for number in range(options.rounds):
                for each in contenders:
                    place.send(each, options.cases)
                    spent = each.sent[-1]
                    print(f"round {number + 1}: {each.name}: {spent}", file=sys.stderr, flush=True)
        # a core for each job; Slurm forgets a job after 300 s where it is not told otherwise
        nodes = 1 + len(contenders) * options.jobs // 40
        with bench(folder / "wait", peers, nodes, MinJobAge=300) as (place, waiting):
            place.wait(waiting, options.jobs, options.seconds)
        for each, other in zip(contenders, waiting, strict=True):
            each.waited = other.waited
        print(machine)
        print(f"median (least–most) of {options.rounds} rounds, all contenders in each\n")
        print("\n".join(table(contenders, options.cases, options.jobs)))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
