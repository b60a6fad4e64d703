# SPDX-License-Identifier: Apache-2.0
"""Chips that the kernel emulates, as far as they are seen: their place in the object tree and their properties.

They answer no access here: ``kvm.vm`` makes the chips themselves, ``kvm.chips`` resets them.
"""

from __future__ import annotations

from vmmd.core.device import Device
from vmmd.core.props import U32, enum_type, prop
from vmmd.devices.isa.i8259 import PicProps

#: what KVM can do with ticks that a guest has missed
KVM_TICK_POLICY = enum_type("LostTickPolicy", "delay", "discard")


class KvmPit(Device):
    """The 8254 timer. The machine builder reads the policy from here."""

    type_name = "kvm-pit"
    description = "timer 8254 in the kernel"
    bus_type = "ISA"
    parent_type = "pit-common"

    class Props(Device.Props):
        lost_tick_policy = prop(KVM_TICK_POLICY, "delay", "what becomes of missed ticks", wire="lost_tick_policy")

    props: Props


class KvmPic(Device):
    """One of the two 8259 interrupt controllers."""

    type_name = "kvm-i8259"
    description = "interrupt controller 8259 in the kernel"
    bus_type = "ISA"
    parent_type = "pic-common"

    class Props(PicProps):
        """As of every 8259."""

    props: Props


class KvmIoapic(Device):
    """The I/O APIC."""

    type_name = "kvm-ioapic"
    description = "I/O APIC in the kernel"
    parent_type = "ioapic-common"

    class Props(Device.Props):
        gsi_base = prop(U32, 0, "interrupt number of its first input", wire="gsi_base")

    props: Props


class KvmApic(Device):
    """The local APIC of a vCPU."""

    type_name = "kvm-apic"
    description = "local APIC in the kernel"
    parent_type = "apic-common"
