# SPDX-License-Identifier: Apache-2.0
"""``-accel qtest``: a machine in which no vCPU runs and time stands still but for the client (``machine.accelerator``).

Interrupt controllers are the board's own devices; a message is a write to RAM, where the client looks for it; one to
the local APICs, of which none exists, is lost. Doorbells are refused, so devices serve their notify registers as any
other.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NoReturn

from vmmd.core.memory import GuestAddressError
from vmmd.devices.user_interrupts import UserInterrupts
from vmmd.errors import BackendError
from vmmd.kvm.host_cpu import AnyHost
from vmmd.machine.accelerator import Platform
from vmmd.machine.still_cpus import StillCpus
from vmmd.qtest.clock import ClientClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.kvm.cpuid import CpuConfig
    from vmmd.machine.vm import Vm
    from vmmd.options.models import AccelOptions


class NoDoorbells:
    """core.notify.DoorbellFactory of a machine without a kernel that could ring."""

    def attach(
        self, space: str, address: int, size: int, datamatch: int | None, ring: Callable[[], None] | int
    ) -> NoReturn:
        raise BackendError("guest writes come to the device itself")


class QtestAccelerator:
    """Nothing to open: it works on any host."""

    name = "qtest"

    def __init__(self) -> None:
        self.host = AnyHost()

    @classmethod
    def open(cls, vm: Vm, _options: AccelOptions) -> QtestAccelerator:
        """Also puts the client's clock in the place of the machine's."""
        clock = ClientClock(vm.loop, vm.lock)
        clock.on_failure = vm.clock.on_failure
        vm.clock = clock
        return cls()

    def check_cpus(self, count: int, maximum: int) -> list[str]:
        return []

    def make_platform(self, vm: Vm) -> Platform:
        def deliver(address: int, data: int) -> None:
            """A message is a write to memory; there is no local APIC behind its own address."""
            with contextlib.suppress(GuestAddressError):  # no RAM there
                vm.memory.write(address, data.to_bytes(4, "little"))

        interrupts = UserInterrupts(deliver)
        return Platform(interrupts, interrupts, NoDoorbells(), None)

    def make_cpus(self, vm: Vm, cpu_config: CpuConfig) -> StillCpus:
        return StillCpus(
            vm.loop,
            vm.memory,
            cpu_config,
            count=vm.config.smp.cpus,
            node_id=0 if vm.config.numa else None,  # LIMIT: one node
        )
