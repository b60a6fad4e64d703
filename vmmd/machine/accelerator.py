# SPDX-License-Identifier: Apache-2.0
"""What runs a machine's vCPUs, as the builder sees it: KVM (``machine.kvm_accelerator``), or nothing at all
(``vmmd.qtest.accelerator``), where a client does what a guest would.

Devices see the seams of ``Platform`` only, through ``DeviceContext``: none knows which accelerator it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmmd.errors import UsageError, VmmdError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.irq import Chips, InterruptController
    from vmmd.core.notify import DoorbellFactory
    from vmmd.kvm.cpuid import CpuConfig
    from vmmd.kvm.host_cpu import HostCpu
    from vmmd.machine.cpus import VcpuManager
    from vmmd.machine.memory_map import SlotSink
    from vmmd.machine.still_cpus import StillCpus
    from vmmd.machine.vm import Vm
    from vmmd.options.models import AccelOptions, Config


class Platform(NamedTuple):
    """The seams of one machine."""

    interrupts: InterruptController
    chips: Chips
    doorbells: DoorbellFactory
    slots: SlotSink | None  # who is told where memory is; None: nobody has to know


class Accelerator(Protocol):
    """One that could be opened; it makes one machine."""

    name: str

    @property
    def host(self) -> HostCpu:
        """What CPU models are measured against."""

    def check_cpus(self, count: int, maximum: int) -> list[str]:
        """Warnings about the numbers of -smp. Raises UsageError."""

    def make_platform(self, vm: Vm) -> Platform:
        """The seams, before any device is made. Raises VmmdError."""

    def make_cpus(self, vm: Vm, cpu_config: CpuConfig) -> VcpuManager | StillCpus:
        """The vCPUs, when the board is there."""


def open_first(
    vm: Vm, find: Callable[[str], Callable[[Vm, AccelOptions], Accelerator] | None]
) -> tuple[Accelerator | None, list[str]]:
    """The first usable one of ``-accel`` in order, and what stderr is to say of those before it; None: machine ``none``
    goes on without. ``find(name)`` gives what opens one for a Vm, and raises VmmdError when this host has it not.
    Raises VmmdError when there is none."""
    config = vm.config
    said: list[str] = []
    failures: list[VmmdError] = []
    for wanted in config.accels:
        opener = find(wanted.accel)
        try:
            if opener is None:
                raise _not_there(wanted)
            found = opener(vm, wanted)
        except VmmdError as error:
            failures.append(error)
            said.append(str(error))
            continue
        if failures:
            said.append(f"falling back to {found.name}")  # QEMU-COMPAT: the phrase
        return found, said
    if may_do_without(config):
        return None, [f"{each}; machine 'none' goes on without an accelerator" for each in said]
    *others, last = failures
    if others:
        last.desc = "; ".join(each.desc for each in [*others, last])
    raise last


def may_do_without(config: Config) -> bool:
    """Machine ``none`` runs no guest: it starts without an accelerator, unless nothing but KVM was asked for."""
    return config.machine.type == "none" and not (config.accels and all(each.accel == "kvm" for each in config.accels))


def _not_there(wanted: AccelOptions) -> UsageError:
    from vmmd.options.read_machine import ACCELS_LATER

    if wanted.accel in ACCELS_LATER:
        return UsageError(f"-accel {wanted.accel}: not available in this version")
    # QEMU-COMPAT: the phrase
    return UsageError(f"-accel {wanted.accel}: invalid accelerator {wanted.accel}")
