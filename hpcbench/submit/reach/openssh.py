"""A site by the system's ssh and one shared connection, which a person opens: for passcodes, and hosts behind hosts.

`hpcbench login` opens it, and ssh keeps it while it is used and for `KEPT` after. No command opens a connection or
tries a login by itself: sites lock an account after a few wrong passcodes.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO

from hpcbench.errors import SiteError
from hpcbench.site import Reach
from hpcbench.submit.reach.transport import PATIENCE, Answer, Transport, command, exchange

KEPT = "10m"  # as ALCF publishes it
SOCKET = 107 - 17  # bytes of a socket's path, less what ssh appends while it makes one

# What a person's ssh_config may say of their own logins, and would disturb a command.
_PLAIN = ("-T", "-oLogLevel=ERROR", "-oRemoteCommand=none", "-oClearAllForwardings=yes", "-oForwardX11=no")
# Nothing here can log in: with no shared connection, ssh has a way to the site that ends at once, with a word of ours
# (which a ControlPersist of the person's own would hide).
_NO_WAY = "hpcbench-not-logged-in"
_SHARED = (
    "-oControlMaster=no", "-oControlPersist=no", "-oBatchMode=yes",
    f"-oProxyCommand=sh -c 'echo {_NO_WAY} >&2; exit 1'",
)  # fmt: skip

# ssh ends with 255 when the connection breaks. A script that ends with 255 says that it was it, so that the two are
# told apart; the subshell keeps functions such as `module`, which a second bash would not have.
_ENDED = "hpcbench: the script itself ended with status 255"
_TOLD = f'(eval "shift\n$1"); s=$?; [ $s != 255 ] || echo "{_ENDED}" >&2; exit $s'


class OpenSSH(Transport):
    """A site by the connection that `login` opened; it stays open when this object is closed."""

    def __init__(self, reach: Reach, name: str) -> None:
        self.where = name
        self._reach = reach

    def call(
        self,
        script: str,
        *arguments: str,
        data: bytes | IO[bytes] = b"",
        sink: Callable[[bytes], None] | None = None,
        patience: float = PATIENCE,
    ) -> Answer:
        """Run the script by the bash of the innermost host; raises `SiteError` where nobody is logged in."""
        if not is_open(self._reach):
            raise self._absent()
        line = command(_TOLD, [script, *arguments])
        for inner in reversed(self._reach.then):
            line = shlex.join(["ssh", "-T", "-oBatchMode=yes", "-oLogLevel=ERROR", inner, line])
        argv = ["ssh", *_PLAIN, *_SHARED, *_options(self._reach), self._reach.ssh, line]
        answer = exchange(argv, self.where, data, sink, patience)
        if answer.status != 255:
            return answer
        errors, ended, _ = answer.stderr.partition(f"{_ENDED}\n")
        if ended:
            return Answer(255, answer.stdout, errors)
        raise self._failed(answer.stderr)

    def _absent(self) -> SiteError:
        return SiteError(f"not logged in to {self.where}: hpcbench login {self.where}", needs_login=True)

    def _failed(self, errors: str) -> SiteError:
        """Say what ssh's own status 255 means."""
        if not is_open(self._reach):
            if _NO_WAY in errors:
                return self._absent()
            return SiteError(f"the connection to {self.where} broke: hpcbench login {self.where}", needs_login=True)
        if "Session open refused" in errors:
            return SiteError(f"{self.where} runs no more commands at once over one connection; wait for some to end")
        if self._reach.then and (why := _reason(errors)):
            inner = " and ".join(self._reach.then)
            return SiteError(
                f"{self.where}: the login worked, but from there {inner} cannot be used: {why}; ask the site's support"
            )
        return SiteError(f"the connection to {self.where} broke" + (f": {last}" if (last := _last(errors)) else ""))


def login(reach: Reach, name: str) -> None:
    """Open the shared connection on this terminal, and say so; raises `SiteError`, and tries nothing twice."""
    if is_open(reach):
        print(f"{name}: already logged in")
        return
    typed = [] if _terminal() else ["-oBatchMode=yes"]
    if typed and reach.login != "key":
        why = f"{name}: a {reach.login} is typed on a terminal, and there is none; run hpcbench login in one"
        raise SiteError(why, needs_login=True)
    options = [
        "-M", "-N", "-f", "-oControlMaster=yes", f"-oControlPersist={KEPT}", "-oNumberOfPasswordPrompts=1",
        "-oConnectTimeout=20", "-oConnectionAttempts=1", "-oServerAliveInterval=15", "-oServerAliveCountMax=4",
        "-oRemoteCommand=none", "-oClearAllForwardings=yes", "-oForwardX11=no",
    ]  # fmt: skip
    jump = ["-J", reach.jump] if reach.jump else []
    argv = ["ssh", *options, *typed, *jump, *_options(reach), reach.ssh]
    errors = bytearray()
    try:
        # ssh asks on the terminal itself; what it says beside that is shown and read
        with subprocess.Popen(argv, stderr=subprocess.PIPE) as ssh:
            assert ssh.stderr
            while said := os.read(ssh.stderr.fileno(), 4096):
                errors += said
                sys.stderr.write(said.decode(errors="replace"))
                sys.stderr.flush()
    except OSError as error:
        raise SiteError(f"cannot run ssh: {error.strerror}") from None
    if ssh.returncode or not is_open(reach):
        words = errors.decode(errors="replace")
        why = _reason(words) or _last(words) or f"ssh ended with status {ssh.returncode}"
        raise SiteError(f"no login to {name}: {why}; nothing was tried again", needs_login=True)
    if reach.then:
        OpenSSH(reach, name).call(":")
    print(f"{name}: logged in, until {KEPT} after the last command")


def logout(reach: Reach, name: str) -> None:
    """Close the shared connection, and say so."""
    was = is_open(reach)
    with contextlib.suppress(OSError):
        subprocess.run(["ssh", *_options(reach), "-O", "exit", reach.ssh], capture_output=True, check=False)
    print(f"{name}: {'logged out' if was else 'was not logged in'}")


def is_open(reach: Reach) -> bool:
    """Whether the shared connection is there. Asks this machine only."""
    try:
        done = subprocess.run(["ssh", *_options(reach), "-O", "check", reach.ssh], capture_output=True, check=False)
    except OSError as error:
        raise SiteError(f"cannot run ssh: {error.strerror}") from None
    return done.returncode == 0


def _options(reach: Reach) -> list[str]:
    """Return what the site file says as options of ssh; the rest is left to the person's own ssh_config."""
    options = [f"-oControlPath={_quoted(_socket(reach))}"]
    options += ["-l", reach.user] if reach.user else []
    options += ["-p", str(reach.port)] if reach.port else []
    options += ["-i", str(Path(reach.identity).expanduser())] if reach.identity else []
    if reach.known_hosts:  # beside the person's own file, which ssh goes on to read and write
        file = _quoted(Path(reach.known_hosts).expanduser())
        options.append(f"-oGlobalKnownHostsFile=/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2 {file}")
    return options


def _quoted(path: Path) -> str:
    """Write a path as a word of ssh_config, where % begins a token."""
    return '"' + str(path).replace("%", "%%") + '"'


def _socket(reach: Reach) -> Path:
    """Return where the shared connection to a site is found, like ssh's %C: one for each host, port, user and way."""
    way = [socket.gethostname(), getpass.getuser(), reach.ssh, reach.port, reach.user, reach.jump]
    name = hashlib.sha256(repr(way).encode()).hexdigest()[:20]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "hpcbench" / "ssh"
    folder = Path(runtime) / "hpcbench" if runtime and os.access(runtime, os.W_OK) else cache
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)  # who can write to the socket can run commands on the site
    except OSError as error:
        raise SiteError(f"{folder}: {error.strerror}; ssh keeps its connections there") from None
    if len(os.fsencode(folder / name)) > SOCKET:
        raise SiteError(f"{folder}: too long a path for a socket; set XDG_RUNTIME_DIR to a short one")
    return folder / name


def _terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _reason(errors: str) -> str:
    """Return what ssh could not do, in one line; empty where it says nothing that is known."""
    if "IDENTIFICATION HAS CHANGED" in errors:
        new, old = re.search(r"SHA256:[\w+/]+", errors), re.search(r"Offending (\w+) key in (\S+:\d+)", errors)
        return (
            f"the host key is another one than before (now {new[0] if new else 'unknown'}"
            + (f", before in {old[2]}" if old else "")
            + "): somebody may be in between, ask the site"
        )
    if "Host key verification failed" in errors:
        return "the host key is not known and was not accepted; compare it with the one that the site publishes"
    if denied := re.search(r"(?:(\S+): )?Permission denied \(([\w,@.-]*)\)", errors):
        return f"{denied[1] or 'it'} does not let this account in (Permission denied ({denied[2]}))"
    if unknown := re.search(r"Could not resolve hostname (\S+?):", errors):
        return f"no host is called {unknown[1]}"
    if failed := re.search(r"connect to (host \S+ port \d+: .+)", errors):
        return failed[1].strip()
    return ""


def _last(errors: str) -> str:
    """Return the last line that ssh wrote, without what a terminal would take for a command."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    return "".join(letter for letter in lines[-1] if letter.isprintable())[:200] if lines else ""
