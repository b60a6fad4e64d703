# SPDX-License-Identifier: Apache-2.0
"""Power-on state of the interrupt controllers and the timer in the kernel, and the edge/level register (ELCR).

KVM has no reset ioctl for them: what they hold right after their creation is what a reset brings back
(Documentation/virt/kvm/api.rst: KVM_GET_IRQCHIP, KVM_SET_IRQCHIP, KVM_GET_PIT2, KVM_SET_PIT2).
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from vmmd.kvm import abi
from vmmd.kvm.ioctl import ioctl

if TYPE_CHECKING:
    from vmmd.kvm.vm import KvmVm

_CHIPS = (abi.KVM_IRQCHIP_PIC_MASTER, abi.KVM_IRQCHIP_PIC_SLAVE, abi.KVM_IRQCHIP_IOAPIC)
_CHIP_BYTES = 520  # struct kvm_irqchip: chip_id, pad, 512 bytes of state
_PIT_BYTES = 112  # struct kvm_pit_state2
_PIC_ELCR = 8 + 14  # struct kvm_pic_state: elcr


class KernelChips:
    """Made right after ``create_irqchip`` and ``create_pit``. vCPUs paused, DeviceLock held."""

    def __init__(self, vm: KvmVm, *, has_pit: bool) -> None:
        self._vm = vm
        self._chips = {chip: self._get_chip(chip) for chip in _CHIPS}
        self._pit = self._get_pit() if has_pit else None

    def reset(self) -> None:
        """Bring everything to power-on state. Raises KvmError."""
        for state in self._chips.values():
            self._set_chip(state)
        if self._pit is not None:
            # SAFETY: the buffer is as large as the structure and lives until the call returns
            block = ctypes.create_string_buffer(self._pit, _PIT_BYTES)
            ioctl(self._vm.fd, abi.KVM_SET_PIT2, ctypes.byref(block), name="KVM_SET_PIT2")

    def state(self, chip: int) -> bytes:
        """The 512 bytes of state of a controller (KVM_IRQCHIP_…), as KVM lays them out. Raises KvmError."""
        return self._get_chip(chip)[8:]

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

    def _get_pit(self) -> bytes:
        # SAFETY: KVM fills struct kvm_pit_state2, which is as large as the buffer
        block = ctypes.create_string_buffer(_PIT_BYTES)
        ioctl(self._vm.fd, abi.KVM_GET_PIT2, ctypes.byref(block), name="KVM_GET_PIT2")
        return block.raw
