# SPDX-License-Identifier: Apache-2.0
"""Interrupt controllers of a KVM machine that are not in the kernel: all of them (``kernel_irqchip=off``), or all but
the local APICs (``split``).

Either kind is made before the board, which makes and connects its own chips, and makes the run loops of the vCPUs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vmmd.core.irq import ChipTypes
from vmmd.devices.apic import APIC_VERSION, LocalApic
from vmmd.devices.apic_bus import ApicBus
from vmmd.devices.user_interrupts import UserInterrupts
from vmmd.kvm.irqchip import KvmMessages
from vmmd.kvm.splitloop import SplitLoop
from vmmd.kvm.userloop import UserLoop

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.bootstate import BootState
    from vmmd.core.clock import Clock
    from vmmd.core.irq import MsiRoute
    from vmmd.devices.ioapic import Ioapic
    from vmmd.kvm.runloop import Dispatch, RunLoop
    from vmmd.kvm.vcpu import Vcpu
    from vmmd.kvm.vm import KvmVm


class RunLoops(Protocol):
    """Makes run loops for vCPUs that need more than ``RunLoop``."""

    def make(self, vcpu: Vcpu, dispatch: Dispatch, kick: Callable[[], None], *, signature: int) -> RunLoop:
        """In order, the boot CPU's first. ``kick`` gets the vCPU's thread out of the guest."""

    def reset(self, boot: BootState | None) -> None:
        """The vCPUs were reset; ``boot``: without firmware."""


class UserChips:
    """Nothing is in the kernel. ``clock`` is the local APICs' time, ``apic_version`` what they say they are."""

    def __init__(self, clock: Clock, apic_version: int = APIC_VERSION) -> None:
        self._clock = clock
        self._apic_version = apic_version
        self.bus = ApicBus()
        self.interrupts = UserInterrupts(self.bus.deliver)
        self.interrupts.intr = self.bus.set_intr
        self.bus.acknowledge = self.interrupts.acknowledge
        self.bus.end_of_interrupt = self.interrupts.end_of_interrupt

    @property
    def apics(self) -> list[LocalApic]:
        return self.bus.apics

    def make(self, vcpu: Vcpu, dispatch: Dispatch, kick: Callable[[], None], *, signature: int) -> RunLoop:
        is_bsp = not self.apics
        apic = vcpu.local_apic = LocalApic(
            self.bus, self._clock, vcpu.apic_id, is_bsp=is_bsp, version=self._apic_version
        )
        return UserLoop(vcpu, dispatch, apic, kick, signature=signature, is_bsp=is_bsp)

    def reset(self, boot: BootState | None) -> None:
        for apic in self.apics:
            apic.reset()
        if boot is not None:
            self.apics[0].use_virtual_wire()


class SplitInterrupts(UserInterrupts):
    """The board's chips, with messages to KVM's local APICs."""

    types = ChipTypes("ioapic", "isa-i8259", "kvm-apic")

    def __init__(self, messages: KvmMessages) -> None:
        super().__init__(messages.signal_msi)
        self._messages = messages

    def connect_ioapic(self, ioapic: Ioapic) -> None:
        super().connect_ioapic(ioapic)
        ioapic.routed = self._messages.route_pin

    def bind_msi(self, fd: int, address: int, data: int) -> MsiRoute:
        return self._messages.bind_msi(fd, address, data)


class SplitChips:
    """The local APICs are in the kernel."""

    def __init__(self, vm: KvmVm) -> None:
        self.interrupts = SplitInterrupts(KvmMessages(vm, []))
        self._has_boot_cpu = False

    def make(self, vcpu: Vcpu, dispatch: Dispatch, kick: Callable[[], None], *, signature: int) -> RunLoop:
        loop = SplitLoop(vcpu, dispatch, self.interrupts, kick)
        if not self._has_boot_cpu:
            self._has_boot_cpu = True
            self.interrupts.intr = loop.set_intr
        return loop

    def reset(self, boot: BootState | None) -> None:
        """KVM's local APICs are part of the vCPUs' state."""
