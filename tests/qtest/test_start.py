# SPDX-License-Identifier: Apache-2.0
"""How a test program starts, uses and ends the emulator (contract §1): sockets, order, exit status, no KVM."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from tests.framework.qtest import Qtest, uses_kvm

#: processor time until ``endianness`` is answered, as a multiple of loading the event loop (measured: 2.0 to 2.5)
START_LIMIT = 3.5


@pytest.mark.parametrize(
    "arguments", [(), ("-machine", "none"), ("-S",), ("--preconfig",), ("-nodefaults", "-M", "pc")], ids=" ".join
)
def test_endianness_is_answered_before_qmp(arguments: tuple[str, ...]) -> None:
    with Qtest("vmmd", *arguments) as vm:
        assert vm.endianness == "little"
        assert not uses_kvm(vm)


def _processor_time_s(command: list[str]) -> float:
    """Of a child that is waited for."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def test_the_start_is_fast() -> None:
    """Measured against what no start can do without, so that a busy machine does not count."""
    ratios = []
    for _ in range(3):
        with Qtest("vmmd", "-nodefaults") as vm:
            used_s = vm.cpu_s()
        ratios.append(used_s / _processor_time_s([sys.executable, "-c", "import asyncio, uvloop"]))
    assert min(ratios) < START_LIMIT, ratios


def test_memory_ports_and_time() -> None:
    with Qtest("vmmd", "-nodefaults") as vm:
        vm.write(0x10_0000, b"abcd")
        assert vm.read(0x10_0000, 4) == b"abcd"
        assert vm.readl(0x10_0000) == int.from_bytes(b"abcd", "little")
        assert vm.readl(0xFFFF_FFF0) == 0x00E0_5BEA  # the far jump of SeaBIOS's reset vector
        assert vm.readb(0xF_FFF0) == 0xEA
        assert vm.pci(0).config_read(0, 4) == 0x1237_8086
        before = vm.clock_step(0)
        assert vm.clock_step(1000) == before + 1000
        assert vm.clock_set(5) == before + 1000  # never back
