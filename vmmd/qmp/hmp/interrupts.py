# SPDX-License-Identifier: Apache-2.0
"""Interrupt controllers, in the kernel or of vmmd's own, as ``core.irq.Chips`` tells their state."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from vmmd.core.irq import IoapicState, PicState
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor

#: bits 8-10 of a redirection entry (82093AA §3.2.4)
_DELIVERY = ("fixed", "lowest", "SMI", "...", "NMI", "INIT", "...", "extINT")
_LOGICAL, _ACTIVE_LOW, _REMOTE_IRR, _LEVEL, _MASKED = 1 << 11, 1 << 13, 1 << 14, 1 << 15, 1 << 16
_ISA_IRQS = 16
#: register of the first redirection entry (82093AA §3.2.4)
_FIRST_ENTRY = 0x10


@hmp("info pic", help="interrupt controllers: I/O APIC and 8259")
def info_pic(monitor: HumanMonitor, arguments: Arguments) -> str:
    arguments.done()
    chips = monitor.vm.chips
    if chips is None:
        return ""
    ioapic, pics = chips.ioapic_state(), chips.pic_states()
    text = "" if ioapic is None else _ioapic_text(ioapic)
    return text + "".join(_pic_text(number, pics[number]) for number in reversed(range(len(pics))))


def _ioapic_text(state: IoapicState) -> str:
    remote = sum(1 << number for number, entry in enumerate(state.entries) if entry & _REMOTE_IRR)
    pin = (state.selected - _FIRST_ENTRY) // 2
    selected = f" (redir[{pin}])" if pin >= 0 else ""
    return (
        f"ioapic0: ver=0x{state.version:x} id=0x{state.id_:02x} sel=0x{state.selected:02x}{selected}\n"
        + "".join(_pin_text(number, entry) for number, entry in enumerate(state.entries))
        + f"  IRR      {_bits(state.irr)}\n  Remote IRR {_bits(remote)}\n"
    )


def _pin_text(number: int, entry: int) -> str:
    destination, mode = (entry >> 56, "logical") if entry & _LOGICAL else (entry >> 56 & 0xF, "physical")
    return (
        f"  pin {number:<2} 0x{entry:016x} dest={destination:x} vec={entry & 0xFF:<3}"
        f" {'active-lo' if entry & _ACTIVE_LOW else 'active-hi'} {'level' if entry & _LEVEL else 'edge':5}"
        f" {'masked' if entry & _MASKED else '':6} {_DELIVERY[entry >> 8 & 7]:6} {mode}\n"
    )


def _bits(value: int) -> str:
    return "".join(f"{bit:<2} " for bit in range(value.bit_length()) if value >> bit & 1) or "(none)"


def _pic_text(number: int, state: PicState) -> str:
    return (
        f"pic{number}: irr={state.irr:02x} imr={state.imr:02x} isr={state.isr:02x} hprio={state.first}"
        f" irq_base={state.base:02x} rr_sel={state.read_isr:d} elcr={state.elcr:02x} fnm={state.special_nested:d}\n"
    )


@hmp("info irq", help="how often devices raised each interrupt line")
def info_irq(monitor: HumanMonitor, arguments: Arguments) -> str:
    """Of devices with lines that vmmd drives: messages (MSI) and interrupts that the kernel raises are not counted."""
    arguments.done()
    raised = [] if monitor.vm.irqs is None else monitor.vm.irqs.raised
    chips = monitor.vm.chips
    names = ("kvm-ioapic", "kvm-i8259") if chips is None else (chips.types.ioapic, chips.types.pic)
    text = ""
    for name, count in zip(names, (len(raised), _ISA_IRQS), strict=True):
        text += f"IRQ statistics for {name}:\n"
        text += "".join(f"{gsi:2}: {number}\n" for gsi, number in enumerate(raised[:count]) if number)
    return text
