"""A Slurm of its own under one folder: controller, fake nodes with fake GPUs, munge, and accounting where asked for."""

from __future__ import annotations

import getpass
import os
import secrets
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from services import daemon
from services.daemon import Daemon, ServiceError

# as on Bridges-2, but short where a real site is slow
SETTINGS = {
    "ClusterName": "hpcbench",
    "MpiDefault": "none",
    "ProctrackType": "proctrack/linuxproc",
    "TaskPlugin": "task/none",
    "SwitchType": "switch/none",
    "SelectType": "select/cons_tres",
    "SelectTypeParameters": "CR_Core_Memory",
    "SchedulerType": "sched/backfill",
    "SchedulerParameters": "bf_interval=2,sched_interval=2,sched_min_interval=0,batch_sched_delay=0,requeue_delay=1",
    "JobAcctGatherType": "jobacct_gather/linux",
    "JobAcctGatherFrequency": "task=1",
    "JobAcctGatherParams": "OverMemoryKill",
    "AccountingStorageType": "accounting_storage/none",
    "SlurmdParameters": "config_overrides",  # a node has the cores that are written here, whatever the machine has
    "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",  # listen on loopback only
    "EnforcePartLimits": "ALL",  # refuse at submission what could never start
    "GresTypes": "gpu",
    "JobRequeue": 1,
    "KillWait": 2,
    "MaxArraySize": 1001,
    "MaxJobCount": 50000,
    "MessageTimeout": 10,  # for as long a client tries to reach a controller that is down
    "MinJobAge": 3600,  # finished jobs stay countable for as long as tests run
    "ReturnToService": 1,  # a node that was taken down stays down until it is told otherwise
    "SlurmctldTimeout": 10,
    "SlurmdTimeout": 6,
}
NODE = (
    "CPUs=40 Boards=1 SocketsPerBoard=2 CoresPerSocket=20 ThreadsPerCore=1 RealMemory=8000 Gres=gpu:v100-32:8"
    " State=UNKNOWN"
)
PARTITIONS = {"RM-shared": "Default=YES", "GPU-shared": "", "GPU": "OverSubscribe=EXCLUSIVE"}


def start(folder: Path, nodes: int = 2, accounting: bool = False, **settings: str | int) -> Slurm:
    """Start a cluster of `nodes` named node1, node2, …; `settings` are lines of slurm.conf that replace ours."""
    folder = folder.resolve()
    for name in ("state", "log", "spool", "munge"):
        (folder / name).mkdir(parents=True)
    (folder / "munge").chmod(0o700)
    names = [f"node{number}" for number in range(1, nodes + 1)]
    slurm = Slurm(folder, names, int(settings.get("SlurmctldPort") or daemon.free_port()))
    try:
        slurm._start(accounting, settings)
    except BaseException:
        slurm.stop()
        raise
    return slurm


@dataclass
class Slurm:
    """A running cluster: `environment` is all that a Slurm client needs to find it."""

    folder: Path
    nodes: list[str]
    port: int  # of the controller
    daemons: dict[str, Daemon] = field(default_factory=dict)
    _guard: subprocess.Popen | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a client such as `sbatch` and return what it prints; a refusal raises with its words when `check`."""
        done = subprocess.run(
            argv, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=120, check=False
        )
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: exit status {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout if check else done.stdout + done.stderr

    def submit(self, *options: str, script: str = "true") -> str:
        """Submit a job of some lines of bash and return its id; what it prints goes to the folder of the cluster."""
        output = f"--output={self.folder}/slurm-%j.out"
        return self.run("sbatch", "--parsable", output, *options, f"--wrap={script}").strip().partition(";")[0]

    def jobs(self) -> list[tuple[str, str, str, str]]:
        """Return (job id, array index or '', name, state) of all jobs, each task of an array and finished ones too."""
        lines = self.run("squeue", "--all", "-h", "-t", "all", "-r", "-o", "%F %K %T %j").splitlines()
        rows = (line.split(maxsplit=3) for line in lines)
        return [(job, "" if index == "N/A" else index, name, state) for job, index, state, name in rows]

    def state(self, job: str) -> str:
        """Return the state of a job such as RUNNING, or '' where the controller does not know it."""
        return " ".join(state for number, _, _, state in self.jobs() if number == job)

    def down(self, node: str) -> None:
        """Take a node down, as when it crashed: its jobs are requeued, or end as NODE_FAIL."""
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=test")

    def up(self, node: str) -> None:
        self.run("scontrol", "update", f"nodename={node}", "state=resume")

    def kill_controller(self) -> None:
        """End slurmctld, as for maintenance: jobs run on, clients are told that they cannot contact it."""
        self.daemons.pop("slurmctld").stop()

    def start_controller(self) -> None:
        """Start slurmctld with what it knew, where it is not running, and wait until its nodes answer again."""
        if "slurmctld" not in self.daemons:
            controller = self._daemon("slurmctld", "-D", "-i", "-f", self.folder / "slurm.conf")
            controller.wait_until(self._answers)

    def limit(self, **limits: int) -> None:
        """Limit the user in the accounting, such as MaxSubmitJobs=5; -1 takes a limit away."""
        values = [f"{name}={value}" for name, value in limits.items()]
        self.run("sacctmgr", "-i", "modify", "user", getpass.getuser(), "set", *values)

    def restore(self) -> None:
        """Make it as new for the next test: controller and nodes up, nothing queued or running."""
        self.start_controller()
        for node, state in self._node_states().items():
            if state.startswith(("down", "drain")):
                self.up(node)
        if self.run("squeue", "-h"):
            self.run("scancel", f"--user={getpass.getuser()}")
        deadline = time.monotonic() + 30
        while self.run("squeue", "-h") or not self._answers():
            if time.monotonic() > deadline:
                raise ServiceError(f"it is not as new:\n{self.run('squeue')}{self.run('sinfo', '-N', '-l')}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the daemons and every process of a job; nothing is left."""
        for name in reversed(list(self.daemons)):  # the last started first: nodes, controller, accounting, munge
            self.daemons.pop(name).stop()
        nothing = 0
        while nothing < 3:  # a process that forks while /proc is read may be missed once
            remaining = self._processes()
            daemon.kill(remaining)
            nothing = 0 if remaining else nothing + 1
            time.sleep(0.02)
        if self._guard:
            self._guard.communicate()
            self._guard = None

    def _processes(self) -> set[int]:
        """Return the pids of what daemons and jobs started: slurmd leaves it running when it ends."""
        ours = set()
        configuration = f"SLURM_CONF={self.folder}/slurm.conf".encode()
        for process in daemon.processes():
            environment = process.environment()
            if Path(process.executable).name.startswith("slurm"):
                # slurmstepd has another environment, and a child of slurmd is about to become one
                if configuration in environment or any(file.startswith(f"{self.folder}/") for file in process.opened()):
                    ours.add(process.pid)
            elif configuration in environment and any(entry.startswith(b"SLURM_JOB_ID=") for entry in environment):
                ours.add(process.pid)
        return daemon.descendants(ours)

    def _start_guard(self) -> None:
        """Start what ends the jobs when this process is killed: slurmstepd never ends without its controller."""
        argv = [sys.executable, "-m", "services.slurm", self.folder]
        self._guard = subprocess.Popen(
            argv, cwd=Path(__file__).parents[1], stdin=subprocess.PIPE, start_new_session=True
        )

    def _start(self, accounting: bool, settings: dict[str, str | int]) -> None:
        self._start_guard()
        self._start_munge()
        if accounting:
            settings = {**self._start_accounting(), **settings}
        self._configure(settings)
        self._daemon("slurmctld", "-D", "-c", "-f", self.folder / "slurm.conf")
        for node in self.nodes:
            (self.folder / "spool" / node).mkdir()
            self._daemon("slurmd", "-D", "-N", node, "-f", self.folder / "slurm.conf", name=f"slurmd.{node}")
        self.daemons["slurmctld"].wait_until(self._idle)
        if accounting:
            self.run("sacctmgr", "-i", "add", "account", "hpcbench")
            self.run("sacctmgr", "-i", "add", "user", getpass.getuser(), "account=hpcbench")
            # root has an account of its own before
            self.run("sacctmgr", "-i", "modify", "user", getpass.getuser(), "set", "DefaultAccount=hpcbench")

    def _start_munge(self) -> None:
        munge = self.folder / "munge"
        (munge / "key").write_bytes(secrets.token_bytes(128))
        (munge / "key").chmod(0o600)
        files = {"socket": "sock", "key-file": "key", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        # force: a folder above that others may write to is a warning, not an error
        arguments = ["--foreground", "--force", *(f"--{option}={munge / file}" for option, file in files.items())]
        self._daemon("munged", *arguments).wait_until((munge / "sock").exists)

    def _start_accounting(self) -> dict[str, str | int]:
        """Start MariaDB and slurmdbd, and return what slurm.conf must say about them."""
        database, socket_file = self.folder / "database", self.folder / "database.sock"
        install = daemon.program("mariadb-install-db")
        normal = ["--auth-root-authentication-method=normal", "--skip-test-db", f"--user={getpass.getuser()}"]
        with (self.folder / "log" / "mariadb-install-db").open("wb") as log:
            subprocess.run(
                [install, "--no-defaults", f"--datadir={database}", *normal], stdout=log, stderr=log, check=True
            )
        database_port, port = daemon.free_port(), daemon.free_port()
        server = self._daemon(
            "mariadbd",
            "--no-defaults",
            f"--datadir={database}",
            f"--socket={socket_file}",
            f"--pid-file={self.folder}/database.pid",
            f"--port={database_port}",
            "--bind-address=127.0.0.1",
            f"--user={getpass.getuser()}",
            # what slurmdbd asks for, but not safe against a loss of power
            "--innodb-buffer-pool-size=64M",
            "--innodb-lock-wait-timeout=900",
            "--innodb-flush-log-at-trx-commit=0",
        )
        server.wait_until(socket_file.exists)
        password = secrets.token_hex(16)
        client = ["mariadb", "--no-defaults", f"--socket={socket_file}", "--user=root", "--execute"]
        statement = "create database slurm;"
        for host in ("localhost", "127.0.0.1"):
            statement += f"grant all on slurm.* to slurm@{host} identified by '{password}';"
        subprocess.run([*client, statement], check=True)
        _write(
            self.folder / "slurmdbd.conf",
            {
                "AuthType": "auth/munge",
                "AuthInfo": f"socket={self.folder}/munge/sock",
                "CommunicationParameters": "NoInAddrAny",
                "DbdHost": _host(),
                "DbdAddr": "127.0.0.1",
                "DbdPort": port,
                "SlurmUser": getpass.getuser(),
                "StorageType": "accounting_storage/mysql",
                "StorageHost": "127.0.0.1",
                "StoragePort": database_port,
                "StorageUser": "slurm",
                "StoragePass": password,
                "StorageLoc": "slurm",
                "LogFile": self.folder / "log" / "slurmdbd.log",
                "PidFile": self.folder / "slurmdbd.pid",
            },
        )
        environment = {"SLURM_CONF": str(self.folder / "slurmdbd.conf")}
        self._daemon("slurmdbd", "-D", environment=environment).wait_until(lambda: daemon.listens(port))
        return {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "127.0.0.1",
            "AccountingStoragePort": port,
            "AccountingStoragePass": f"{self.folder}/munge/sock",
            "AccountingStorageTRES": "gres/gpu",
            "AccountingStorageEnforce": "associations,limits",
        }

    def _configure(self, settings: dict[str, str | int]) -> None:
        own = {
            "SlurmctldHost": f"{_host()}(127.0.0.1)",
            "SlurmctldPort": self.port,
            "SlurmUser": getpass.getuser(),
            "SlurmdUser": getpass.getuser(),
            "AuthType": "auth/munge",
            # a requeued job waits until its old credential has expired
            "AuthInfo": f"socket={self.folder}/munge/sock,cred_expire=5",
            "CredType": "cred/munge",
            "StateSaveLocation": self.folder / "state",
            "SlurmctldPidFile": self.folder / "slurmctld.pid",
            "SlurmctldLogFile": self.folder / "log" / "slurmctld.log",
            "SlurmdPidFile": f"{self.folder}/slurmd.%n.pid",
            "SlurmdLogFile": f"{self.folder}/log/slurmd.%n.log",
            "SlurmdSpoolDir": f"{self.folder}/spool/%n",
        }
        nodes = [
            f"NodeName={node} NodeHostname={_host()} NodeAddr=127.0.0.1 Port={daemon.free_port()} {NODE}"
            for node in self.nodes
        ]
        partitions = [
            f"PartitionName={name} Nodes=ALL MaxTime=2-00:00:00 DefMemPerCPU=50 State=UP {options}"
            for name, options in PARTITIONS.items()
        ]
        _write(self.folder / "slurm.conf", {**SETTINGS, **own, **settings}, *nodes, *partitions)
        # a GPU must be a device file: without File= it is silently dropped
        for number in range(8):
            (self.folder / f"gpu{number}").symlink_to("/dev/null")
        gpus = [f"NodeName={node} Name=gpu Type=v100-32 File={self.folder}/gpu[0-7]" for node in self.nodes]
        _write(self.folder / "gres.conf", {}, *gpus)
        _write(self.folder / "cgroup.conf", {"CgroupPlugin": "cgroup/v1"})

    def _node_states(self) -> dict[str, str]:
        """Return node → state such as idle; a star after it says that the node does not answer."""
        if not daemon.listens(self.port):  # sinfo would try for seconds
            return {}
        lines = self.run("sinfo", "-h", "-N", "-p", "RM-shared", "-o", "%N %T", check=False).splitlines()
        return dict(line.split(maxsplit=1) for line in lines if line.startswith("node"))

    def _idle(self) -> bool:
        for running in self.daemons.values():
            running.check()
        return self._node_states() == dict.fromkeys(self.nodes, "idle")

    def _answers(self) -> bool:
        states = self._node_states()
        return set(states) == set(self.nodes) and not any(
            state.endswith("*") or state == "unknown" for state in states.values()
        )

    def _daemon(
        self, program: str, *arguments: str | Path, name: str = "", environment: dict[str, str] | None = None
    ) -> Daemon:
        name = name or program
        executable = daemon.program(program)
        if executable is None:
            raise ServiceError(f"{program} is not installed")
        log = self.folder / "log" / name
        self.daemons[name] = daemon.start(log, executable, *arguments, environment=environment or self.environment)
        return self.daemons[name]


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _write(file: Path, settings: dict[str, object], *lines: str) -> None:
    file.touch(mode=0o600)  # slurmdbd refuses to have its password read by others
    file.write_text("".join(f"{line}\n" for line in (*(f"{name}={value}" for name, value in settings.items()), *lines)))


if __name__ == "__main__":  # the guard: its input ends when the process that started it does
    sys.stdin.read()
    Slurm(Path(sys.argv[1]), [], 0).stop()
