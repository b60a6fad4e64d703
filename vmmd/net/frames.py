# SPDX-License-Identifier: Apache-2.0
"""Ethernet frames in a byte stream: each after its length, four bytes, big endian (QEMU's ``stream`` and ``socket``).

What comes is received into one buffer, many frames at a time, and copied once more: to where the guest wants it. No
system calls here.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vmmd.units import KiB

if TYPE_CHECKING:
    from collections.abc import Sequence

#: QEMU-COMPAT: longer ones end the connection: 64 KiB of data, and a page for headers
MAX_FRAME_BYTES = (64 + 4) * KiB
HEADER = struct.Struct(">I")
_unpack_from = HEADER.unpack_from
#: received at once; a frame of any length has room
_CAPACITY_BYTES = 256 * KiB
#: with less room behind what was received, that is moved to the front
_ENOUGH_BYTES = HEADER.size + MAX_FRAME_BYTES


class FrameBuffer:
    """Bytes as they come, frames as they were sent."""

    def __init__(self) -> None:
        self._view = memoryview(bytearray(_CAPACITY_BYTES))
        self._start = 0  # of what has not been taken yet
        self._end = 0
        #: the length that the next frame claims, if that is more than any may have: nothing comes behind it
        self.oversized = 0

    def room(self) -> memoryview:
        """Where to receive, valid until the next call of a method; empty while frames have to be taken first."""
        start, end = self._start, self._end
        if start and (start == end or _CAPACITY_BYTES - end < _ENOUGH_BYTES):
            self._view[: end - start] = self._view[start:end]
            self._start, self._end = 0, end - start
        return self._view[self._end :]

    def received(self, count: int) -> None:
        """``room`` has ``count`` more bytes."""
        self._end += count

    def has_frame(self) -> bool:
        """A whole frame is there. Empty ones are skipped."""
        while self._end - self._start >= HEADER.size:
            (length,) = HEADER.unpack_from(self._view, self._start)
            if length:
                if length > MAX_FRAME_BYTES:
                    self.oversized = length
                    return False
                return self._end - self._start >= HEADER.size + int(length)
            self._skip_empty()
        return False

    def _skip_empty(self) -> None:
        """All empty frames that come next, in one step: a peer may send nothing else."""
        waiting = bytes(self._view[self._start : self._end])
        zeros = len(waiting) - len(waiting.lstrip(b"\0"))
        self._start += zeros - zeros % HEADER.size

    def take(self) -> memoryview | None:
        """The next frame, valid until ``room`` is called; None when none is whole."""
        while True:
            start, end = self._start, self._end
            first = start + HEADER.size
            if first <= end:
                (length,) = _unpack_from(self._view, start)
                if first + length <= end and 0 < length <= MAX_FRAME_BYTES:
                    self._start = first + length
                    return self._view[first : first + length]
            if not self.has_frame():  # which skips empty ones
                return None


def scatter(frame: memoryview, buffers: Sequence[memoryview]) -> int:
    """Copy ``frame`` into ``buffers``, as readv(2) would: how many bytes; what has no room is lost."""
    length = len(frame)
    if buffers and length <= len(buffers[0]):
        buffers[0][:length] = frame
        return length
    done = 0
    for buffer in buffers:
        part = frame[done : done + len(buffer)]
        buffer[: len(part)] = part
        done += len(part)
        if done == length:
            break
    return done
