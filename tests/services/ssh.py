"""An sshd of its own on loopback, with a key, a password or one-time passcodes, whose connections can be cut."""

from __future__ import annotations

import getpass
import os
import re
import secrets
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from services import daemon
from services.daemon import Daemon, ServiceError

CONFIGURATION = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
PidFile {folder}/sshd.pid
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
PermitRootLogin yes
Subsystem sftp internal-sftp
MaxStartups 200
MaxSessions 200
LoginGraceTime 60
PrintMotd no
PrintLastLog no
UseDNS no
SetEnv {environment}
{login}
"""
BY_KEY = """\
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthenticationMethods publickey"""
BY_PASSWORD = """\
UsePAM yes
PasswordAuthentication yes
KbdInteractiveAuthentication yes
AuthenticationMethods password keyboard-interactive"""
BY_PASSCODE = """\
UsePAM yes
PasswordAuthentication no
KbdInteractiveAuthentication yes
AuthenticationMethods keyboard-interactive"""
# window: how many codes may have been asked for without being used
PASSCODE = "auth required pam_oath.so usersfile={folder}/passcodes window=100 digits=6\n"
PASSWORD = "auth required pam_unix.so\n"
NO_OTHER_CHECKS = "account required pam_permit.so\nsession required pam_permit.so\n"
MARK = "HPCBENCH_TEST_SSHD"


def start(
    folder: Path,
    *,
    passcode: bool = False,
    password: str | None = None,
    environment: Mapping[str, str] | None = None,
    port: int | None = None,
) -> Server:
    """Start an sshd whose remote commands see `environment`.

    A login needs the key `Server.key`; with `passcode` a code from `Server.code()` instead; with `password` that
    password, of an account made for this. The latter two need root.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    server = Server(folder, port or daemon.free_port())
    try:
        if password is not None:
            server._make_account(password)
        server._start(passcode, password is not None, dict(environment or {}))
    except BaseException:
        server.stop()
        raise
    return server


@dataclass
class Server:
    """A running sshd, as a client sees it."""

    folder: Path
    port: int
    host: str = "127.0.0.1"
    user: str = field(default_factory=getpass.getuser)
    password: str | None = field(default=None, repr=False)
    _daemon: Daemon | None = None
    _pam: Path | None = None
    _secret: str = field(default="", repr=False)
    _codes: int = 0

    @property
    def key(self) -> Path:
        return self.folder / "client_key"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def code(self) -> str:
        """Return a passcode that was not used before; each works for one login, without waiting for the next."""
        counter = f"--counter={self._codes}"
        self._codes += 1
        argv = ["oathtool", "--hotp", "--digits=6", counter, self._secret]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    def sessions(self) -> list[int]:
        """Return the pids of live connections, one each."""
        listener = self._daemon.pid if self._daemon else None
        return sorted(process.pid for process in daemon.processes() if process.parent == listener)

    def cut(self) -> None:
        """Break every connection as a network does that goes away; what they started lives on."""
        connections = set(self.sessions())
        # the account of a user other than root has a second process, which holds its end of the pipes
        second = {process.pid for process in daemon.processes() if process.parent in connections and _is_sshd(process)}
        daemon.kill(connections | second)
        while set(self.sessions()) & connections:
            time.sleep(0.005)

    def behind(self, port: int) -> Server:
        """Return this server as seen through a port that leads to it; its host key is known there too."""
        self._know(port)
        return replace(self, port=port)

    def stop(self) -> None:
        """End it with its connections and whatever they started; nothing is left, in /etc neither."""
        connections = set(self.sessions())
        if self._daemon:
            self._daemon.stop()
            self._daemon = None
        daemon.kill(daemon.descendants(connections))
        mark = f"{MARK}={self.folder}".encode()
        while started := {process.pid for process in daemon.processes() if mark in process.environment()}:
            daemon.kill(started)
            time.sleep(0.02)
        if self._pam:
            self._pam.unlink(missing_ok=True)
            self._pam = None
        if self.password is not None:
            self.password = None
            subprocess.run(["userdel", "--remove", self.user], capture_output=True, check=False)

    def _start(self, passcode: bool, password: bool, environment: dict[str, str]) -> None:
        for name in ("host_key", "client_key"):
            argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "hpcbench-test", "-f", self.folder / name]
            subprocess.run(argv, check=True)
        (self.folder / "authorized_keys").write_text((self.folder / "client_key.pub").read_text())
        self._know(self.port)
        executable = daemon.program("sshd")
        if executable is None:
            raise ServiceError("sshd is not installed")
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # sshd's own: it does not start without
        if passcode or password:
            executable = self._use_pam(executable, passcode, password)
        login = BY_PASSCODE if passcode else BY_PASSWORD if password else BY_KEY
        if not password:  # whose account has a home of its own
            # what the login shell of whoever runs the tests does (some wait for locks) is not what is tested
            (self.folder / "home").mkdir(exist_ok=True)
            environment = {"HOME": str(self.folder / "home"), **environment}
        # sshd heeds the first SetEnv only
        pairs = " ".join(f'"{name}={value}"' for name, value in {**environment, MARK: self.folder}.items())
        configuration = self.folder / "sshd_config"
        configuration.write_text(
            CONFIGURATION.format(port=self.port, folder=self.folder, environment=pairs, login=login)
        )
        self._daemon = daemon.start(self.log, executable, "-D", "-e", "-f", configuration)
        self._daemon.wait_until(lambda: daemon.listens(self.port))
        # of that question too; tests count who came after it
        self._daemon.wait_until(lambda: re.search("Connection (closed|reset) by", self.log.read_text()) is not None)

    def _use_pam(self, executable: str, passcode: bool, password: bool) -> Path:
        """Give sshd a PAM service of its own: it is named after the program, so the program gets another name."""
        named = self.folder / f"sshd-hpcbench-{self.port}"
        named.symlink_to(executable)
        rules = (PASSWORD if password else "") + (PASSCODE.format(folder=self.folder) if passcode else "")
        self._pam = Path("/etc/pam.d") / named.name
        self._pam.write_text(rules + NO_OTHER_CHECKS)
        if passcode:
            self._secret = secrets.token_hex(20)
            users = self.folder / "passcodes"
            users.touch(mode=0o600)
            # HOTP: the next code is valid at once, where a code by the clock keeps the next login waiting for 30 s
            users.write_text(f"HOTP/E/6\t{self.user}\t-\t{self._secret}\n")
        return named

    def _make_account(self, password: str) -> None:
        self.user = f"hpcbench-{secrets.token_hex(4)}"
        self.password = password
        # a home that the account can reach: pytest's folders are closed to others
        options = ["--create-home", "--home-dir", f"/tmp/{self.user}", "--shell", "/bin/bash", "--no-log-init"]
        subprocess.run([daemon.program("useradd"), *options, self.user], check=True)
        subprocess.run([daemon.program("chpasswd")], input=f"{self.user}:{password}\n", text=True, check=True)

    def _know(self, port: int) -> None:
        kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
        with self.known_hosts.open("a") as file:
            file.write(f"[{self.host}]:{port} {kind} {key}\n")


def client_config(file: Path, *, jumps: Mapping[str, str] | None = None, **hosts: Server) -> Path:
    """Write an ssh_config in which each server has a name; `jumps` says which name is reached through which."""
    blocks = []
    for name, server in hosts.items():
        lines = [
            f"Host {name}",
            f"HostName {server.host}",
            f"Port {server.port}",
            f"User {server.user}",
            f"IdentityFile {server.key}",
            "IdentitiesOnly yes",
            f"UserKnownHostsFile {server.known_hosts}",
            "StrictHostKeyChecking yes",
        ]
        if name in (jumps or {}):
            lines.append(f"ProxyJump {jumps[name]}")
        blocks.append("\n    ".join(lines) + "\n")
    file.write_text("\n".join(blocks))
    return file


def _is_sshd(process: daemon.Process) -> bool:
    return Path(process.executable).name == "sshd"
