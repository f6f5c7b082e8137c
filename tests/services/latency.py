"""A server that is far away: one port where bytes take their time, while the rest of loopback stays as fast as it is.

A proxy holds the bytes back: `tc netem`, which would do it below TCP, is left out of the kernels of many virtual
machines and containers, and would need root.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from services.proxy import Proxy


@contextmanager
def latency(port: int, milliseconds: float) -> Iterator[int]:
    """Give a port that leads to `port` with a round trip of `milliseconds`, half of it each way."""
    with Proxy(port, delay=milliseconds / 2000) as proxy:
        yield proxy.port
