# SPDX-License-Identifier: Apache-2.0
"""KVM's binary statistics (Documentation/virt/kvm/api.rst §4.133): header, descriptors, values -> typed list."""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from vmmd.errors import BackendError
from vmmd.kvm import abi
from vmmd.kvm.ioctl import KvmError, ioctl
from vmmd.log import get_logger

log = get_logger("vmmd.kvm")

TYPES = ("cumulative", "instant", "peak", "linear-histogram", "log2-histogram")
UNITS = (None, "bytes", "seconds", "cycles", "boolean")

_HEADER = struct.Struct("<6I")
_DESCRIPTOR = struct.Struct("<IhHII")
#: bounds of what is believed of a header; kernels have about 50 statistics, names of 48 bytes, histograms of 32 values
_COUNT_MAX = 1024
_NAME_BYTES_MAX = 256
_VALUES_MAX = 1024


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


class StatsLayout:
    """What a statistics file contains; all files of one kind (VM, vCPU) of a kernel are laid out alike. Immutable."""

    def __init__(self, fd: int) -> None:
        """Raises BackendError when the kernel's answer makes no sense."""
        header = os.pread(fd, _HEADER.size, 0)
        if len(header) != _HEADER.size:
            raise BackendError("kvm: the statistics file has no header")
        _, name_size, count, _, descriptors_at, self._data_at = _HEADER.unpack(header)
        if name_size > _NAME_BYTES_MAX or count > _COUNT_MAX:
            raise BackendError(f"kvm: a statistics file of {count} entries with names of {name_size} bytes")
        step = _DESCRIPTOR.size + name_size
        raw = os.pread(fd, step * count, descriptors_at)
        if len(raw) != step * count:
            raise BackendError("kvm: the statistics file is shorter than its header says")
        self._entries: list[tuple[int, int, Statistic]] = []  # index of the first value, behind the last, the rest
        for start in range(0, len(raw), step):
            flags, exponent, size, offset, bucket = _DESCRIPTOR.unpack_from(raw, start)
            name = raw[start + _DESCRIPTOR.size : start + step].split(b"\0", 1)[0].decode("ascii", "replace")
            kind = flags & abi.KVM_STATS_TYPE_MASK
            unit = (flags & abi.KVM_STATS_UNIT_MASK) >> abi.KVM_STATS_UNIT_SHIFT
            base = 2 if (flags & abi.KVM_STATS_BASE_MASK) >> abi.KVM_STATS_BASE_SHIFT else 10
            if kind < len(TYPES) and unit < len(UNITS) and size <= _VALUES_MAX:  # later kernels may know more: left out
                described = Statistic(name, TYPES[kind], UNITS[unit], base, exponent, bucket, (0,) * size)
                self._entries.append((offset // 8, offset // 8 + size, described))
        self._data_bytes = 8 * max((end for _, end, _ in self._entries), default=0)

    @property
    def statistics(self) -> list[Statistic]:
        """What there is, with zeroes for values."""
        return [described for _, _, described in self._entries]

    def read(self, fd: int) -> list[Statistic]:
        """The values now."""
        data = os.pread(fd, self._data_bytes, self._data_at)
        words = memoryview(data[: len(data) & ~7]).cast("Q")
        return [
            Statistic(name, kind, unit, base, exponent, bucket, tuple(words[first:end]))
            for first, end, (name, kind, unit, base, exponent, bucket, _) in self._entries
        ]


class StatsFile:
    """An open statistics descriptor. Reading it takes no lock of the VM or vCPU, so it never waits for a vCPU. Any
    thread."""

    def __init__(self, fd: int, like: StatsFile | None = None) -> None:
        """Takes over ``fd``. ``like``: another one of the same kind, whose layout then serves both."""
        self._fd = fd
        self._like = like
        self._layout: StatsLayout | None = None

    @property
    def layout(self) -> StatsLayout:
        """What is in it; read when first asked for. Raises BackendError."""
        if self._like is not None:
            return self._like.layout
        if self._layout is None:
            self._layout = StatsLayout(self._fd)
        return self._layout

    def read(self) -> list[Statistic]:
        """The values now. Raises BackendError."""
        return self.layout.read(self._fd)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_stats(owner_fd: int, like: StatsFile | None = None) -> StatsFile | None:
    """The statistics of a VM or vCPU descriptor. For a vCPU, open them before it first runs: this one ioctl takes the
    vCPU's lock. None before Linux 5.14, or when there is no descriptor to spare: a start does not fail for that."""
    try:
        return StatsFile(ioctl(owner_fd, abi.KVM_GET_STATS_FD, name="KVM_GET_STATS_FD"), like)
    except KvmError as error:
        log.debug("no statistics: %s", error)
        return None
