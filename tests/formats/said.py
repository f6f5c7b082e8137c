"""What a log says of how its own run was set up, apart from what it measured."""

from __future__ import annotations

import json
from typing import Any

import written

from hpcbench.formats import PARAMETERS, Record
from hpcbench.parse.content import Content, read_bytes
from hpcbench.parse.content import records as all_records
from hpcbench.parse.files import Log


def parameters(data: bytes | str) -> dict[str, Any]:
    """Return the parameters that a log gives its case, whatever format it has."""
    content = read_bytes(data.encode() if isinstance(data, str) else data)
    return dict(json.loads(Log.of("", content).parameters))


def records(content: Content) -> list[Record]:
    """Return what a log measured."""
    return [record for record in all_records(content) if record.table != PARAMETERS]


def read(name: str, data: bytes | str) -> tuple[list[Record], int]:
    """Read text as one format: what it measured, and how many lines could not be read."""
    found, unread = written.read(name, data)
    return [record for record in found if record.table != PARAMETERS], unread
