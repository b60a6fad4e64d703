# SPDX-License-Identifier: Apache-2.0
"""``-chardev ringbuf``: keeps the last ``size`` bytes of output in memory, for QMP ``ringbuf-read``."""

from __future__ import annotations

from vmmd.chardev.base import Chardev


class RingbufChardev(Chardev):
    _kept = b""

    @property
    def connected(self) -> bool:
        return False

    def _emit(self, chunk: bytearray) -> int:
        self._kept = (self._kept + bytes(chunk))[-self.config.size_bytes :]
        return len(chunk)

    @property
    def count(self) -> int:
        """Bytes that ``read`` would give now."""
        self._flush_now()
        return len(self._kept)

    def read(self, size_bytes: int) -> bytes:
        """Take the oldest ``size_bytes`` bytes out (fewer if there are fewer). Loop thread."""
        self._flush_now()
        data = self._kept[:size_bytes]
        self._kept = self._kept[len(data) :]
        return data

    def put(self, data: bytes) -> None:
        """Add bytes from the host's side (QMP ``ringbuf-write``). Loop thread."""
        self._flush_now()
        self._emit(bytearray(data))

    def _flush_now(self) -> None:
        if self._out:
            self._flush()
