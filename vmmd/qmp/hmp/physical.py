# SPDX-License-Identifier: Apache-2.0
"""Guest-physical memory as the monitor reads it, and where in the host it is: GPA → HVA → HPA."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from vmmd.core.memory import GuestAddressError

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.qmp.vm_api import RomApi, SlotApi, VmApi

_PAGE = 4096
_PAGEMAP_PRESENT = 1 << 63
_PAGEMAP_PFN = (1 << 55) - 1


class PhysicalMemory:
    """Guest-physical addresses as the vCPUs see them."""

    def __init__(self, vm: VmApi) -> None:
        self._vm = vm

    def slot(self, gpa: int) -> SlotApi | None:
        """The RAM or ROM at an address."""
        memory_map = self._vm.memory_map
        for slot in () if memory_map is None else memory_map.slots():
            if slot.gpa <= gpa < slot.gpa + slot.size_bytes:
                return slot
        return None

    def read(self, gpa: int, length: int, item_size: int = 1) -> bytes | None:
        """Bytes of RAM, ROM or device registers (read as items); None when something of it is not there."""
        data = b""
        while len(data) < length:
            slot = self.slot(gpa)
            if slot is None:
                rest = self._registers(gpa, length - len(data), item_size)
                return None if rest is None else data + rest
            take = min(length - len(data), slot.gpa + slot.size_bytes - gpa)
            part = self._host_bytes(slot.hva + gpa - slot.gpa, take)
            if part is None:
                return None
            data += part
            gpa += take
        return data

    def contents(self, gpa: int, length: int) -> bytes:
        """Bytes of RAM and ROM; what is neither reads as zeroes, and no device notices. Any thread."""
        data = bytearray(length)
        memory_map = self._vm.memory_map
        for slot in () if memory_map is None else memory_map.slots():
            start, stop = max(gpa, slot.gpa), min(gpa + length, slot.gpa + slot.size_bytes)
            if start < stop:
                part = self._host_bytes(slot.hva + start - slot.gpa, stop - start)
                if part is not None:
                    data[start - gpa : stop - gpa] = part
        return bytes(data)

    def _host_bytes(self, hva: int, length: int) -> bytes | None:
        for region in self._vm.memory.regions:
            offset = hva - region.hva
            if offset >= 0 and offset + length <= region.size_bytes:
                return bytes(region.bytes_[offset : offset + length])
        try:
            rom = self._in_rom(hva, length)
            return None if rom is None else bytes(rom.view[hva - rom.hva : hva - rom.hva + length])
        except ValueError:  # its device has just been unplugged
            return None

    def _in_rom(self, hva: int, length: int) -> RomApi | None:
        """The firmware or the option ROM that a range of host memory is in."""
        roms = self._vm.memory_map.roms if self._vm.memory_map is not None else ()
        return next((rom for rom in roms if 0 <= hva - rom.hva <= len(rom.view) - length), None)

    def _registers(self, gpa: int, length: int, item_size: int) -> bytes | None:
        """As a vCPU would read them, side effects included, as in QEMU."""
        data = b""
        with self._vm.lock:
            for offset in range(0, length, item_size):
                if self._vm.mmio.find(gpa + offset) is None:
                    return None
                data += self._vm.mmio.read(gpa + offset, item_size).to_bytes(item_size, "little")
        return data

    # -- GPA → HVA → HPA -------------------------------------------------------------------------------------------

    def locate(self, gpa: int) -> tuple[str, int] | str:
        """(name of the memory, host virtual address), or the sentence that says why there is none."""
        slot = self.slot(gpa)
        if slot is not None:
            hva = slot.hva + gpa - slot.gpa
            memory_map = self._vm.memory_map
            is_firmware = (
                memory_map is not None and memory_map.rom is not None and self._in_rom(hva, 1) is memory_map.rom
            )
            return "pc.bios" if is_firmware else slot.name, hva
        if self._vm.mmio.find(gpa) is not None:
            return f"Memory at address 0x{gpa:x} is not RAM"
        return f"No memory is mapped at address 0x{gpa:x}"

    def gpa2hva(self, gpa: int) -> str:
        found = self.locate(gpa)
        if isinstance(found, str):
            return found + "\n"
        name, hva = found
        return f"Host virtual address for 0x{gpa:x} ({name}) is 0x{hva:x}\n"

    def gpa2hpa(self, gpa: int) -> str:
        found = self.locate(gpa)
        if isinstance(found, str):
            return found + "\n"
        name, hva = found
        try:
            hpa = host_physical(hva)
        except OSError as error:
            return f"Error: could not read /proc/self/pagemap: {os.strerror(error.errno or 0)}\n"
        if hpa is None:
            return (
                "Error: the page is not in the host's memory (never touched, swapped out, or hidden from this user)\n"
            )
        return f"Host physical address for 0x{gpa:x} ({name}) is 0x{hpa:x}\n"


def host_physical(hva: int) -> int | None:
    """Host physical address of a page of this process (Linux pagemap.rst); None when it has none, or without
    CAP_SYS_ADMIN. Raises OSError."""
    fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        (entry,) = struct.unpack("=Q", os.pread(fd, 8, hva // _PAGE * 8).ljust(8, b"\0"))
    finally:
        os.close(fd)
    frame: int = entry & _PAGEMAP_PFN
    if not entry & _PAGEMAP_PRESENT or not frame:
        return None
    return frame * _PAGE + hva % _PAGE


def virtual_reader(
    physical: PhysicalMemory, translate: Callable[[int], int | None]
) -> Callable[[int, int, int], bytes | None]:
    """A ``read`` for ``dump`` that goes through the vCPU's page tables, page by page."""

    def read(gva: int, length: int, item_size: int) -> bytes | None:
        data = b""
        while len(data) < length:
            gpa = translate(gva)
            if gpa is None:
                return None
            take = min(length - len(data), _PAGE - gva % _PAGE)
            try:
                part = physical.read(gpa, take, min(item_size, take))
            except GuestAddressError:
                return None
            if part is None:
                return None
            data += part
            gva += take
        return data

    return read
