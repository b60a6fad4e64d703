# SPDX-License-Identifier: Apache-2.0
"""A whole machine with every device survives random accesses; and scripts of accesses are replayed on both emulators.

``scripts/acceptance-devices`` goes on for as long as it is told to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.framework.device_rig import Rig
from tests.framework.qtest import Qtest
from tests.fuzz.device_accesses import Accesses, DeviceFault
from tests.fuzz.machine_accesses import MachineAccesses, arguments
from tests.fuzz.replay import play

if TYPE_CHECKING:
    from pathlib import Path

ACCESSES = 3_000


def test_the_whole_machine_survives(tmp_path: Path) -> None:
    made = arguments(tmp_path)
    with Qtest("vmmd", *made) as vm:
        accesses = MachineAccesses(vm, made, "0")
        assert len(accesses.functions) > 5
        assert len(accesses.bars) > 5
        try:
            accesses.run(ACCESSES)
        except DeviceFault as fault:
            saved = tmp_path / "machine.qtest"
            saved.write_text(fault.script)
            pytest.fail(f"{fault}\nreplay: python -m tests.fuzz.replay {saved}")


def test_a_script_of_one_device_plays_on_the_machine_and_reads_the_same() -> None:
    """What the device on fakes read is what the wire reads."""
    accesses = Accesses("isa-debugcon", "script")
    accesses.run(200, sweep=50)
    with Qtest("vmmd", *accesses.arguments()) as vm:
        values = list(play(vm, accesses.script("no fault")))
    assert len(values) > 50
    rig = Rig("isa-debugcon")
    rig.plug()
    for each in values:
        port, size = int(each.line.split()[1], 0), {"b": 1, "w": 2, "l": 4}[each.line[2]]
        assert each.value == rig.machine.pio.read(port, size), each


@pytest.mark.qemu
def test_a_script_reads_the_same_on_both() -> None:
    lines = ("# a comment", "outl 0xcf8 0x80000000", "inl 0xcfc", "qmp system_reset", "inb 0x92")
    read = {}
    for name in ("vmmd", "qemu"):
        with Qtest(name, "-machine", "pc", "-m", "16", "-nodefaults") as vm:
            read[name] = [each.value for each in play(vm, "\n".join(lines))]
    assert read["vmmd"] == read["qemu"]
    assert read["vmmd"][0] == 0x1237_8086
