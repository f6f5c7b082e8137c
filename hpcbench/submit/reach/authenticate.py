"""Who we are to a host: by key, or by what a person types; for paramiko. Nothing is tried twice, or kept."""

from __future__ import annotations

import base64
import getpass
import os
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko

from hpcbench.errors import SiteError
from hpcbench.submit.reach.hops import Hop

TYPING = 300.0  # seconds for a person to find and type a password
DEFAULT_KEYS = ("id_ed25519", "id_ecdsa", "id_rsa")
LOST = (paramiko.SSHException, OSError, EOFError)  # what paramiko raises when a connection goes


class RefusedError(SiteError):
    """A host lets us not in. Sites ban an address that goes on trying, so nobody should by himself."""


def authenticate(transport: paramiko.Transport, hop: Hop, *, password: bool) -> None:
    """Log in by key, and with `password` by what a person types where no key is enough; raises `SiteError`."""
    try:
        transport.auth_none(hop.user)
    except paramiko.BadAuthenticationType as error:
        allowed = error.allowed_types
    except LOST:
        raise SiteError(f"{hop} hung up before anybody could log in") from None
    else:
        return
    taken = ""
    tried: list[str] = []
    notes: list[str] = []
    for name, key in _keys(hop, notes) if "publickey" in allowed else ():
        try:
            further = transport.auth_publickey(hop.user, key)
        except LOST:
            tried.append(name)
            if transport.is_active():
                continue
            raise RefusedError(f"{hop} hung up after {len(tried)} keys ({', '.join(tried)})") from None
        if not further:
            return
        taken, allowed = f"it takes {name}, and wants more", further
        break
    typed = {"keyboard-interactive", "password"} & set(allowed)
    if typed and password:
        _type(transport, hop, typed)
        return
    refused = f"it does not take {' or '.join(tried)}" if tried else "" if notes else "no key was found"
    why = [taken] if taken else [refused, *notes]
    raise RefusedError(
        f"{hop} does not let {hop.user} in: {'; '.join(filter(None, why))}; it allows {', '.join(allowed)}"
        + (" (`login: password` in the site file asks for a password)" if typed else "")
    )


def _type(transport: paramiko.Transport, hop: Hop, methods: set[str]) -> None:
    """Ask for a password on the terminal and log in with it, once."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        raise SiteError(
            f"{hop} asks for a password, and there is no terminal to type it on; run this in one, or use a key",
            needs_login=True,
        ) from None
    transport.auth_timeout = TYPING
    try:
        if "keyboard-interactive" in methods:
            further = _converse(transport, hop)
        else:
            further = transport.auth_password(hop.user, _ask(hop, "Password: "), fallback=False)
    except LOST:
        further = ["another try"]
    if further:
        raise RefusedError(f"{hop} did not accept what was typed for {hop.user}; nothing was tried again")


def _converse(transport: paramiko.Transport, hop: Hop) -> list[str]:
    """Answer what the server asks; returns what it wants beside that.

    paramiko asks in a thread of its own. The terminal is read by this one, which Ctrl-C interrupts and which then
    leaves the terminal as it was.
    """
    questions: queue.Queue[str | list[str] | BaseException] = queue.Queue()
    answers: queue.Queue[str] = queue.Queue()

    def reply(_title: str, _text: str, prompts: list[tuple[str, bool]]) -> list[str]:
        replies = []
        for prompt, _ in prompts:
            questions.put(prompt)
            replies.append(answers.get())
        return replies

    def converse() -> None:
        try:
            questions.put(transport.auth_interactive(hop.user, reply))
        except BaseException as error:  # noqa: BLE001 - raised again below
            questions.put(error)

    threading.Thread(target=converse, name="hpcbench-login", daemon=True).start()
    asked: set[str] = set()
    try:
        while isinstance(question := questions.get(), str):
            if question in asked:  # some servers ask again within one login: that would be a second try
                return ["another try"]
            asked.add(question)
            answers.put(_ask(hop, question))
    finally:
        if isinstance(question, str):
            transport.close()  # before the thread that waits for an answer goes on
            answers.put("")
    if isinstance(question, BaseException):
        raise question
    return question


def _ask(hop: Hop, prompt: str) -> str:
    """Ask on the terminal for what nobody else may read."""
    shown = "".join(letter if letter.isprintable() else " " for letter in prompt)
    try:
        return getpass.getpass(f"({hop.user}@{hop.host}) {shown}")
    except EOFError:
        raise SiteError(f"nothing was typed for {hop.user}@{hop.host}") from None


def _keys(hop: Hop, notes: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    """Yield the keys to try with their names, those of the site first; `notes` gets what could not be read."""
    files = hop.identities or tuple(Path.home() / ".ssh" / name for name in DEFAULT_KEYS)
    agent = paramiko.Agent()
    try:
        loaded = list(agent.get_keys())
        named = {file: [key for key in loaded if key.asbytes() == _public(file)] for file in files}
        for file in files if hop.identities else ():
            yield from ((str(file), key) for key in named[file])
            yield from _read(file, notes) if not named[file] else ()
        if not hop.only:
            shown = [key for keys in named.values() for key in keys] if hop.identities else []
            yield from ((f"the agent ({key.comment or key.get_name()})", key) for key in loaded if key not in shown)
        if not hop.identities:
            for file in files:
                yield from _read(file, notes) if file.exists() else ()
    finally:
        agent.close()


def _read(file: Path, notes: list[str]) -> Iterator[tuple[str, paramiko.PKey]]:
    try:
        key = paramiko.PKey.from_path(file)
    except FileNotFoundError:
        notes.append(f"{file} does not exist")
    except TypeError:  # cryptography's word for a key with a passphrase
        notes.append(f"{file} has a passphrase (ssh-add {file})")
    except (OSError, ValueError, paramiko.SSHException, paramiko.pkey.UnknownKeyType):
        notes.append(f"{file} cannot be read as a private key")
    else:
        yield str(file), key


def _public(file: Path) -> bytes:
    """Return the public key beside a private one, by which the agent knows it."""
    try:
        return base64.b64decode(Path(f"{file}.pub").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return b""
