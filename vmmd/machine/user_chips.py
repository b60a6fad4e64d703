# SPDX-License-Identifier: Apache-2.0
"""Interrupt controllers of a KVM machine that are not in the kernel (``kernel_irqchip=off``): the local APICs and
their wires to the board's chips."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.devices.apic import LocalApic
from vmmd.devices.apic_bus import ApicBus
from vmmd.devices.user_interrupts import UserInterrupts

if TYPE_CHECKING:
    from vmmd.core.clock import Clock


class UserChips:
    """Made before the board, which makes the other chips."""

    def __init__(self) -> None:
        self.bus = ApicBus()
        self.interrupts = UserInterrupts(self.bus.deliver)
        self.interrupts.intr = self.bus.set_intr
        self.bus.acknowledge = self.interrupts.acknowledge
        self.bus.end_of_interrupt = self.interrupts.end_of_interrupt

    def make_apics(self, clock: Clock, apic_ids: list[int]) -> list[LocalApic]:
        """One for each vCPU; the first is the boot CPU's."""
        return [LocalApic(self.bus, clock, id_, is_bsp=index == 0) for index, id_ in enumerate(apic_ids)]
