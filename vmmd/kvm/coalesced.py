# SPDX-License-Identifier: Apache-2.0
"""The ring in which KVM collects guest writes to coalesced zones (Documentation/virt/kvm/api.rst §4.117).

One ring per virtual machine, seen through every vCPU's mapping. It is drained before any exit is dispatched, so devices
see writes in the order the guest made them, and by the loop when it wants a device's state to be current.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.kvm import abi

if TYPE_CHECKING:
    from vmmd.kvm.runloop import Dispatch
    from vmmd.kvm.vcpu import Vcpu

_ENTRY_BYTES = 24
_PAGE = 4096
#: entries in the page behind first and last
ENTRIES = (_PAGE - 8) // _ENTRY_BYTES


class CoalescedRing:
    """The ring through one vCPU's mapping. ``zones`` is the machine's list: empty while nothing is coalesced."""

    def __init__(self, vcpu: Vcpu, dispatch: Dispatch) -> None:
        self.zones = vcpu.vm.coalesced_zones
        start = abi.KVM_COALESCED_MMIO_PAGE_OFFSET * _PAGE
        # SAFETY: the kernel shares this page (KVM_CAP_COALESCED_MMIO gives its number, 2 on x86) and moves ``last``;
        # only we move ``first``. Both are checked against ENTRIES before use.
        page = vcpu.bytes_[start : start + _PAGE]
        self._bytes = page
        self._dwords = page.cast("I")
        self._dispatch = dispatch

    def drain(self) -> None:
        """Carry out every collected write. DeviceLock held (it also keeps two drains apart)."""
        dwords = self._dwords
        first = dwords[0]
        while first != dwords[1] and first < ENTRIES:
            at = 8 + first * _ENTRY_BYTES
            entry = bytes(self._bytes[at : at + _ENTRY_BYTES])
            address = int.from_bytes(entry[:8], "little")
            length = min(int.from_bytes(entry[8:12], "little"), 8)
            pio = entry[12]
            first = (first + 1) % ENTRIES
            # ORDERING: x86 keeps this store behind the loads of the entry
            dwords[0] = first
            self._write(address, entry[16 : 16 + length], bool(pio))

    def _write(self, address: int, data: bytes, pio: bool) -> None:
        space = self._dispatch.pio if pio else self._dispatch.mmio
        size = len(data)
        if size in (1, 2, 4, 8):
            space.write(address, size, int.from_bytes(data, "little"))
            return
        for offset, value in enumerate(data):
            space.write(address + offset, 1, value)
