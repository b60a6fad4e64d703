# SPDX-License-Identifier: Apache-2.0
"""What the monitor shows of page tables, memory and instructions: vmmd's texts beside QEMU's for the same guest.

32-bit and PAE paging do not run on every KVM, so there QEMU interprets the guest, and vmmd looks at the same tables.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.framework import paging_guest as guest
from tests.framework.vm import Vm, emulator
from tests.unit.test_qmp_hmp_paging import sample, say

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]

#: instructions of all lengths and widths, at 0xFFFFE000
CODE = bytes.fromhex(
    "48b88877665544332211 90 c3 0f0b 64488b042528000000 c744242478563412 66660f1f840000000000 f30f1efa ff2500000000"
    "0f06 c5fc28c1 62f17c4828c1 660f05 d9c0 e8fbffffff eb00 7402 f0480fb10a 4881ec88000000 ffffff 0fae5c2404 26678b07"
    "cd80 f4 0f01d0 c8100000 8d742600"
)
CODE_OFFSET = 0xE000
LINES = (
    "info mem", "info tlb", "info registers", "x/2i $pc", "x/40i 0xffffe000", "xp/40i 0xffffe000", "gva2gpa 0x10000",
    "gva2gpa 0", "gva2gpa 0x9000", "x/2i 0x600000", "x /20xb 0xffffffff80000ffa", "x/4xg 0x7000", "xp/2cw 0xfffffff0",
    "x/3dw 0x9000", "xp/2dg 0x7000", "xp/2ow 0x7000", "xp/5uh 0x7001", "xp/3cb 0xfffffff0", "p/x $pc", "p $cs",
    "p $cs.base", "p $eflags", "p $r8", "x/0xb 0", "xp/0i 0x7000", "p/d -1",
)  # fmt: skip


def firmware(name: str) -> bytes:
    image = bytearray(guest.sample(name))
    image[CODE_OFFSET : CODE_OFFSET + len(CODE)] = CODE
    return bytes(image)


def texts(name: str, arguments: list[str], lines: tuple[str, ...]) -> list[str]:
    """What the monitor says when the guest has turned on paging and halted."""
    with Vm(emulator(name), ["-nodefaults", "-m", "32", *arguments], serial=False) as vm:
        deadline = time.monotonic() + 20
        while "HLT=1" not in vm.qmp.hmp("info registers"):
            assert time.monotonic() < deadline, "the guest does not halt"
        return [vm.qmp.hmp(line) for line in lines]


@pytest.fixture(scope="module")
def long_mode(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    path = tmp_path_factory.mktemp("long") / "bios"
    path.write_bytes(firmware("64"))
    arguments = ["-machine", "pc,accel=kvm", "-bios", str(path)]
    return {name: texts(name, arguments, LINES) for name in ("vmmd", "qemu")}


@pytest.mark.parametrize("index", range(len(LINES)), ids=LINES)
def test_a_64_bit_guest_is_shown_alike(long_mode: dict[str, list[str]], index: int) -> None:
    assert long_mode["vmmd"][index] == long_mode["qemu"][index]


@pytest.mark.parametrize("name", ["32", "pae"])
def test_32_bit_tables_are_shown_alike(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bios"
    path.write_bytes(firmware(name))
    arguments = ["-machine", "pc,accel=tcg", "-bios", str(path)]
    mem, tlb = texts("qemu", arguments, ("info mem", "info tlb"))
    # QEMU leaves the no-execute bit in the addresses that it shows
    tlb = re.sub(r"(?m)^([0-9a-f]{16}: )8", r"\g<1>0", tlb)
    assert say(sample(name), "info mem") == mem.split("\r\n")[:-1]
    assert say(sample(name), "info tlb") == tlb.split("\r\n")[:-1]
