"""Servers that are started once a session, for the tests that ask for them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from services import daemon, slurm, ssh

# program → the Debian package that has it
SLURM = {"munged": "munge", "slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
ACCOUNTING = {"slurmdbd": "slurmdbd", "mariadbd": "mariadb-server-core", "mariadb": "mariadb-client-core"}
SSH = {"sshd": "openssh-server", "ssh": "openssh-client"}
PASSCODE = {"oathtool": "oathtool"}


def _need(packages: dict[str, str]) -> None:
    missing = sorted({package for name, package in packages.items() if daemon.program(name) is None})
    if missing:
        pytest.skip(f"needs apt-get install {' '.join(missing)}")


def _need_root(purpose: str) -> None:
    if os.getuid() != 0:
        pytest.skip(f"needs root, for {purpose}")


@pytest.fixture(scope="session", name="slurm")
def _slurm(tmp_path_factory):
    _need(SLURM)
    cluster = slurm.start(tmp_path_factory.mktemp("slurm"))
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def slurm_accounting(tmp_path_factory):
    """A cluster with slurmdbd, so that sacct answers."""
    _need(SLURM | ACCOUNTING)
    cluster = slurm.start(tmp_path_factory.mktemp("slurm"), accounting=True)
    yield cluster
    cluster.stop()


@pytest.fixture(scope="session")
def sshd(tmp_path_factory, slurm):
    """The login node of `slurm`."""
    _need(SSH)
    server = ssh.start(tmp_path_factory.mktemp("sshd"), environment=slurm.environment)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def sshd_accounting(tmp_path_factory, slurm_accounting):
    """The login node of `slurm_accounting`."""
    _need(SSH)
    server = ssh.start(tmp_path_factory.mktemp("sshd"), environment=slurm_accounting.environment)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def jump_sshd(tmp_path_factory):
    """A host through which another is reached; it knows no cluster."""
    _need(SSH)
    server = ssh.start(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def passcode_sshd(tmp_path_factory):
    """A host that asks for a passcode and takes no key."""
    _need(SSH | PASSCODE)
    _need_root("a PAM service")
    if not any(Path("/").glob("lib/*/security/pam_oath.so")):
        pytest.skip("needs apt-get install libpam-oath")
    server = ssh.start(tmp_path_factory.mktemp("sshd"), passcode=True)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def password_sshd(tmp_path_factory):
    """A host that asks for the password of an account of its own and takes no key."""
    _need(SSH)
    _need_root("an account")
    server = ssh.start(tmp_path_factory.mktemp("sshd"), password="open sesame")
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def clusters_as_new(request):
    """Leave no job, no node that is down and no dead controller to the next test."""
    clusters = [request.getfixturevalue(name) for name in ("slurm", "slurm_accounting") if name in request.fixturenames]
    yield
    for cluster in clusters:
        cluster.restore()
