# SPDX-License-Identifier: Apache-2.0
"""Real guests with ``kernel_irqchip=off``, where all interrupt controllers and timers are vmmd's own, and ``split``,
where the local APICs are the kernel's."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

import pytest

from tests.framework.cache import MissingSources
from tests.framework.scenarios import SCENARIOS, GuestRun, machine_args, msi_interrupts
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.framework.vm import Emulator
    from tests.integration.conftest import GuestRuns

pytestmark = pytest.mark.kvm
FIRMWARE_S = 30.0


@pytest.fixture(params=["off", "split"])
def user_chips(request: pytest.FixtureRequest) -> Emulator:
    plain = emulator("vmmd")
    return dataclasses.replace(plain, command=(*plain.command, "-machine", f"kernel-irqchip={request.param}"))


def run(guest: str, program: Emulator) -> GuestRun:
    try:
        return SCENARIOS[guest](program)
    except MissingSources as error:
        pytest.skip(str(error))


def test_seabios_says_the_same_as_with_the_kernels_controllers(guest_runs: GuestRuns, user_chips: Emulator) -> None:
    assert run("seabios", user_chips).outputs == guest_runs.get("seabios", "vmmd").outputs


def test_seabios_reads_a_disk(user_chips: Emulator) -> None:
    assert "Booting from 0000:7c00" in run("bootsector", user_chips).outputs["firmware"]


@pytest.fixture
def vm(user_chips: Emulator) -> Iterator[Vm]:
    arguments = [each for each in machine_args(64) if each != "-no-reboot"]
    with Vm(user_chips, [*arguments, "-smp", "3"], serial=False, debugcon=True) as vm:
        yield vm


def test_all_cpus_are_started_again_after_each_reset_and_stop_holds_them(vm: Vm) -> None:
    for _ in range(2):
        vm.debugcon.expect("Found 3 cpu", FIRMWARE_S)
        vm.debugcon.expect("No bootable device", FIRMWARE_S)
        vm.qmp.cmd("stop")
        assert vm.qmp.cmd("query-status")["status"] == "paused"
        vm.qmp.cmd("cont")
        vm.qmp.cmd("system_reset")


def test_the_monitor_shows_the_boards_chips(vm: Vm) -> None:
    vm.debugcon.expect("No bootable device", FIRMWARE_S)

    def say(line: str) -> str:
        return str(vm.qmp.cmd("human-monitor-command", command_line=line))

    chips = say("info pic")
    assert "ioapic0: ver=0x20 id=0x00" in chips
    assert re.search(r"pic0: irr=0\d imr=b8 isr=0\d hprio=0 irq_base=08", chips)
    counts = say("info irq")
    assert "IRQ statistics for ioapic:" in counts
    assert "IRQ statistics for isa-i8259:\r\n 0: " in counts
    tree = say("info qom-tree")
    for part in ("apic)", "/ioapic (ioapic)", "(isa-i8259)", "(isa-pit)"):
        assert part in tree
    assert ("/lapic (kvm-apic)" in tree) == any("split" in each for each in vm.argv)
    assert "kvm-" not in tree.replace("kvm-apic", "")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_linux_reaches_user_space_and_powers_off(user_chips: Emulator) -> None:
    found = run("linux-min", user_chips)
    assert "INIT: 10 fork+exec" in found.outputs["init"]
    assert found.status == 0


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_linux_drives_a_disk_with_msi_x(user_chips: Emulator) -> None:
    found = run("linux-devices", user_chips)
    assert all(found.checks.values())
    assert dict(msi_interrupts(found.outputs["devices"]))["virtio0-req.0"] > 0
    assert found.status == 0
