import asyncio
import contextlib
import hashlib
import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from services import daemon, ssh
from services.proxy import Proxy
from toy import until

from hpcbench.errors import SiteError
from hpcbench.site import Reach
from hpcbench.submit.reach import connect, hops, openssh, paramiko_ssh
from hpcbench.submit.reach.paramiko_ssh import Paramiko
from hpcbench.submit.reach.transport import Local

HOSTILE = [
    "plain",
    "two words",
    "",
    "it's",
    '"quoted"',
    "$(touch x) `touch x` $HOME",
    "a\nb\n",
    "\\n \\' *?[]~",
    "--option",
    "; exit 9 #",
    "grüße 日本 🙂",
    "!history !!",
]
ECHO = """printf '%s\\0' "$@"  # 'a comment with quotes" and $(touch x)
x='é'; test "$x" = "é" || exit 8
"""

# Run where a person types. It says what a call gave, holds the connection while the test looks round, and calls again.
SESSION = """
import json, sys
from hpcbench.errors import SiteError
from hpcbench.site import Reach
from hpcbench.submit.reach import openssh
from hpcbench.submit.reach import connect

try:
    if sys.argv[1] == "login":
        openssh.login(Reach(**json.loads(sys.argv[2])), "toy")
    else:
        with connect(Reach(**json.loads(sys.argv[2])), "toy") as way:
            if sys.argv[1] == "long":
                way.call("echo; sleep 600", sink=lambda received: print("HELD", flush=True))
            print("ANSWER", way.call("echo in; cat", data=b"data").stdout)
            if sys.argv[1] == "hold":
                input("HELD")
                print("ANSWER", way.call("echo again").stdout)
except SiteError as error:
    print("ERROR", json.dumps([str(error), error.exit_code, error.needs_login]))
    if sys.argv[1] == "twice":
        try:
            way.call("true")
        except SiteError as error:
            print("SECOND", json.dumps([str(error), error.exit_code, error.needs_login]))
"""


@pytest.fixture(autouse=True)
def no_surprises(monkeypatch, tmp_path):
    """Connections are kept in the tests' own cache, and nothing of the person's ~/.ssh is read."""
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def outer(tmp_path_factory, jump_sshd):
    """A login node; `inner` is a host that is reached from it only."""
    folder = tmp_path_factory.mktemp("outer")
    (folder / "bin").mkdir()
    config = ssh.client_config(folder / "config", inner=jump_sshd)
    program = folder / "bin" / "ssh"
    program.write_text(f'#!/bin/sh\nexec {daemon.program("ssh")} -F {config} "$@"\n')
    program.chmod(0o755)
    server = ssh.start(folder / "sshd", environment={"PATH": f"{program.parent}:/usr/local/bin:/usr/bin:/bin"})
    yield server
    server.stop()


@pytest.fixture
def opened():
    """Open shared connections, and close them when the test is over."""
    reaches = []

    def login(reach: Reach) -> None:
        reaches.append(reach)
        openssh.login(reach.model_copy(update={"login": "key"}), "toy")  # the same connection, without a passcode

    yield login
    for reach in reaches:
        openssh.logout(reach, "toy")
        assert not openssh.is_open(reach)


def reach(server, **more) -> Reach:
    keys = {"ssh": server.host, "port": server.port, "user": server.user, "known_hosts": str(server.known_hosts)}
    return Reach(**{**keys, "identity": str(server.key), **more})


@pytest.fixture(params=["local", "paramiko", "openssh", "nested"])
def way(request, outer, opened):
    site = {"local": "local", "paramiko": reach(outer)}.get(request.param)
    if site is None:
        site = reach(outer, login="passcode", then=["inner"] if request.param == "nested" else [])
        opened(site)
    with connect(site, "toy") as transport:
        yield transport


def error(site: Reach, script: str = "true", **more) -> str:
    """Return the one line of the error that a call raises."""
    with connect(site, "toy") as transport, pytest.raises(SiteError) as caught:
        transport.call(script, **more)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def fingerprint(public: Path) -> str:
    return subprocess.run(["ssh-keygen", "-lf", public], capture_output=True, text=True, check=True).stdout.split()[1]


class Network(Proxy):
    """A proxy that may break what is closed already, and that leaves nothing unfinished."""

    def _break(self, writer):
        with contextlib.suppress(OSError):
            super()._break(writer)

    def close(self):
        async def end():
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.refuse = True
        self._do(end())
        super().close()


class Person:
    """Someone at a terminal of their own, with a program that asks."""

    def __init__(self, act: str, site: Reach, *, terminal: bool = True):
        # setsid: what has no terminal of its own must not find that of whoever runs the tests
        argv = ["setsid", *(["--ctty"] if terminal else []), "--wait", sys.executable, "-c", SESSION]
        self.said = ""
        self._master, slave = os.openpty()
        self._program = subprocess.Popen(
            [*argv, act, site.model_dump_json(exclude_none=True)],
            stdin=slave if terminal else subprocess.DEVNULL,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)

    def type(self, prompt: str, answer: str) -> None:
        """Wait for a prompt and answer it."""
        self.wait(prompt)
        os.write(self._master, f"{answer}\n".encode())
        self.said += "<typed>"

    def wait(self, pattern: str) -> None:
        """Wait for something that was not said when something was typed last."""
        while not re.search(pattern, self.said.rpartition("<typed>")[2]):
            assert self._read(), self.said

    def end(self) -> str:
        """Wait for the program to end, and return all that stands on the terminal."""
        while self._read():
            pass
        os.close(self._master)
        self._program.wait()
        return self.said

    def _read(self) -> bool:
        ready, _, _ = select.select([self._master], [], [], 60)
        assert ready, self.said
        try:
            read = os.read(self._master, 4096)
        except OSError:  # Linux, once nobody holds the other end
            return False
        self.said += read.decode()
        return bool(read)


def errors(said: str, word: str = "ERROR") -> list:
    (line,) = re.findall(rf"{word} (\[.*\])", said)
    return json.loads(line)


def logins(server) -> list[str]:
    """Return what a server has logged of logins, those that failed too."""
    return [line for line in server.log.read_text().splitlines() if re.search(r"Accepted|Failed|failure|Invalid", line)]


def refusals(server) -> list[str]:
    """Return what a server has logged of clients that left without a login."""
    return [line for line in server.log.read_text().splitlines() if "[preauth]" in line]


def contacts(server) -> list[str]:
    """Return all that a server has logged of clients."""
    return [line for line in server.log.read_text().splitlines() if "127.0.0.1 port" in line]


def nobody_else_knows(secret: str, folder: Path) -> None:
    for process in Path("/proc").glob("[0-9]*"):
        for file in ("cmdline", "environ"):
            try:
                assert secret.encode() not in (process / file).read_bytes()
            except OSError:
                continue
    for written in (folder, Path(os.environ["XDG_CACHE_HOME"])):
        for file in written.rglob("*"):
            assert not file.is_file() or secret.encode() not in file.read_bytes()


def test_a_script_tells_its_status_and_what_it_wrote(way):
    answer = way.call("echo out; echo err >&2; exit 7")
    assert (answer.status, answer.stdout, answer.stderr) == (7, b"out\n", "err\n")
    assert way.call("cat", data=b"\0\xff\r\n").stdout == b"\0\xff\r\n"
    assert way.call("exit 0").status == 0


def test_status_255_of_a_script_is_no_broken_connection(way):
    answer = way.call("echo out; echo err >&2; exit 255")
    assert (answer.status, answer.stdout, answer.stderr) == (255, b"out\n", "err\n")


def test_arguments_and_scripts_arrive_as_they_are(way, tmp_path):
    answer = way.call(ECHO, *HOSTILE)
    assert answer.status == 0, answer.stderr
    assert answer.stdout.decode().split("\0")[:-1] == HOSTILE
    assert way.call('echo "$0" $#').stdout == b"hpcbench 0\n"
    assert not list(tmp_path.rglob("x"))


def test_much_up_and_much_down_at_once(way):
    data = os.urandom(20 << 20)
    down = hashlib.sha256()
    answer = way.call("cat", data=data, sink=down.update)
    assert (answer.status, answer.stdout, answer.stderr) == (0, b"", "")
    assert down.hexdigest() == hashlib.sha256(data).hexdigest()


def test_a_script_that_writes_much_before_it_reads(way, tmp_path):
    (tmp_path / "data").write_bytes(data := os.urandom(20 << 20))
    with (tmp_path / "data").open("rb") as file:
        answer = way.call("head -c 20000000 /dev/zero; head -c 9000000 /dev/zero >&2; sha256sum", data=file)
    assert answer.stdout == bytes(20_000_000) + hashlib.sha256(data).hexdigest().encode() + b"  -\n"
    assert len(answer.stderr) == 9_000_000


def test_a_script_need_not_read_its_input(way):
    assert way.call("exit 3", data=bytes(20 << 20)).status == 3


def test_a_script_that_says_nothing_is_given_up(way):
    with pytest.raises(SiteError, match=r"^(toy|this machine) has not answered for 1 seconds$"):
        way.call("sleep 600", patience=1)
    assert way.call("echo again").stdout == b"again\n"


@pytest.mark.parametrize("part", ["data", "sink"])
def test_a_failure_on_this_side_is_told_as_it_is(way, part):
    class Going:
        pieces = [b"a piece"]

        def read(self, size):
            if not self.pieces:
                raise OSError("a file that went")
            return self.pieces.pop()

    def full(received):
        raise OSError("a full disk")

    with pytest.raises(OSError, match="a f"):
        way.call("echo; sleep 600", **{part: Going() if part == "data" else full})


def test_one_connection_serves_all_calls(outer):
    before = len(logins(outer))
    with connect(reach(outer), "toy") as way:
        assert len(logins(outer)) == before  # opened by the first call
        for _ in range(5):
            assert way.call(":").status == 0
    assert len(logins(outer)) == before + 1


def test_what_was_opened_is_closed(outer):
    with connect(reach(outer), "toy") as way:
        way.call(":")
        assert len(outer.sessions()) == 1
    for thread in threading.enumerate():
        if thread is not threading.current_thread() and "hpcbench" in thread.name:
            thread.join()
    until(lambda: not outer.sessions())


def test_through_a_jump_host(outer, jump_sshd, tmp_path):
    known = tmp_path / "both"
    known.write_text(outer.known_hosts.read_text() + jump_sshd.known_hosts.read_text())
    keys = jump_sshd.folder / "authorized_keys"
    keys.write_text(keys.read_text() + (outer.folder / "client_key.pub").read_text())
    before = len(logins(outer))
    site = reach(
        jump_sshd,
        identity=str(outer.key),
        known_hosts=str(known),
        jump=f"{outer.user}@{outer.host}:{outer.port}",
    )
    with connect(site, "toy") as way:
        assert way.call("cat", data=bytes(1 << 20)).stdout == bytes(1 << 20)
    assert len(logins(outer)) == before + 1
    assert error(site.model_copy(update={"port": 1})) == (
        "toy: 127.0.0.1 port 1 cannot be reached from the jump host: 'Connect failed'"
    )
    assert "host key of 127.0.0.1 port" in error(site.model_copy(update={"known_hosts": str(outer.known_hosts)}))


def test_an_alias_of_ssh_config_with_its_jump_host(outer, jump_sshd, tmp_path):
    (tmp_path / ".ssh").mkdir()
    ssh.client_config(tmp_path / ".ssh" / "config", jumps={"far": "near"}, near=outer, far=jump_sshd)
    before = len(logins(outer))
    with connect(Reach(ssh="far"), "toy") as way:
        assert way.call("echo $HPCBENCH_TEST_SSHD").stdout.decode() == f"{jump_sshd.folder}\n"
    assert len(logins(outer)) == before + 1
    # the site's port comes before the alias's, and so leads to a host that does not take the alias's key
    assert "does not let" in error(Reach(ssh="far", port=outer.port, known_hosts=str(outer.known_hosts)))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ("Host a\n ProxyJump b\nHost b\n ProxyJump a\n", "the jump hosts of a lead in a circle"),
        ("Host a\n ProxyCommand nc %h %p\n", "~/.ssh/config has a ProxyCommand for a; only ProxyJump is followed"),
        ("Host a\n ProxyJump x@y:z:1\n", "'x@y:z:1' is no jump host such as user@host:port"),
        ("Host a\n Port many\n", "HOME/.ssh/config: invalid literal for int() with base 10: 'many'"),
        ("nonsense\n", "HOME/.ssh/config: Unparsable line nonsense"),
    ],
)
def test_a_config_that_leads_nowhere(tmp_path, config, said):
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(config)
    assert error(Reach(ssh="a")) == "toy: " + said.replace("HOME", str(tmp_path))


def test_ways_of_ssh_config(tmp_path):
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(
        "Host a\n HostName a.example\n User me\n Port 2022\n ProxyJump you@b:23,c\n HostKeyAlias known\n"
        " IdentitiesOnly yes\n IdentityFile ~/.ssh/%h\n UserKnownHostsFile ~/one ~/two\nHost b\n ProxyJump d\n"
    )
    found = hops.hops(Reach(ssh="a", user="other", identity="~/mine", known_hosts="~/three"))
    assert [(hop.host, hop.port) for hop in found] == [("d", 22), ("b", 23), ("c", 22), ("a.example", 2022)]
    assert [hop.listed for hop in found] == ["d", "[b]:23", "c", "known"]
    assert found[1].user == "you"
    assert found[3].user == "other"
    assert found[3].only
    assert found[3].identities == (tmp_path / "mine", tmp_path / ".ssh" / "a.example")
    assert found[3].known == (
        tmp_path / "one", tmp_path / "two", *map(Path, hops.KNOWN_HOSTS), tmp_path / "three",
    )  # fmt: skip


def test_a_host_key_that_is_not_known(outer, tmp_path):
    before = len(logins(outer))
    assert error(reach(outer, known_hosts=None)) == (
        f"toy: the host key of 127.0.0.1 port {outer.port} is not known: ssh-ed25519 "
        f"{fingerprint(outer.folder / 'host_key.pub')}; compare it with the one that the site publishes, "
        f"then accept it once by `ssh -p {outer.port} 127.0.0.1`"
    )
    assert len(logins(outer)) == before
    assert not (tmp_path / ".ssh").exists()


def test_a_host_key_that_changed(outer, tmp_path):
    kind, other = (outer.folder / "client_key.pub").read_text().split()[:2]
    (tmp_path / "known").write_text(f"# a comment\n\n[127.0.0.1]:{outer.port} {kind} {other}\n")
    assert error(reach(outer, known_hosts=str(tmp_path / "known"))) == (
        f"toy: the host key of 127.0.0.1 port {outer.port} was ssh-ed25519 "
        f"{fingerprint(outer.folder / 'client_key.pub')} ({tmp_path}/known:3) and is now ssh-ed25519 "
        f"{fingerprint(outer.folder / 'host_key.pub')}: somebody may be in between; ask the site, "
        "and remove that line only when it says so"
    )


def test_ways_to_list_a_host_key(outer, tmp_path):
    known = tmp_path / "known"
    kind, key = (outer.folder / "host_key.pub").read_text().split()[:2]
    site = reach(outer, known_hosts=str(known))
    for names in ("127.0.0.1,[127.0.0.?]:*", f"[127.0.0.1]:{outer.port}"):
        known.write_text(f"damaged\nx ssh-ed25519 %%%\n{names} {kind} {key} a comment\n")
        with connect(site, "toy") as way:
            assert way.call(":").status == 0
    known.write_text(f"[127.0.0.1]:{outer.port} {kind} {key}\n")
    subprocess.run(["ssh-keygen", "-Hf", known], check=True, capture_output=True)
    assert "127.0.0.1" not in known.read_text()
    with connect(site, "toy") as way:
        assert way.call(":").status == 0
    known.write_text(f"![127.0.0.1]:{outer.port},* {kind} {key}\n@cert-authority * {kind} {key}\n")
    assert "is not known" in error(site)
    known.write_text(f"* {kind} {key}\n@revoked * {kind} {key}\n")
    assert error(site) == (
        f"toy: the host key of 127.0.0.1 port {outer.port} is revoked: ssh-ed25519 "
        f"{fingerprint(outer.folder / 'host_key.pub')} ({known}:2)"
    )


def test_a_key_that_is_refused_is_not_tried_again(outer, tmp_path):
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-qt", "rsa", "-N", "", "-f", key], check=True)
    before = len(refusals(outer))
    with connect(reach(outer, identity=str(key)), "toy") as way:
        for _ in range(3):
            with pytest.raises(SiteError) as caught:
                way.call("true")
            assert str(caught.value) == (
                f"toy: 127.0.0.1 port {outer.port} does not let {outer.user} in: it does not take {key}; "
                "it allows publickey"
            )
    until(lambda: not outer.sessions())
    assert len(refusals(outer)) == before + 1


def test_why_there_is_no_key(outer, tmp_path):
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "secret", "-f", tmp_path / "locked"], check=True)
    (tmp_path / "text").write_text("no key\n")
    beginning = f"toy: 127.0.0.1 port {outer.port} does not let {outer.user} in: "
    for file, why in (
        ("locked", f"{tmp_path}/locked has a passphrase (ssh-add {tmp_path}/locked)"),
        ("text", f"{tmp_path}/text cannot be read as a private key"),
        ("absent", f"{tmp_path}/absent does not exist"),
        (None, "no key was found"),
    ):
        identity = str(tmp_path / file) if file else None
        assert error(reach(outer, identity=identity)) == f"{beginning}{why}; it allows publickey"


def test_a_key_of_the_agent_and_a_default_key(outer, tmp_path, monkeypatch):
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519").write_text(outer.key.read_text())
    with connect(reach(outer, identity=None), "toy") as way:
        assert way.call(":").status == 0
    (tmp_path / ".ssh" / "id_ed25519").unlink()
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", tmp_path / "agent"], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        until((tmp_path / "agent").exists)
        subprocess.run(["ssh-add", "-q", outer.key], check=True, stderr=subprocess.DEVNULL)
        with connect(reach(outer, identity=None), "toy") as way:
            assert way.call(":").status == 0
        # a key with a passphrase that the agent has
        locked = tmp_path / "locked"
        locked.write_text(outer.key.read_text())
        locked.chmod(0o600)
        subprocess.run(["ssh-keygen", "-qp", "-N", "secret", "-f", locked], check=True, stdout=subprocess.DEVNULL)
        (tmp_path / "locked.pub").write_text((outer.folder / "client_key.pub").read_text())
        with connect(reach(outer, identity=str(locked)), "toy") as way:
            assert way.call(":").status == 0
    finally:
        agent.terminate()
        agent.wait()


def test_a_port_that_is_closed(outer):
    port = daemon.free_port()
    assert error(reach(outer, port=port)) == f"toy: 127.0.0.1 port {port} refuses connections"


def test_a_name_that_is_not_there(outer):
    assert error(reach(outer, ssh="nowhere.invalid")) == (
        "toy: no host is called nowhere.invalid; see `reach` of the site file"
    )


def test_a_port_where_no_ssh_is(outer, monkeypatch):
    monkeypatch.setattr(paramiko_ssh, "CONNECT", 0.5)
    for greeting in (b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"):
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def greet(listener=listener, greeting=greeting):
                connection, _ = listener.accept()
                with connection:
                    connection.sendall(greeting)
                    while connection.recv(1000):
                        pass

            thread = threading.Thread(target=greet)
            thread.start()
            port = listener.getsockname()[1]
            assert error(reach(outer, port=port)) == f"toy: 127.0.0.1 port {port} did not greet as an ssh server does"
            thread.join()


def test_a_connection_that_breaks_in_the_middle(outer, capfd):
    for script, data in (("sleep 600", b""), ("cat", bytes(50 << 20)), ("cat /dev/zero", b"")):
        with Network(outer.port) as proxy, connect(reach(outer.behind(proxy.port)), "toy") as way:
            way.call(":")
            proxy.cut_after(2 << 20)
            if script == "sleep 600":
                threading.Timer(0.3, proxy.cut).start()
            with pytest.raises(SiteError, match=r"^the connection to toy broke$") as caught:
                way.call(script, data=data, sink=lambda received: None)
            assert caught.value.exit_code == 3
            assert way.call("echo again").stdout == b"again\n"  # by a new connection
    assert capfd.readouterr() == ("", "")


def test_a_server_that_goes_in_the_middle(outer):
    with connect(reach(outer), "toy") as way, pytest.raises(SiteError, match=r"^the connection to toy broke$"):
        way.call("echo here; sleep 600", sink=lambda _: outer.cut())


def test_a_connection_that_breaks_leaves_one_line_on_the_terminal(outer):
    with Network(outer.port) as proxy:
        person = Person("long", reach(outer.behind(proxy.port)), terminal=False)
        person.wait("HELD")
        proxy.cut()
        assert person.end().splitlines() == ["HELD", 'ERROR ["the connection to toy broke", 3, false]']


def test_a_shared_connection_that_breaks_in_the_middle(outer, opened):
    with Network(outer.port) as proxy:
        site = reach(outer.behind(proxy.port), login="passcode")
        opened(site)
        broke = "^the connection to toy broke: hpcbench login toy$"
        with connect(site, "toy") as way, pytest.raises(SiteError, match=broke):
            way.call("echo here; sleep 600", sink=lambda _: proxy.cut())
        before = contacts(outer)
        assert error(site) == "not logged in to toy: hpcbench login toy"
        assert contacts(outer) == before


def test_login_and_logout(outer, opened, capsys):
    site = reach(outer, then=["inner"])
    opened(site)
    before = logins(outer)
    openssh.login(site, "toy")
    assert logins(outer) == before
    openssh.logout(site, "toy")
    openssh.logout(site, "toy")
    assert capsys.readouterr().out == (
        "toy: logged in, until 10m after the last command\n"
        "toy: already logged in\ntoy: logged out\ntoy: was not logged in\n"
    )
    with connect(site, "toy") as way, pytest.raises(SiteError) as caught:
        way.call("true")
    assert str(caught.value) == "not logged in to toy: hpcbench login toy"
    assert caught.value.needs_login
    assert logins(outer) == before


def test_the_folder_of_sockets_is_the_users_own(outer, opened, monkeypatch, tmp_path_factory):
    runtime = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    (runtime / "hpcbench").mkdir(mode=0o777)
    opened(reach(outer, login="passcode"))
    assert (runtime / "hpcbench").stat().st_mode & 0o777 == 0o700
    (kept,) = (runtime / "hpcbench").iterdir()
    assert kept.is_socket()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long := runtime / ("long" * 20)))
    long.mkdir()
    assert error(reach(outer, login="passcode")) == (
        f"{long}/hpcbench: too long a path for a socket; set XDG_RUNTIME_DIR to a short one"
    )
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))


def test_an_inner_host_that_does_not_let_us_in(outer, opened, jump_sshd):
    site = reach(outer, then=["inner"])
    opened(site)
    keys = jump_sshd.folder / "authorized_keys"
    allowed = keys.read_text()
    keys.write_text("")
    try:
        assert error(site) == (
            f"toy: the login worked, but from there inner cannot be used: {jump_sshd.user}@127.0.0.1 does not let this "
            "account in (Permission denied (publickey)); ask the site's support"
        )
    finally:
        keys.write_text(allowed)
    assert error(reach(outer, then=["nowhere.invalid"])) == (
        "toy: the login worked, but from there nowhere.invalid cannot be used: no host is called nowhere.invalid; "
        "ask the site's support"
    )


def test_a_login_that_fails_is_one_line(outer, tmp_path):
    kind, other = (outer.folder / "client_key.pub").read_text().split()[:2]
    (tmp_path / "known").write_text(f"[127.0.0.1]:{outer.port} {kind} {other}\n")
    (tmp_path / "empty").touch()
    subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    port = daemon.free_port()
    for more, why in (
        (
            {"known_hosts": str(tmp_path / "known")},
            f"the host key is another one than before (now {fingerprint(outer.folder / 'host_key.pub')}, before in "
            f"{tmp_path}/known:1): somebody may be in between, ask the site",
        ),
        (
            {"known_hosts": str(tmp_path / "empty")},
            "the host key is not known and was not accepted; compare it with the one that the site publishes",
        ),
        (
            {"identity": str(tmp_path / "key")},
            f"{outer.user}@127.0.0.1 does not let this account in (Permission denied (publickey))",
        ),
        ({"port": port}, f"host 127.0.0.1 port {port}: Connection refused"),
        ({"ssh": "nowhere.invalid"}, "no host is called nowhere.invalid"),
    ):
        said = Person("login", reach(outer, **more), terminal=False).end()
        assert errors(said) == [f"no login to toy: {why}; nothing was tried again", 3, True]
        assert "Traceback" not in said


def test_a_passcode_is_typed_once_and_serves_all_commands(passcode_sshd, tmp_path):
    site = reach(passcode_sshd, login="passcode")
    code = passcode_sshd.code()
    before = len(logins(passcode_sshd))
    person = Person("login", site)
    try:
        person.type("password", code)
        said = person.end()
        assert "toy: logged in, until 10m after the last command" in said
        assert code not in said
        nobody_else_knows(code, tmp_path)
        with connect(site, "toy") as way:
            for number in range(10):
                assert way.call('echo "$1"', str(number)).stdout == f"{number}\n".encode()
        assert len(logins(passcode_sshd)) == before + 1
        # the one that is killed is ours: its number is what ssh says of this very socket
        asked = subprocess.run(
            ["ssh", *openssh._options(site), "-O", "check", site.ssh], capture_output=True, text=True, check=True
        )
        os.kill(int(re.search(r"pid=(\d+)", asked.stderr)[1]), 9)
        until(lambda: not passcode_sshd.sessions())
        contacted = contacts(passcode_sshd)
        for _ in range(3):
            with connect(site, "toy") as way, pytest.raises(SiteError) as caught:
                way.call("true")
            assert str(caught.value) == "not logged in to toy: hpcbench login toy"
            assert caught.value.needs_login
        assert contacts(passcode_sshd) == contacted
    finally:
        openssh.logout(site, "toy")


def test_a_wrong_passcode_is_tried_once(passcode_sshd, tmp_path):
    site = reach(passcode_sshd, login="passcode")
    before = len(logins(passcode_sshd))
    person = Person("login", site)
    person.type("password", "000000")
    said = person.end()
    (message, status, needs_login) = errors(said)
    assert message == (
        f"no login to toy: {passcode_sshd.user}@127.0.0.1 does not let this account in "
        "(Permission denied (keyboard-interactive)); nothing was tried again"
    )
    assert (status, needs_login) == (3, True)
    tried = logins(passcode_sshd)[before:]
    assert [line for line in tried if "Accepted" in line] == []
    assert len([line for line in tried if "Failed keyboard-interactive" in line or "PAM: Auth" in line]) == 1, tried
    assert not openssh.is_open(site)


def test_no_passcode_without_a_terminal(passcode_sshd):
    contacted = contacts(passcode_sshd)
    said = Person("login", reach(passcode_sshd, login="passcode"), terminal=False).end()
    assert errors(said) == [
        "toy: a passcode is typed on a terminal, and there is none; run hpcbench login in one", 3, True,
    ]  # fmt: skip
    assert contacts(passcode_sshd) == contacted


def test_a_password_is_typed_once(password_sshd, tmp_path):
    before = len(logins(password_sshd))
    person = Person("hold", reach(password_sshd, identity=None, login="password"))
    person.type(rf"\({password_sshd.user}@127.0.0.1\) Password: ", password_sshd.password)
    person.wait("HELD")
    nobody_else_knows(password_sshd.password, tmp_path)
    person.type("HELD", "")
    said = person.end()
    assert "ANSWER b'in\\ndata'" in said
    assert "ANSWER b'again\\n'" in said
    assert password_sshd.password not in said
    assert len(logins(password_sshd)) == before + 1


def test_a_wrong_password_is_tried_once(password_sshd):
    before = len(logins(password_sshd))
    person = Person("twice", reach(password_sshd, identity=None, login="password"))
    person.type("Password: ", "hunter2")
    said = person.end()
    refused = (
        f"toy: 127.0.0.1 port {password_sshd.port} did not accept what was typed for {password_sshd.user}; "
        "nothing was tried again"
    )
    assert errors(said) == [refused, 3, False]
    assert errors(said, "SECOND") == [refused, 3, False]
    assert "hunter2" not in said
    tried = logins(password_sshd)[before:]
    assert len([line for line in tried if "Failed" in line or "PAM: Auth" in line]) == 1, tried


def test_a_password_where_nothing_else_is_allowed(password_sshd, tmp_path, monkeypatch):
    monkeypatch.setattr(
        ssh, "BY_PASSWORD", "UsePAM yes\nKbdInteractiveAuthentication no\nAuthenticationMethods password"
    )
    server = ssh.start(tmp_path / "sshd", password="open sesame")
    try:
        person = Person("call", reach(server, identity=None, login="password"))
        person.type(r"Password: ", server.password)
        assert "ANSWER b'in\\ndata'" in person.end()
    finally:
        server.stop()


def test_a_key_and_then_what_is_typed(passcode_sshd, tmp_path, monkeypatch):
    both = "UsePAM yes\nPasswordAuthentication no\nAuthenticationMethods publickey,keyboard-interactive"
    monkeypatch.setattr(ssh, "BY_PASSCODE", both)
    server = ssh.start(tmp_path / "sshd", passcode=True)
    try:
        person = Person("call", reach(server, login="password"))
        person.type(r"password", server.code())
        assert "ANSWER b'in\\ndata'" in person.end()
        assert error(reach(server)) == (
            f"toy: 127.0.0.1 port {server.port} does not let {server.user} in: it takes {server.key}, and wants more; "
            "it allows keyboard-interactive (`login: password` in the site file asks for a password)"
        )
    finally:
        server.stop()


def test_no_password_without_a_terminal(password_sshd):
    before = len(logins(password_sshd))
    said = Person("call", reach(password_sshd, identity=None, login="password"), terminal=False).end()
    assert errors(said) == [
        f"toy: 127.0.0.1 port {password_sshd.port} asks for a password, and there is no terminal to type it on; "
        "run this in one, or use a key",
        3,
        True,
    ]
    said = Person("call", reach(password_sshd, identity=None), terminal=False).end()
    assert errors(said) == [
        f"toy: 127.0.0.1 port {password_sshd.port} does not let {password_sshd.user} in: no key was found; it allows "
        "password, keyboard-interactive (`login: password` in the site file asks for a password)",
        3,
        False,
    ]
    assert len(logins(password_sshd)) == before


def test_what_a_login_asks_for_decides_the_way(outer):
    assert isinstance(connect("local", "toy"), Local)
    assert isinstance(connect(reach(outer), "toy"), Paramiko)
    assert isinstance(connect(reach(outer, login="password"), "toy"), Paramiko)
    assert isinstance(connect(reach(outer, login="passcode"), "toy"), openssh.OpenSSH)
    assert isinstance(connect(reach(outer, then=["inner"]), "toy"), openssh.OpenSSH)


@pytest.mark.parametrize("own", ["", "ControlPersist 5m\n"])
def test_no_option_of_a_command_can_log_in(outer, monkeypatch, tmp_path, own):
    """The words that ssh gets, with a shared connection that is said to be there and is not."""
    (tmp_path / "config").write_text(own)  # ssh looks for a person's own where the account says, whatever HOME is
    (tmp_path / "ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {tmp_path}/config "$@"\n')
    (tmp_path / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    replies = iter([True, False])
    monkeypatch.setattr(openssh, "is_open", lambda reach: next(replies))
    contacted = contacts(outer)
    assert error(reach(outer, login="passcode")) == "not logged in to toy: hpcbench login toy"
    assert contacts(outer) == contacted
