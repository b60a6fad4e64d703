# SPDX-License-Identifier: Apache-2.0
"""Guest-physical memory as a CPU sees it, walked in software: RAM, firmware ROM, PAM, SMRAM, then device registers.

For accelerators in which no CPU does that by itself. DeviceLock held. Nothing here raises on an address or length.

RAM and ROM are copied; what is neither goes to the registers in pieces that are aligned and no wider than the register
file takes. What nobody answers for reads as zero and takes writes without effect, as on QEMU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmmd.core.address_space import AddressSpace
    from vmmd.machine.memory_map import MemoryMap

ADDRESS_END = 1 << 64


class CpuMemory:
    """Reads and writes of one machine's memory."""

    def __init__(self, memory_map: MemoryMap | None, mmio: AddressSpace) -> None:
        """``memory_map``: None for a machine without RAM."""
        self._map = memory_map
        self._mmio = mmio

    def read(self, gpa: int, length: int) -> bytes:
        """``length`` bytes; addresses wrap at 2^64."""
        span = None if self._map is None else self._map.find_span(gpa)
        if span is not None and span.readable is not None and gpa + length <= span.end:  # nearly always
            return bytes(span.readable[gpa - span.gpa : gpa - span.gpa + length])
        data = bytearray()
        while len(data) < length:
            data += self._read_some((gpa + len(data)) % ADDRESS_END, length - len(data))
        return bytes(data)

    def write(self, gpa: int, data: bytes) -> None:
        """All of ``data``; addresses wrap at 2^64."""
        done = 0
        while done < len(data):
            done += self._write_some((gpa + done) % ADDRESS_END, data[done:] if done else data)

    def _read_some(self, gpa: int, length: int) -> bytes:
        """As much as there is in one piece, one byte at least."""
        span = None if self._map is None else self._map.find_span(gpa)
        if span is not None:
            take = min(length, span.end - gpa)
            if span.readable is None:
                return bytes(take)
            return bytes(span.readable[gpa - span.gpa : gpa - span.gpa + take])
        entry = self._mmio.find(gpa)
        if entry is None:
            return bytes(min(length, self._gap(gpa)))
        size = entry.access_size(gpa, length)
        return self._mmio.read(gpa, size).to_bytes(size, "little")

    def _write_some(self, gpa: int, data: bytes) -> int:
        span = None if self._map is None else self._map.find_span(gpa)
        if span is not None:
            take = min(len(data), span.end - gpa)
            if span.writable is not None:
                span.writable[gpa - span.gpa : gpa - span.gpa + take] = data[:take]
            return take
        entry = self._mmio.find(gpa)
        if entry is None:
            return min(len(data), self._gap(gpa))
        size = entry.access_size(gpa, len(data))
        self._mmio.write(gpa, size, int.from_bytes(data[:size], "little"))
        return size

    def _gap(self, gpa: int) -> int:
        """Bytes from ``gpa``, where nothing is, to the next memory or registers."""
        ends = [each.base for each in self._mmio.ranges if each.base > gpa]
        if self._map is not None:
            ends += [span.gpa for span in self._map.spans() if span.gpa > gpa]
        return min(ends, default=ADDRESS_END) - gpa
