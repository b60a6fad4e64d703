# SPDX-License-Identifier: Apache-2.0
"""``null-co`` and ``null-aio``: a disk that keeps nothing, and what an empty drive has.

Reads give zeroes with ``read-zeroes=on``, else leave the buffers as they are (as QEMU; for measuring only).
``latency-ns`` delays every request.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from vmmd.block.base import BlockNode, NodeConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmmd.core.backend import IoDone
    from vmmd.core.notify import LoopPort

DEFAULT_BYTES = 1 << 30


class NullNode(BlockNode):
    def __init__(self, config: NodeConfig, loop: LoopPort, driver: str, size_bytes: int | None) -> None:
        super().__init__(config)
        self.driver = driver
        self.latency_ns = 0
        self.read_zeroes = False
        self._loop = loop
        self._given_size = size_bytes
        self._size_bytes = DEFAULT_BYTES if size_bytes is None else size_bytes

    @property
    def filename(self) -> str:
        return f"{self.driver}://" if len(self.options_shown) == 1 else super().filename

    @property
    def options_shown(self) -> dict[str, object]:
        keys = super().options_shown
        if self._given_size is not None:
            keys["size"] = self._given_size
        if self.read_zeroes:
            keys["read-zeroes"] = True
        return keys

    @property
    def actual_size(self) -> int:
        return 0

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def _end(self, done: IoDone) -> None:
        if self.latency_ns:
            self._loop.call_later(self.latency_ns, done, 0)
        else:
            done(0)

    def readv(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        if self.read_zeroes:
            for buffer in buffers:
                buffer[:] = bytes(len(buffer))
        if self.latency_ns:
            self._loop.call_later(self.latency_ns, done, 0)
        else:
            done(0)

    def writev(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        if self.latency_ns:
            self._loop.call_later(self.latency_ns, done, 0)
        else:
            done(0)

    def flush(self, done: IoDone) -> None:
        self._end(done)

    def discard(self, offset: int, length: int, done: IoDone) -> None:
        self._end(done)

    def write_zeroes(self, offset: int, length: int, may_unmap: bool, done: IoDone) -> None:
        self._end(done)


class NoMedium(BlockNode):
    """Every request fails: the medium was taken away from a device that goes on."""

    def readv(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None:
        done(errno.ENOMEDIUM)

    writev = readv

    def flush(self, done: IoDone) -> None:
        done(errno.ENOMEDIUM)

    def discard(self, offset: int, length: int, done: IoDone) -> None:
        done(errno.ENOMEDIUM)

    def write_zeroes(self, offset: int, length: int, may_unmap: bool, done: IoDone) -> None:
        done(errno.ENOMEDIUM)
