import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from toy import until

from services import daemon, ssh
from services.latency import latency
from services.proxy import Proxy
from services.slurm import start


def ended(slurm, job: str) -> str:
    """Wait for a job and return how it ended."""
    until(lambda: not set(slurm.state(job).split()) & {"PENDING", "RUNNING", "COMPLETING"})
    return slurm.state(job)


def running(slurm, job: str) -> None:
    until(lambda: slurm.state(job) == "RUNNING")


def remote(config, host: str, command: str, *options: str) -> str:
    argv = ["ssh", "-F", config, *options, host, command]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def login(server, answer: str, *, keyboard: bool = True) -> str:
    """Log in with what is asked for and return who we are there."""
    paramiko = pytest.importorskip("paramiko")
    transport = paramiko.Transport((server.host, server.port))
    try:
        transport.start_client(timeout=30)
        if keyboard:
            transport.auth_interactive(server.user, lambda title, text, questions: [answer for _ in questions])
        else:
            transport.auth_password(server.user, answer, fallback=False)
        channel = transport.open_session()
        channel.exec_command("id -un")
        with channel.makefile() as output:
            return output.read().decode().strip()
    finally:
        transport.close()


def opened_under(folder: Path) -> list[daemon.Process]:
    """Return the processes that have a file open under `folder`."""
    return [
        process
        for process in daemon.processes()
        if any(file.startswith(f"{folder}/") for file in process.opened()) or str(folder) in process.arguments()
    ]


def receive(client: socket.socket, into: bytearray) -> None:
    while data := client.recv(65536):
        into += data


@pytest.fixture
def config(tmp_path, sshd, jump_sshd):
    return ssh.client_config(tmp_path / "config", jumps={"inner": "login"}, login=jump_sshd, inner=sshd, direct=sshd)


@pytest.fixture
def echo():
    """A port that sends back what it gets."""
    listener = socket.create_server(("127.0.0.1", 0))

    def answer(connection):
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                return

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=answer, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join()


def test_a_job_runs_on_fake_gpus(slurm):
    job = slurm.submit(
        "--partition=GPU-shared", "--gpus=v100-32:2", script="echo $SLURM_JOB_PARTITION $CUDA_VISIBLE_DEVICES"
    )
    assert ended(slurm, job) == "COMPLETED"
    assert (slurm.folder / f"slurm-{job}.out").read_text() == "GPU-shared 0,1\n"


def test_an_array_is_listed_task_by_task(slurm):
    job = slurm.submit("--array=0-4", "--job-name=five of them")
    until(lambda: slurm.state(job) == " ".join(["COMPLETED"] * 5))
    assert sorted(row for row in slurm.jobs() if row[0] == job) == [
        (job, str(index), "five of them", "COMPLETED") for index in range(5)
    ]


def test_an_array_that_is_too_long_is_refused(slurm):
    with pytest.raises(RuntimeError, match="Invalid job array specification"):
        slurm.submit("--array=0-1001")


def test_a_time_over_the_limit_is_refused(slurm):
    with pytest.raises(RuntimeError, match="Requested time limit is invalid"):
        slurm.submit("--time=3-0")


def test_a_failure_is_told(slurm):
    assert ended(slurm, slurm.submit(script="exit 3")) == "FAILED"


def test_the_time_limit_ends_a_job(slurm):
    job = slurm.submit("--time=1", script="sleep 600")
    running(slurm, job)
    # a job that has only just begun to run may not be changed yet
    until(lambda: "error" not in slurm.run("scontrol", "update", f"job={job}", "EndTime=now", check=False))
    assert ended(slurm, job) == "TIMEOUT"
    assert "DUE TO TIME LIMIT" in (slurm.folder / f"slurm-{job}.out").read_text()


def test_memory_over_the_limit_ends_a_job(slurm):
    job = slurm.submit("--mem=50", script="exec python3 -c 'a = bytearray(200 << 20); import time; time.sleep(600)'")
    assert ended(slurm, job) == "FAILED"
    assert "exceeded memory limit" in (slurm.folder / f"slurm-{job}.out").read_text()


def test_a_requeued_job_runs_again(slurm, tmp_path):
    job = slurm.submit(script=f"echo >> {tmp_path}/runs; test $SLURM_RESTART_COUNT || sleep 600")
    until((tmp_path / "runs").exists)
    slurm.run("scontrol", "requeue", job)
    assert ended(slurm, job) == "COMPLETED"
    assert (tmp_path / "runs").read_text() == "\n\n"


@pytest.mark.parametrize(("option", "state"), [("--requeue", "PENDING"), ("--no-requeue", "NODE_FAIL")])
def test_a_node_that_goes_down_takes_its_jobs_along(slurm, option, state):
    job = slurm.submit("--nodelist=node1", option, script="sleep 600")
    running(slurm, job)
    slurm.down("node1")
    until(lambda: slurm.state(job) == state)
    assert ended(slurm, slurm.submit("--nodelist=node2")) == "COMPLETED"


def test_a_scheduler_that_is_down_says_so_and_forgets_nothing(slurm):
    job = slurm.submit(script="sleep 600")
    running(slurm, job)
    slurm.kill_controller()
    assert "Unable to contact slurm controller" in slurm.run("squeue", check=False)
    slurm.start_controller()
    assert slurm.state(job) == "RUNNING"


def test_the_cluster_is_as_new_for_the_next_test(slurm):
    slurm.submit(script="trap '' TERM; sleep 600")
    slurm.down("node1")
    slurm.kill_controller()
    slurm.restore()
    assert ended(slurm, slurm.submit("--nodelist=node1")) == "COMPLETED"
    assert slurm.run("squeue", "-h") == ""


def test_a_cluster_that_cannot_start_says_why_and_leaves_nothing(slurm, tmp_path):
    with pytest.raises(daemon.ServiceError, match=r"slurm(ctld|d) ended with 1\n(.*\n)*.*select/nonsense"):
        start(tmp_path, SelectType="select/nonsense")
    assert opened_under(tmp_path) == []


def test_a_session_that_is_killed_leaves_nothing(slurm, tmp_path):
    program = f"""if True:
        import os, pathlib, time
        from services import slurm

        cluster = slurm.start(pathlib.Path({str(tmp_path)!r}), nodes=1)
        job = cluster.submit(script="trap '' TERM; sleep 600")
        while cluster.state(job) != "RUNNING":
            time.sleep(0.02)
        os.kill(os.getpid(), 9)
    """
    killed = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1], check=False, timeout=60)
    assert killed.returncode == -9
    until(lambda: not opened_under(tmp_path))


def test_clusters_do_not_meet(slurm, tmp_path):
    other = start(tmp_path, nodes=1, MaxArraySize=11)
    try:
        with pytest.raises(RuntimeError, match="Invalid job array specification"):
            other.submit("--array=0-11")
        job = other.submit("--job-name=other", script="trap '' TERM; sleep 600")
        running(other, job)
        assert "other" not in {name for _, _, name, _ in slurm.jobs()}
    finally:
        other.stop()
    assert opened_under(tmp_path) == []


def test_accounting_answers_sacct(slurm_accounting):
    job = slurm_accounting.submit(script="exit 3")
    assert ended(slurm_accounting, job) == "FAILED"
    ask = ["sacct", "-X", "-n", "-P", "-S", "now-1hour", "-j", job, "--format=State,ExitCode,Account"]
    until(lambda: slurm_accounting.run(*ask) == "FAILED|3:0|hpcbench\n")


def test_accounting_limits_a_user(slurm_accounting):
    slurm_accounting.limit(MaxSubmitJobs=1)
    try:
        slurm_accounting.submit(script="sleep 600")
        with pytest.raises(RuntimeError, match="Job violates accounting/QOS policy"):
            slurm_accounting.submit()
    finally:
        slurm_accounting.limit(MaxSubmitJobs=-1)


def test_ssh_runs_a_command_that_knows_the_cluster(slurm, config):
    expected = f"{slurm.folder}/slurm.conf\n"
    assert remote(config, "direct", "echo $SLURM_CONF") == expected
    assert remote(config, "direct", "bash -lc 'echo $SLURM_CONF'") == expected
    assert "node1" in remote(config, "direct", "sinfo -N")


def test_ssh_through_another_host(config, sshd, jump_sshd):
    before = jump_sshd.log.read_text().count("Accepted publickey")
    assert remote(config, "inner", "echo $SLURM_CONF")
    assert jump_sshd.log.read_text().count("Accepted publickey") == before + 1


def test_a_passcode_works_once(passcode_sshd):
    paramiko = pytest.importorskip("paramiko")
    code = passcode_sshd.code()
    assert login(passcode_sshd, code) == passcode_sshd.user
    for _ in range(2):
        with pytest.raises(paramiko.AuthenticationException):
            login(passcode_sshd, code)
    assert login(passcode_sshd, passcode_sshd.code()) == passcode_sshd.user


@pytest.mark.parametrize("keyboard", [True, False])
def test_a_password_is_asked_for(password_sshd, keyboard):
    paramiko = pytest.importorskip("paramiko")
    assert login(password_sshd, password_sshd.password, keyboard=keyboard) == password_sshd.user
    with pytest.raises(paramiko.AuthenticationException):
        login(password_sshd, "wrong", keyboard=keyboard)


def test_a_cut_breaks_the_connection_and_nothing_else(config, sshd, tmp_path):
    command = f"touch {tmp_path}/started; until test -e {tmp_path}/go; do sleep 0.1; done; touch {tmp_path}/done"
    with subprocess.Popen(["ssh", "-F", config, "direct", command], stderr=subprocess.PIPE) as client:
        until((tmp_path / "started").exists)
        assert len(sshd.sessions()) == 1
        sshd.cut()
        assert client.wait(60) == 255
    assert sshd.sessions() == []
    (tmp_path / "go").touch()
    until((tmp_path / "done").exists)
    assert remote(config, "direct", "echo again") == "again\n"


def test_a_server_that_stops_ends_what_it_started(tmp_path):
    server = ssh.start(tmp_path / "sshd")
    config = ssh.client_config(tmp_path / "config", host=server)
    pid = int(remote(config, "host", "nohup sleep 600 > /dev/null 2>&1 & echo $!"))
    assert pid in {process.pid for process in daemon.processes()}
    server.stop()
    assert pid not in {process.pid for process in daemon.processes()}


def test_a_proxy_passes_all_on(echo):
    sent = bytes(range(256)) * 40_000
    with Proxy(echo) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
        threading.Thread(target=lambda: (client.sendall(sent), client.shutdown(socket.SHUT_WR))).start()
        got = bytearray()
        receive(client, got)
    assert got == sent


def test_a_proxy_cuts_refuses_and_serves_again(echo):
    with Proxy(echo) as proxy:
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"one")
            assert client.recv(10) == b"one"
            proxy.cut()
            with pytest.raises(ConnectionResetError):
                client.recv(10)
        proxy.refuse = True
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", proxy.port))
        proxy.refuse = False
        with socket.create_connection(("127.0.0.1", proxy.port)) as client:
            client.sendall(b"two")
            assert client.recv(10) == b"two"


def test_a_proxy_cuts_after_so_many_bytes(echo):
    with Proxy(echo) as proxy, socket.create_connection(("127.0.0.1", proxy.port)) as client:
        proxy.cut_after(1000 + 300)
        client.sendall(bytes(1000))
        got = bytearray()
        with pytest.raises(ConnectionResetError):
            receive(client, got)
        assert len(got) <= 300


def test_latency_delays_one_port(echo):
    def round_trip(port: int) -> float:
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client.sendall(b"first")
            client.recv(10)
            begun = time.perf_counter()
            client.sendall(b"second")
            client.recv(10)
            return time.perf_counter() - begun

    with latency(echo, 200) as far:
        assert round_trip(far) >= 0.2
        assert min(round_trip(echo) for _ in range(20)) < 0.1


def test_ssh_from_far_away(sshd, tmp_path):
    with latency(sshd.port, 20) as far:
        config = ssh.client_config(tmp_path / "config", far=sshd.behind(far))
        assert remote(config, "far", "echo hello") == "hello\n"
