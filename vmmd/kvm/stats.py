# SPDX-License-Identifier: Apache-2.0
"""KVM's binary statistics (Documentation/virt/kvm/api.rst §4.133): header, descriptors, values -> typed list."""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from vmmd.errors import BackendError
from vmmd.kvm import abi
from vmmd.kvm.ioctl import ioctl

TYPES = ("cumulative", "instant", "peak", "linear-histogram", "log2-histogram")
UNITS = (None, "bytes", "seconds", "cycles", "boolean")

_HEADER = struct.Struct("<6I")
_DESCRIPTOR = struct.Struct("<IhHII")


class Statistic(NamedTuple):
    """One statistic; the words are those of QMP's query-stats-schemas. ``values`` has one item unless a histogram.

    A value counts ``base ** exponent`` of ``unit`` (base 10: seconds 10^-9).
    """

    name: str
    kind: str
    unit: str | None
    base: int
    exponent: int
    bucket_size: int
    values: tuple[int, ...]


class StatsFile:
    """An open statistics descriptor: the layout is read once, the values as often as wanted. Any thread."""

    def __init__(self, fd: int) -> None:
        """Takes over ``fd``. Raises BackendError when the kernel's answer makes no sense."""
        self._fd = fd
        header = os.pread(fd, _HEADER.size, 0)
        if len(header) != _HEADER.size:
            raise BackendError("kvm: the statistics file has no header")
        _, self._name_size, self._count, self._id_at, self._descriptors_at, self._data_at = _HEADER.unpack(header)
        self._descriptors = self._read_descriptors()
        last = max((offset + size * 8 for _, offset, size, _ in self._descriptors), default=0)
        self._data_bytes = last

    def _read_descriptors(self) -> list[tuple[str, int, int, tuple[str, str | None, int, int, int]]]:
        step = _DESCRIPTOR.size + self._name_size
        raw = os.pread(self._fd, step * self._count, self._descriptors_at)
        if len(raw) != step * self._count:
            raise BackendError("kvm: the statistics file is shorter than its header says")
        found = []
        for start in range(0, len(raw), step):
            flags, exponent, size, offset, bucket = _DESCRIPTOR.unpack_from(raw, start)
            name = raw[start + _DESCRIPTOR.size : start + step].split(b"\0", 1)[0].decode("ascii", "replace")
            kind = flags & abi.KVM_STATS_TYPE_MASK
            unit = (flags & abi.KVM_STATS_UNIT_MASK) >> abi.KVM_STATS_UNIT_SHIFT
            base = 2 if (flags & abi.KVM_STATS_BASE_MASK) >> abi.KVM_STATS_BASE_SHIFT else 10
            if kind < len(TYPES) and unit < len(UNITS):  # later kernels may know more: left out, as clients would
                found.append((name, offset, size, (TYPES[kind], UNITS[unit], base, exponent, bucket)))
        return found

    def read(self) -> list[Statistic]:
        """The values now."""
        data = os.pread(self._fd, self._data_bytes, self._data_at)
        words = memoryview(data[: len(data) & ~7]).cast("Q")
        result = []
        for name, offset, size, (kind, unit, base, exponent, bucket) in self._descriptors:
            values = tuple(words[offset // 8 : offset // 8 + size])
            result.append(Statistic(name, kind, unit, base, exponent, bucket, values))
        return result

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_stats(owner_fd: int) -> StatsFile:
    """The statistics of a VM or vCPU descriptor. Raises KvmError (ENOTTY: kernel before 5.14)."""
    return StatsFile(ioctl(owner_fd, abi.KVM_GET_STATS_FD, name="KVM_GET_STATS_FD"))


def read_once(owner_fd: int) -> list[Statistic]:
    """The statistics of a VM or vCPU descriptor, once."""
    stats = open_stats(owner_fd)
    try:
        return stats.read()
    finally:
        stats.close()
