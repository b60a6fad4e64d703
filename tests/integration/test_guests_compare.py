# SPDX-License-Identifier: Apache-2.0
"""The same guest with the same options under vmmd and QEMU: equal output, and no more processor time than 1.1 times.

The second is not for every CI run (architecture §14: no absolute thresholds there): Python adds some 2 µs to an exit,
so the ratio depends on how dear an exit is on the machine. ``--run-slow`` and scripts/run-acceptance judge it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.framework.scenarios import SCENARIOS

if TYPE_CHECKING:
    from tests.framework.scenarios import GuestRun
    from tests.integration.conftest import GuestRuns

pytestmark = [pytest.mark.kvm, pytest.mark.qemu, pytest.mark.timeout(1800)]

CPU_RATIO_LIMIT = 1.1
START_RATIO = 5  # QEMU goes through its firmware even with -kernel
FURTHER_ROUNDS = 2  # other work on the machine only ever adds time, so the least of some runs is compared
# Not these: they print nothing that could differ, or (Linux's tables) name what each machine has, or the time.
UNCOMPARED_OUTPUT = {"acpi-bootsector", "small-firmware", "linux-devices", "linux-pc"}
COMPARED_OUTPUT = [name for name in SCENARIOS if name not in UNCOMPARED_OUTPUT]
GUESTS_WITH_CPU_LIMIT = ["grub-legacy", "uboot", "syslinux"]
SLOW = {name for name in SCENARIOS if name.startswith("linux")}


def marked(names: list[str]) -> list[object]:
    return [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in names]


def total_cpu_s(run: GuestRun) -> float:
    return max(run.cpu_s.values())


@pytest.mark.parametrize("guest", marked(COMPARED_OUTPUT))
def test_guest_prints_the_same_under_both(guest_runs: GuestRuns, guest: str) -> None:
    assert guest_runs.get(guest, "vmmd").outputs == guest_runs.get(guest, "qemu").outputs


@pytest.mark.slow
@pytest.mark.parametrize("guest", GUESTS_WITH_CPU_LIMIT)
def test_guest_costs_no_more_processor_time_than_under_qemu(guest_runs: GuestRuns, guest: str) -> None:
    qemu_s, vmmd_s = (total_cpu_s(guest_runs.get(guest, name)) for name in ("qemu", "vmmd"))
    for _round in range(FURTHER_ROUNDS):
        if vmmd_s <= CPU_RATIO_LIMIT * qemu_s:
            break
        qemu_s = min(qemu_s, total_cpu_s(guest_runs.fresh(guest, "qemu")))
        vmmd_s = min(vmmd_s, total_cpu_s(guest_runs.fresh(guest, "vmmd")))
    assert vmmd_s <= CPU_RATIO_LIMIT * qemu_s, f"{vmmd_s:.2f} s against QEMU's {qemu_s:.2f} s"


@pytest.mark.parametrize("guest", ["bench-multiboot", "bench-pvh"])
def test_kernel_starts_five_times_sooner_than_under_qemu(guest_runs: GuestRuns, guest: str) -> None:
    qemu_s, vmmd_s = (guest_runs.get(guest, name).wall_s["first instruction"] for name in ("qemu", "vmmd"))
    assert START_RATIO * vmmd_s <= qemu_s, f"{vmmd_s:.2f} s against QEMU's {qemu_s:.2f} s"


@pytest.mark.parametrize("guest", marked(["linux-min"]))
def test_linux_reaches_its_shell_sooner_than_under_qemu(guest_runs: GuestRuns, guest: str) -> None:
    vmmd, qemu = guest_runs.get(guest, "vmmd"), guest_runs.get(guest, "qemu")
    assert vmmd.cpu_s["shell"] < qemu.cpu_s["shell"]
    assert vmmd.wall_s["shell"] < qemu.wall_s["shell"]
