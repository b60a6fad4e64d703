# SPDX-License-Identifier: Apache-2.0
"""Power-on state of the interrupt controllers and the timer in the kernel, and the edge/level register (ELCR).

KVM has no reset ioctl for them: what they hold right after their creation is what a reset brings back
(Documentation/virt/kvm/api.rst: KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, KVM_GET_PIT2, KVM_SET_PIT2).
"""

from __future__ import annotations

import ctypes
import struct
from typing import TYPE_CHECKING

from vmmd.core.irq import ChipTypes, IoapicState, PicState
from vmmd.kvm import abi
from vmmd.kvm.ioctl import ioctl

if TYPE_CHECKING:
    from vmmd.kvm.vm import KvmVm

_CHIPS = (abi.KVM_IRQCHIP_PIC_MASTER, abi.KVM_IRQCHIP_PIC_SLAVE, abi.KVM_IRQCHIP_IOAPIC)
_CHIP_BYTES = 520  # struct kvm_irqchip: chip_id, pad, 512 bytes of state
_PIT_BYTES = 112  # struct kvm_pit_state2
_PIT_FLAGS = 3 * 24  # behind struct kvm_pit_channel_state of three counters
_PIT_HPET_LEGACY = 0x01  # KVM_PIT_FLAGS_HPET_LEGACY
_HEADER = 8  # chip_id, pad
_PIC_ELCR = _HEADER + 14  # struct kvm_pic_state: elcr
#: struct kvm_ioapic_state: base address, selected register, id, IRR, padding, redirection table
_IOAPIC = struct.Struct(f"<QIIII{abi.KVM_IOAPIC_NUM_PINS}Q")
_IOAPIC_VERSION = 0x11
#: struct kvm_pic_state: last_irr irr imr isr priority_add irq_base read_reg_select poll special_mask init_state
#: auto_eoi rotate_on_auto_eoi special_fully_nested_mode init4 elcr elcr_mask
_PIC = struct.Struct("<16B")


class KernelChips:
    """Made right after ``create_irqchip`` and ``create_pit``. vCPUs paused, DeviceLock held."""

    types = ChipTypes("kvm-ioapic", "kvm-i8259", "kvm-apic")

    def __init__(self, vm: KvmVm, *, has_pit: bool) -> None:
        self._vm = vm
        self._chips = {chip: self._get_chip(chip) for chip in _CHIPS}
        self._pit = self._get_pit() if has_pit else None

    def reset(self) -> None:
        """Bring everything to power-on state. Raises KvmError."""
        for state in self._chips.values():
            self._set_chip(state)
        if self._pit is not None:
            self._set_pit(self._pit)

    def connect_pit(self, on: bool) -> None:
        """Let the timer drive interrupt 0, or not: the HPET takes its place. DeviceLock held. Raises KvmError."""
        if self._pit is None:
            return
        state = bytearray(self._get_pit())
        state[_PIT_FLAGS] = state[_PIT_FLAGS] & ~_PIT_HPET_LEGACY | (0 if on else _PIT_HPET_LEGACY)
        self._set_pit(bytes(state))

    def ioapic_state(self) -> IoapicState:
        """Any thread. Raises KvmError."""
        _base, selected, id_, irr, _pad, *pins = _IOAPIC.unpack_from(self._get_chip(abi.KVM_IRQCHIP_IOAPIC), _HEADER)
        return IoapicState(_IOAPIC_VERSION, id_ & 0xF, selected & 0xFF, irr, tuple(pins))

    def pic_states(self) -> tuple[PicState, ...]:
        """Any thread. Raises KvmError."""
        return tuple(_pic_state(self._get_chip(chip)) for chip in _CHIPS[:2])

    def set_elcr(self, levels: int) -> None:
        """Which of the 16 ISA interrupts are level triggered (ports 4D0h and 4D1h), as firmware sets them."""
        for chip, byte in ((abi.KVM_IRQCHIP_PIC_MASTER, levels & 0xFF), (abi.KVM_IRQCHIP_PIC_SLAVE, levels >> 8)):
            state = bytearray(self._get_chip(chip))
            state[_PIC_ELCR] = byte
            self._set_chip(bytes(state))

    def _get_chip(self, chip: int) -> bytes:
        # SAFETY: KVM fills struct kvm_irqchip, which is as large as the buffer
        block = ctypes.create_string_buffer(chip.to_bytes(4, "little"), _CHIP_BYTES)
        ioctl(self._vm.fd, abi.KVM_GET_IRQCHIP, ctypes.byref(block), name="KVM_GET_IRQCHIP")
        return block.raw

    def _set_chip(self, state: bytes) -> None:
        # SAFETY: as above
        block = ctypes.create_string_buffer(state, _CHIP_BYTES)
        ioctl(self._vm.fd, abi.KVM_SET_IRQCHIP, ctypes.byref(block), name="KVM_SET_IRQCHIP")

    def _set_pit(self, state: bytes) -> None:
        # SAFETY: the buffer is as large as the structure and lives until the call returns
        block = ctypes.create_string_buffer(state, _PIT_BYTES)
        ioctl(self._vm.fd, abi.KVM_SET_PIT2, ctypes.byref(block), name="KVM_SET_PIT2")

    def _get_pit(self) -> bytes:
        # SAFETY: KVM fills struct kvm_pit_state2, which is as large as the buffer
        block = ctypes.create_string_buffer(_PIT_BYTES)
        ioctl(self._vm.fd, abi.KVM_GET_PIT2, ctypes.byref(block), name="KVM_GET_PIT2")
        return block.raw


def _pic_state(chip: bytes) -> PicState:
    (
        _last, irr, imr, isr, priority, base, selected, _poll, _mask, _init, _auto_eoi, _rotate, nested, _init4, elcr,
        _elcr_mask,
    ) = _PIC.unpack_from(chip, _HEADER)  # fmt: skip
    return PicState(irr, imr, isr, priority, base, bool(selected), elcr, bool(nested))
