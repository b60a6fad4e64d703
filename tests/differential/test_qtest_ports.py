# SPDX-License-Identifier: Apache-2.0
"""PCI configuration by every port, width and offset, memory around the holes, and the clock: vmmd beside QEMU."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import pytest

from tests.framework.qtest import QEMU_WITH_QTEST, Qtest
from tests.framework.vm import emulator

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.qemu,
    pytest.mark.skipif(not emulator("qemu").installed, reason="no QEMU"),
]

DEVFNS = (0x00, 0x08, 0x09, 0x0B, 0x20, 0x28, 0x38)
#: accesses that begin at each port and stay within the configuration ports
ACCESSES = [
    (f"in{letter}", port)
    for letter, size in (("b", 1), ("w", 2), ("l", 4))
    for port in (0xCF8, 0xCFA, 0xCFB, 0xCFC, 0xCFD, 0xCFE, 0xCFF)
    if port + size <= 0xD00
]
#: (devfn, first, last) of registers that differ, and why
ALLOWED = {
    (0x0B, 0x58, 0x5B): "PIIX4 PM: QEMU has SMM without KVM, vmmd never, which DEVACTB tells firmware",
}
MEMORY = (0x9FFFC, 0xA0000, 0xBFFFC, 0xC0000, 0xDFFFC, 0xE0000, 0xEFFFE, 0xF0000, 0xFFFFC, 0x100000, 0x7FFFFFC,
          0x8000000, 0xE0000000, 0xFEC00000, 0xFEE00000, 0xFFFBFFFC, 0xFFFC0000, 0xFFFFFFF0, 0xFFFFFFFC,
          0x1_0000_0000, 0xFFFF_FFFF_FFFF_FFF8)  # fmt: skip


def machine(name: str, image: Path) -> Qtest:
    options = ("-device", "virtio-blk-pci,id=v,drive=d,addr=4", "-drive", f"if=none,id=d,file={image},format=raw")
    return Qtest(name, "-nodefaults", *options, "-device", "virtio-rng-pci,addr=5")


def read_configuration(vm: Qtest) -> dict[tuple[int, int, str, int], str]:
    found = {}
    chosen = random.Random(1)
    for devfn in DEVFNS:
        for register in (*range(0, 0x100, 4), *chosen.sample(range(256), 24)):
            vm.outl(0xCF8, 0x8000_0000 | devfn << 8 | register)
            for access, port in chosen.sample(ACCESSES, 3):
                found[devfn, register, access, port] = vm.ask(f"{access} {port:#x}")
    return found


def is_allowed(devfn: int, register: int) -> bool:
    return any(devfn == each and first - 3 <= register <= last for each, first, last in ALLOWED)


@pytest.mark.timeout(60)
def test_configuration_space_and_memory(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(1 << 20))
    configurations, memories = [], []
    for name in ("qemu", "vmmd"):
        with machine(name, image) as vm:
            configurations.append(read_configuration(vm))
            memories.append({gpa: [vm.ask(f"read{each} {gpa:#x}") for each in "bwlq"] for gpa in MEMORY})
    theirs, ours = configurations
    differing = {key: (theirs[key], ours[key]) for key in theirs if theirs[key] != ours[key]}
    assert not {key: pair for key, pair in differing.items() if not is_allowed(*key[:2])}
    assert memories[0] == memories[1]


@pytest.mark.skipif(QEMU_WITH_QTEST not in os.environ, reason="Debian's QEMU has no qtest accelerator")
def test_the_clock_and_the_run_state() -> None:
    """Replies to the same requests; which timers there are is other tests' business, so none is near."""
    said = []
    for name in ("qemu", "vmmd"):
        with Qtest(name, "-nodefaults", "-S", "-machine", "pc,hpet=off") as vm:
            lines = [vm.ask_line(each) for each in ("clock_step", "clock_step 5", "clock_step -9", "clock_set 3")]
            lines += [vm.ask_line("clock_set 010"), str(vm.qmp("query-status"))]
            vm.qmp("cont")
            lines += [vm.ask_line("clock_step 0"), vm.ask_line("clock_step 1000000"), str(vm.qmp("query-status"))]
            vm.qmp("stop")
            lines += [vm.ask_line("clock_step"), vm.ask_line("clock_step 60000000000"), vm.ask_line("clock_step")]
            vm.qmp("system_reset")
            lines += [vm.ask_line("clock_step 0"), str(vm.qmp("query-status"))]
            said.append(lines)
    assert said[0] == said[1]
