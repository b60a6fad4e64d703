# SPDX-License-Identifier: Apache-2.0
"""``-chardev ringbuf``: keeps the last ``size`` bytes of output in memory, for QMP ``ringbuf-read``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.chardev.base import Chardev

if TYPE_CHECKING:
    import threading

    from vmmd.chardev.logfile import LogFile
    from vmmd.chardev.options import CharOptions, RingbufOptions
    from vmmd.core.notify import LoopPort


class RingbufChardev(Chardev):
    config: RingbufOptions

    def __init__(self, config: CharOptions, loop: LoopPort, lock: threading.Lock, log: LogFile | None = None) -> None:
        super().__init__(config, loop, lock, log)
        self._kept = bytearray()  # removing at its front moves nothing

    @property
    def connected(self) -> bool:
        return False

    def _emit(self, chunk: bytearray) -> int:
        kept = self._kept
        kept += chunk
        del kept[: max(0, len(kept) - self.config.size)]
        return len(chunk)

    @property
    def count(self) -> int:
        """Bytes that ``read`` would give now."""
        self._flush_now()
        return len(self._kept)

    def read(self, size_bytes: int) -> bytes:
        """Take the oldest ``size_bytes`` bytes out (fewer if there are fewer). Loop thread."""
        self._flush_now()
        data = bytes(self._kept[:size_bytes])
        del self._kept[: len(data)]
        return data

    def put(self, data: bytes) -> None:
        """Add bytes from the host's side (QMP ``ringbuf-write``). Loop thread."""
        self._flush_now()
        self._emit(bytearray(data))

    def _flush_now(self) -> None:
        if self._out:
            self._flush()
