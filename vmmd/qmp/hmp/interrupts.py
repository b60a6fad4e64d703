# SPDX-License-Identifier: Apache-2.0
"""Interrupt controllers, as KVM tells their state (struct kvm_ioapic_state, struct kvm_pic_state)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor

_PINS = 24
_IOAPIC = struct.Struct(f"<QIIII{_PINS}Q")  # base address, selected register, id, IRR, padding, redirection table
_IOAPIC_VERSION = 0x11
#: last_irr irr imr isr priority_add irq_base read_reg_select poll special_mask init_state auto_eoi rotate_on_auto_eoi
#: special_fully_nested_mode init4 elcr elcr_mask
_PIC = struct.Struct("<16B")
#: bits 8-10 of a redirection entry (82093AA §3.2.4)
_DELIVERY = ("fixed", "lowest", "SMI", "...", "NMI", "INIT", "...", "extINT")
_LOGICAL, _ACTIVE_LOW, _REMOTE_IRR, _LEVEL, _MASKED = 1 << 11, 1 << 13, 1 << 14, 1 << 15, 1 << 16
_ISA_IRQS = 16


@hmp("info pic", help="interrupt controllers: I/O APIC and 8259")
def info_pic(monitor: HumanMonitor, arguments: Arguments) -> str:
    from vmmd.kvm import abi

    arguments.done()
    chips = monitor.vm.chips
    if chips is None:
        return ""
    return (
        _ioapic_text(chips.state(abi.KVM_IRQCHIP_IOAPIC))
        + _pic_text(1, chips.state(abi.KVM_IRQCHIP_PIC_SLAVE))
        + _pic_text(0, chips.state(abi.KVM_IRQCHIP_PIC_MASTER))
    )


def _ioapic_text(state: bytes) -> str:
    _base, selected, id_, irr, _pad, *pins = _IOAPIC.unpack_from(state)
    remote = sum(1 << number for number, entry in enumerate(pins) if entry & _REMOTE_IRR)
    return (
        f"ioapic0: ver=0x{_IOAPIC_VERSION:x} id=0x{id_ & 0xF:02x} sel=0x{selected & 0xFF:02x}\n"
        + "".join(_pin_text(number, entry) for number, entry in enumerate(pins))
        + f"  IRR      {_bits(irr)}\n  Remote IRR {_bits(remote)}\n"
    )


def _pin_text(number: int, entry: int) -> str:
    destination, mode = (entry >> 56, "logical") if entry & _LOGICAL else (entry >> 56 & 0xF, "physical")
    return (
        f"  pin {number:<2} 0x{entry:016x} dest={destination:x} vec={entry & 0xFF:<3}"
        f" {'active-lo' if entry & _ACTIVE_LOW else 'active-hi'} {'level' if entry & _LEVEL else 'edge':5}"
        f" {'masked' if entry & _MASKED else '':6} {_DELIVERY[entry >> 8 & 7]:6} {mode}\n"
    )


def _bits(value: int) -> str:
    return " ".join(str(bit) for bit in range(_PINS) if value >> bit & 1) or "(none)"


def _pic_text(number: int, state: bytes) -> str:
    (
        _last, irr, imr, isr, priority, base, selected, _poll, _mask, _init, _auto_eoi, _rotate, nested, _init4, elcr,
        _elcr_mask,
    ) = _PIC.unpack_from(state)  # fmt: skip
    return (
        f"pic{number}: irr={irr:02x} imr={imr:02x} isr={isr:02x} hprio={priority} irq_base={base:02x}"
        f" rr_sel={selected} elcr={elcr:02x} fnm={nested}\n"
    )


@hmp("info irq", help="how often devices raised each interrupt line")
def info_irq(monitor: HumanMonitor, arguments: Arguments) -> str:
    """Of devices with lines that vmmd drives: messages (MSI) and interrupts that the kernel raises are not counted."""
    arguments.done()
    raised = [] if monitor.vm.irqs is None else monitor.vm.irqs.raised
    text = ""
    for name, count in (("kvm-ioapic", len(raised)), ("kvm-i8259", _ISA_IRQS)):
        text += f"IRQ statistics for {name}:\n"
        text += "".join(f"{gsi:2}: {number}\n" for gsi, number in enumerate(raised[:count]) if number)
    return text
