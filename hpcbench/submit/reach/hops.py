"""The hosts on the way to a site as ``~/.ssh/config`` has them, and the keys by which they are known; for paramiko."""

from __future__ import annotations

import getpass
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import paramiko
from paramiko.hostkeys import HostKeyEntry, HostKeys, InvalidHostKey

from hpcbench.errors import SiteError
from hpcbench.site import Reach

KNOWN_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")


@dataclass(frozen=True)
class Hop:
    """A host on the way: where it is, who logs in, and with what."""

    typed: str  # what a person would type after `ssh`
    host: str
    port: int
    user: str
    identities: tuple[Path, ...]
    only: bool  # no other key of the agent
    known: tuple[Path, ...]
    listed: str  # its name in files of host keys

    def __str__(self) -> str:
        return self.host if self.port == 22 else f"{self.host} port {self.port}"


@dataclass(frozen=True)
class Known:
    """A key by which a host is known, and the file and line that say so."""

    key: paramiko.PKey
    at: str
    revoked: bool


def hops(reach: Reach) -> list[Hop]:
    """Return the hosts on the way, the site last; what the site file says comes before ``~/.ssh/config``."""
    file = Path.home() / ".ssh" / "config"
    try:
        config = paramiko.SSHConfig.from_path(str(file)) if file.is_file() else paramiko.SSHConfig()
        return _way(config, reach, reach.ssh, reach.user, reach.port, reach.jump, 0)
    except (paramiko.SSHException, OSError, ImportError, ValueError) as error:
        raise SiteError(f"{file}: {error}") from None


def _way(
    config: paramiko.SSHConfig,
    reach: Reach,
    typed: str,
    user: str | None,
    port: int | None,
    jump: str | None,
    depth: int,
) -> list[Hop]:
    if depth > 8:
        raise SiteError(f"the jump hosts of {reach.ssh} lead in a circle")
    options = config.lookup(typed)
    jump = jump or options.get("proxyjump")
    if options.get("proxycommand") and not jump:
        raise SiteError(f"~/.ssh/config has a ProxyCommand for {typed}; only ProxyJump is followed")
    own = shlex.split(options.get("userknownhostsfile") or "~/.ssh/known_hosts ~/.ssh/known_hosts2")
    known = [*own, *KNOWN_HOSTS, *([reach.known_hosts] if reach.known_hosts else [])]
    identities = [*([reach.identity] if reach.identity else []), *options.get("identityfile", [])]
    host, at = options["hostname"], port or int(options.get("port", 22))
    hop = Hop(
        typed=typed,
        host=host,
        port=at,
        user=user or options.get("user") or getpass.getuser(),
        identities=tuple(Path(file).expanduser() for file in identities),
        only=options.get("identitiesonly", "no").lower() == "yes",
        known=tuple(Path(file).expanduser() for file in known),
        listed=options.get("hostkeyalias") or (host if at == 22 else f"[{host}]:{at}"),
    )
    if not jump or jump.lower() == "none":
        return [hop]
    *before, last = jump.split(",")
    found = re.fullmatch(r"(?:(.+)@)?(?:\[(.+)\]|([^:]+))(?::(\d+))?", last.strip())
    if not found:
        raise SiteError(f"{last!r} is no jump host such as user@host:port")
    through = found[2] or found[3]
    return [
        *_way(config, reach, through, found[1], int(found[4]) if found[4] else None, ",".join(before), depth + 1),
        hop,
    ]


def check(hop: Hop, key: paramiko.PKey, known: list[Known]) -> None:
    """Raise `SiteError` where a host's key is not one by which it is known."""
    new = f"{key.get_name()} {key.fingerprint}"
    same = [each for each in known if each.key.asbytes() == key.asbytes()]
    if revoked := next((each for each in same if each.revoked), None):
        raise SiteError(f"the host key of {hop} is revoked: {new} ({revoked.at})")
    if same:
        return
    others = [each for each in known if not each.revoked]
    if others:
        old = min(others, key=lambda each: each.key.get_name() != key.get_name())
        raise SiteError(
            f"the host key of {hop} was {old.key.get_name()} {old.key.fingerprint} ({old.at}) and is now {new}: "
            "somebody may be in between; ask the site, and remove that line only when it says so"
        )
    port = "" if hop.port == 22 else f"-p {hop.port} "
    raise SiteError(
        f"the host key of {hop} is not known: {new}; compare it with the one that the site publishes, "
        f"then accept it once by `ssh {port}{hop.typed}`"
    )


def known_keys(hop: Hop) -> list[Known]:
    """Return the keys by which a host is known."""
    found = []
    for file in hop.known:
        try:
            lines = file.read_text(errors="replace").splitlines()
        except OSError:
            continue
        for number, line in enumerate(lines, 1):
            marker, _, rest = line.strip().partition(" ") if line.startswith("@") else ("", "", line.strip())
            if rest.startswith("#") or marker == "@cert-authority":  # paramiko checks no certificates of hosts
                continue
            try:
                entry = HostKeyEntry.from_line(rest.strip())
            except (InvalidHostKey, paramiko.SSHException, ValueError):
                continue
            if entry is not None and entry.key is not None and _lists(entry.hostnames or [], hop.listed):
                found.append(Known(entry.key, f"{file}:{number}", marker == "@revoked"))
    return found


def _lists(names: list[str], host: str) -> bool:
    """Whether a line of a file of host keys speaks of a host; names may be hashed, patterns or negated."""
    listed = False
    for name in names:
        if name.startswith("|1|"):
            listed |= HostKeys.hash_host(host, name) == name
            continue
        pattern = re.escape(name.removeprefix("!")).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(pattern, host, re.IGNORECASE):
            if name.startswith("!"):
                return False
            listed = True
    return listed
