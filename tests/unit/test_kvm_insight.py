# SPDX-License-Identifier: Apache-2.0
"""What kind of KVM this is, rates of exits, and the statistics file's layout."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest

from vmmd.errors import BackendError
from vmmd.kvm.host import HostKvm, host_kvm
from vmmd.kvm.stats import StatsFile
from vmmd.machine.exit_meter import ExitMeter

if TYPE_CHECKING:
    from pathlib import Path

SECOND = 1_000_000_000


def a_host(tmp_path: Path, flags: str, parameters: dict[str, str]) -> HostKvm:
    """A host with these CPU flags and these files below /sys/module."""
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nprocessor\t: 1\n")
    modules = tmp_path / "module"
    for name, value in parameters.items():
        path = modules / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
    return host_kvm(str(modules), str(tmp_path / "cpuinfo"))


@pytest.mark.parametrize(
    ("flags", "parameters", "expected"),
    [
        ("vmx", {"kvm_intel/parameters/ept": "Y\n", "kvm/parameters/x": ""}, HostKvm("vmx", "kvm_intel", "ept")),
        ("vmx", {"kvm_intel/parameters/ept": "N\n"}, HostKvm("vmx", "kvm_intel", "shadow")),
        ("svm", {"kvm_amd/parameters/npt": "1\n"}, HostKvm("svm", "kvm_amd", "npt")),
        ("svm", {"kvm_amd/parameters/nested": "1\n"}, HostKvm("svm", "kvm_amd", "unknown")),
        # both modules built in: the CPU decides
        ("svm", {"kvm_intel/p": "", "kvm_amd/parameters/npt": "0"}, HostKvm("svm", "kvm_amd", "shadow")),
        # no virtualization of the CPU's: a KVM in software
        ("avx2", {"kvm/p": "", "kvm_pvm/parameters/stats": "N"}, HostKvm("other", "kvm_pvm", "unknown")),
        ("avx2", {"kvm/p": ""}, HostKvm("other", "kvm", "unknown")),
        ("vmx", {}, HostKvm("other", "kvm", "unknown")),
    ],
)
def test_host_kvm_is_told_from_flags_and_modules(
    tmp_path: Path, flags: str, parameters: dict[str, str], expected: HostKvm
) -> None:
    assert a_host(tmp_path, flags, parameters) == expected


def test_exit_rates_are_over_the_newest_window_of_a_second_or_more() -> None:
    now, counts = [5 * SECOND], [[0, 0], [0, 0]]
    meter = ExitMeter(counts, now_ns=lambda: now[0])
    counts[0][1] = 100
    now[0] += SECOND // 2
    report = meter.report()  # the first one: since the start
    assert (report.uptime_ns, report.window_ns) == (SECOND // 2, SECOND // 2)
    assert [report.recent(0), report.recent(1)] == [[0, 100], [0, 0]]
    counts[0][1], counts[1][0] = 150, 7
    now[0] += SECOND
    report = meter.report()
    assert (report.uptime_ns, report.window_ns) == (SECOND * 3 // 2, SECOND)
    assert report.counts == ((0, 150), (7, 0))
    assert [report.recent(0), report.recent(1)] == [[0, 50], [7, 0]]
    now[0] += SECOND // 10  # too soon after the last one: its own window is older
    assert meter.report().window_ns == SECOND * 11 // 10


def test_exit_meter_remembers_a_bounded_number_of_samples() -> None:
    now = [0]
    meter = ExitMeter([[0]], now_ns=lambda: now[0])
    for _ in range(1000):
        now[0] += SECOND // 50
        report = meter.report()
        assert now[0] < SECOND or SECOND <= report.window_ns <= 2 * SECOND
    assert len(meter._samples) <= 4


Entry = tuple[str, int, int, int, int]


def a_stats_file(entries: list[Entry], words: list[int], count: int | None = None) -> StatsFile:
    """A file as KVM writes it, of (name, flags, exponent, size, offset)."""
    name_size, header_size = 16, 24
    step = 16 + name_size
    data_at = header_size + step * len(entries)
    raw = struct.pack("<6I", 0, name_size, len(entries) if count is None else count, 0, header_size, data_at)
    for name, flags, exponent, size, offset in entries:
        raw += struct.pack("<IhHII", flags, exponent, size, offset, 0) + name.encode().ljust(name_size, b"\0")
    raw += struct.pack(f"<{len(words)}Q", *words)
    fd = os.memfd_create("stats")
    os.write(fd, raw)
    return StatsFile(fd)


def test_statistics_are_read_by_their_descriptors() -> None:
    entries = [("exits", 0, 0, 1, 8), ("hist", 4 | 2 << 4, -9, 3, 16), ("later", 9, 0, 1, 0)]
    stats = a_stats_file(entries, [1, 2, 3, 4, 5])
    other = StatsFile(os.dup(stats._fd), like=stats)
    try:
        found = other.read()
        assert [(each.name, each.kind, each.unit, each.exponent, each.values) for each in found] == [
            ("exits", "cumulative", None, 0, (2,)),
            ("hist", "log2-histogram", "seconds", -9, (3, 4, 5)),
        ]
        assert [each.values for each in other.layout.statistics] == [(0,), (0, 0, 0)]
    finally:
        stats.close()
        other.close()


def test_a_statistics_file_that_makes_no_sense_is_refused() -> None:
    for stats in (a_stats_file([], [], count=1 << 30), a_stats_file([("exits", 0, 0, 1, 0)], [], count=2)):
        with pytest.raises(BackendError, match="kvm: "):
            stats.read()
        stats.close()
