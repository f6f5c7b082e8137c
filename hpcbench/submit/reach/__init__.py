"""The ways to a site: this machine, paramiko where a key or password opens the door, OpenSSH where a passcode does."""

from __future__ import annotations

from hpcbench.site import Reach
from hpcbench.submit.reach.transport import Local, Transport


def connect(reach: str | Reach, name: str) -> Transport:
    """Return the way to the site called `name`; raises `SiteError`."""
    if isinstance(reach, str):
        return Local()
    if reach.kept_open:
        from hpcbench.submit.reach.openssh import OpenSSH

        return OpenSSH(reach, name)
    from hpcbench.submit.reach.paramiko_ssh import Paramiko

    return Paramiko(reach, name)
