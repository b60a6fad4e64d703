# SPDX-License-Identifier: Apache-2.0
"""Which guest-physical addresses are backed by which host memory: RAM, firmware ROM, PAM segments, SMRAM.

    0x0000_0000  RAM
    0x000a_0000  VGA hole (SMRAM when the host bridge opens it)
    0x000c_0000  13 PAM segments, each RAM or ROM for reads and for writes (i440FX data sheet §3.2.20)
    0x0010_0000  RAM up to the top of low memory
    …            PCI hole, then firmware ROM that ends at 4 GiB
    0x1_0000_0000  the rest of RAM

Every change computes the flat list of slots anew, and only what differs is told to the hypervisor. All of it runs
with the DeviceLock held, on the loop at start and on a vCPU thread when the guest writes a PAM register.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmmd.core.memory import GuestAddressError
from vmmd.units import GiB, KiB, MiB

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmmd.core.memory import GuestMemory, RamRegion
    from vmmd.machine.ram import RamBlock

FOUR_GIB = 4 * GiB
VGA_HOLE = 0xA0000
PAM_BASE = 0xC0000
PAM_END = 0x100000
#: (base, size) of the 13 PAM segments in the order of their register nibbles: the BIOS segment, then 12 of 16 KiB
PAM_SEGMENTS = ((0xF0000, 64 * KiB), *((PAM_BASE + index * 16 * KiB, 16 * KiB) for index in range(12)))
#: how much of the end of the firmware is also seen below 1 MiB
ISA_BIOS_BYTES = 128 * KiB
#: low memory ends here at the latest, so that PCI has room
MAX_LOW_BYTES = 0xE000_0000
BIG_LOW_BYTES = 0xC000_0000
#: from here to 4 GiB the board has its own: I/O APIC, HPET, local APICs, firmware
BOARD_BASE = 0xFEC0_0000


class Slot(NamedTuple):
    """A run of guest-physical addresses and the host memory that KVM maps there."""

    gpa: int
    size_bytes: int
    hva: int
    readonly: bool
    name: str


class Span(NamedTuple):
    """A run of guest-physical addresses that is memory for the CPU: what it reads, and where its writes go."""

    gpa: int
    end: int  # first address behind it
    readable: memoryview | None  # None: nothing is there, it reads as zero
    writable: memoryview | None  # None: writes have no effect


class SlotSink(Protocol):
    """Where slots go: kvm.vm.KvmVm."""

    def set_memory_slot(
        self, slot: int, gpa: int, size_bytes: int, hva: int, *, readonly: bool = False, log_dirty: bool = False
    ) -> None: ...


def split_ram(size_bytes: int, max_low_bytes: int = MAX_LOW_BYTES) -> tuple[int, int]:
    """(below 4 GiB, above 4 GiB). Up to 3.5 GiB all is low; more than that leaves 1 GiB for PCI."""
    if size_bytes < max_low_bytes:
        return size_bytes, 0
    low = min(BIG_LOW_BYTES, max_low_bytes)
    return low, size_bytes - low


class MemoryMap:
    """RAM, ROM and PAM state, flattened to hypervisor slots."""

    def __init__(self, sink: SlotSink | None, ram: list[RamBlock], memory: GuestMemory) -> None:
        """``ram`` holds the guest's memory in address order (one block, or one per NUMA node)."""
        self._sink = sink
        self.memory = memory
        self.ram_bytes = sum(block.size_bytes for block in ram)
        self.low_bytes, self.high_bytes = self._split(self.ram_bytes)
        memory.publish(self._ram_regions(ram))
        self.rom: RamBlock | None = None
        self.rom_file = ""
        self._pam = [(False, False)] * len(PAM_SEGMENTS)
        self._smram_open = False
        self._option_roms: dict[int, tuple[int, RamBlock]] = {}  # where each is to be seen; by identity
        #: firmware and option ROMs that are seen now; any thread
        self.roms: tuple[RamBlock, ...] = ()
        self._current: dict[Slot, int] = {}
        self._free_ids: list[int] = []
        self._next_id = 0
        self._spans: tuple[Span, ...] | None = None  # None: to be made
        self._span_starts: list[int] = []

    @staticmethod
    def _split(size_bytes: int) -> tuple[int, int]:
        """(bytes from 0 on, bytes from 4 GiB on)."""
        return split_ram(size_bytes)

    def _ram_regions(self, ram: list[RamBlock]) -> list[RamRegion]:
        regions: list[RamRegion] = []
        gpa = 0
        for block in ram:
            offset = 0
            while offset < block.size_bytes:
                if gpa == self.low_bytes and gpa < FOUR_GIB:
                    gpa = FOUR_GIB
                limit = self.low_bytes - gpa if gpa < FOUR_GIB else block.size_bytes - offset
                take = min(limit, block.size_bytes - offset)
                regions.append(block.region(gpa, offset, take))
                gpa += take
                offset += take
        return regions

    @property
    def end_of_ram(self) -> int:
        """First address above all RAM."""
        return FOUR_GIB + self.high_bytes if self.high_bytes else self.low_bytes

    def set_rom(self, rom: RamBlock, file_name: str) -> None:
        """The firmware image, read from ``file_name``; it ends at 4 GiB and its last 128 KiB are seen below 1 MiB where
        PAM says ROM."""
        self.rom = rom
        self.rom_file = file_name
        self._spans = None

    def pam_changed(self, segment: int, read: bool, write: bool) -> None:
        """The host bridge's attributes of a segment: reads (writes) go to RAM, else to ROM (nowhere)."""
        if self._pam[segment] != (read, write):
            self._pam[segment] = (read, write)
            self.commit()

    def smram_changed(self, is_open: bool) -> None:
        """SMRAM opened: RAM instead of the VGA window at 0xa0000."""
        if self._smram_open != is_open:
            self._smram_open = is_open
            self.commit()

    def show_rom(self, block: RamBlock, gpa: int) -> None:
        """An option ROM is to be seen at ``gpa``; not where it would hide anything else."""
        self._option_roms[id(block)] = gpa, block
        self.commit()

    def hide_rom(self, block: RamBlock) -> None:
        """Undo it; nothing happens to one that is not shown."""
        if self._option_roms.pop(id(block), None) is not None:
            self.commit()

    def _shown_roms(self) -> Iterator[tuple[int, RamBlock]]:
        """(address, ROM) of those that are in nobody's way; of several in the same place the first has it."""
        taken = [(0, MiB), (BOARD_BASE, FOUR_GIB), *((region.gpa, region.end) for region in self.memory.regions)]
        for gpa, block in self._option_roms.values():
            end = gpa + block.size_bytes
            if not any(start < end and gpa < stop for start, stop in taken):
                taken.append((gpa, end))
                yield gpa, block

    def commit(self) -> None:
        """Bring the hypervisor's slots in line."""
        self._spans = None
        self.roms = (*(() if self.rom is None else (self.rom,)), *(block for _, block in self._shown_roms()))
        wanted = self._flatten()
        keep = set(wanted)
        for slot in [each for each in self._current if each not in keep]:
            slot_id = self._current.pop(slot)
            self._free_ids.append(slot_id)
            if self._sink is not None:
                self._sink.set_memory_slot(slot_id, slot.gpa, 0, slot.hva)
        for slot in wanted:
            if slot not in self._current:
                slot_id = self._free_ids.pop() if self._free_ids else self._new_id()
                self._current[slot] = slot_id
                if self._sink is not None:
                    self._sink.set_memory_slot(slot_id, slot.gpa, slot.size_bytes, slot.hva, readonly=slot.readonly)

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id - 1

    def slots(self) -> list[Slot]:
        """What the hypervisor has now, by address (info mtree)."""
        return sorted(self._current)

    def spans(self) -> tuple[Span, ...]:
        """What is memory and not registers for a CPU, by address (``machine.cpu_memory``)."""
        if self._spans is None:
            self._spans = tuple(sorted(self._make_spans(), key=lambda span: span.gpa))
            self._span_starts = [span.gpa for span in self._spans]
        return self._spans

    def find_span(self, gpa: int) -> Span | None:
        """The memory at an address; None: there are registers, or nothing."""
        spans = self._spans or self.spans()
        index = bisect_right(self._span_starts, gpa) - 1
        if index >= 0 and gpa < spans[index].end:
            return spans[index]
        return None

    def _make_spans(self) -> Iterator[Span]:
        for region in self.memory.regions:
            if region.gpa == 0:
                yield from self._low_spans(region)
            else:
                yield Span(region.gpa, region.end, region.bytes_, region.bytes_)
        if self.rom is not None:
            yield Span(FOUR_GIB - self.rom.size_bytes, FOUR_GIB, self.rom.view, None)
        for gpa, block in self._shown_roms():
            yield Span(gpa, gpa + block.size_bytes, block.view, None)

    def _low_spans(self, region: RamRegion) -> Iterator[Span]:
        """Around the VGA window, and the PAM segments: each is RAM, ROM or nothing, for reads and for writes."""
        ram, end = region.bytes_, region.end
        yield _ram_span(ram, 0, min(end, VGA_HOLE))
        if self._smram_open and end > VGA_HOLE:
            yield _ram_span(ram, VGA_HOLE, min(end, PAM_BASE))
        for (base, size), (read, write) in zip(PAM_SEGMENTS, self._pam, strict=True):
            there = ram[base : base + size] if base + size <= end else None
            readable = there if read else self._isa_bios(base, size)
            yield Span(base, base + size, readable, there if write else None)
        if end > MiB:
            yield _ram_span(ram, MiB, end)

    def _isa_bios(self, base: int, size: int) -> memoryview | None:
        """What of the ROM is seen at a place below 1 MiB."""
        if self.rom is None or base < PAM_END - min(self.rom.size_bytes, ISA_BIOS_BYTES):
            return None
        offset = self.rom.size_bytes - (PAM_END - base)
        return self.rom.view[offset : offset + size]

    def write_hidden(self, gpa: int, data: bytes) -> bool:
        """A guest write that no slot took: to RAM when PAM (read ROM, write RAM) or a slot change in another vCPU
        is the reason. False when the address is not writable memory: the write is for MMIO, or dropped by ROM."""
        if PAM_BASE <= gpa < PAM_END:
            if not self._pam[_segment_of(gpa)][1]:
                return True
        elif VGA_HOLE <= gpa < PAM_BASE and not self._smram_open:
            return False
        try:
            self.memory.write(gpa, data)
        except GuestAddressError:
            return self.rom is not None and FOUR_GIB - self.rom.size_bytes <= gpa < FOUR_GIB
        return True

    def read_hidden(self, gpa: int, length: int) -> bytes | None:
        """A guest read that no slot took, in a slot change: the bytes, or None when the address is not memory."""
        if VGA_HOLE <= gpa < PAM_BASE and not self._smram_open:
            return None
        if PAM_BASE <= gpa < PAM_END and not self._pam[_segment_of(gpa)][0]:
            return self._read_isa_bios(gpa, length)
        region = next((each for each in self.memory.regions if each.gpa <= gpa and gpa + length <= each.end), None)
        return None if region is None else bytes(region.bytes_[gpa - region.gpa : gpa - region.gpa + length])

    def _read_isa_bios(self, gpa: int, length: int) -> bytes | None:
        if self.rom is None:
            return None
        visible = min(self.rom.size_bytes, ISA_BIOS_BYTES)
        offset = self.rom.size_bytes - (PAM_END - gpa)
        if gpa < PAM_END - visible or offset < 0:
            return None
        return bytes(self.rom.view[offset : offset + length])

    def _flatten(self) -> list[Slot]:
        slots: list[Slot] = []
        for region in self.memory.regions:
            if region.gpa == 0:
                slots += self._low_slots(region.hva, region.end, region.name)
            else:
                slots.append(Slot(region.gpa, region.end - region.gpa, region.hva, False, region.name))
        if self.rom is not None:
            size = self.rom.size_bytes
            slots.append(Slot(FOUR_GIB - size, size, self.rom.hva, True, "pc.bios"))
        slots += [Slot(gpa, each.size_bytes, each.hva, True, each.name) for gpa, each in self._shown_roms()]
        return slots

    def _low_slots(self, hva: int, end: int, name: str) -> list[Slot]:
        slots = [Slot(0, min(end, VGA_HOLE), hva, False, name)]
        if self._smram_open and end > VGA_HOLE:  # on its own: other vCPUs run code below it while it comes and goes
            slots.append(Slot(VGA_HOLE, min(end, PAM_BASE) - VGA_HOLE, hva + VGA_HOLE, False, name))
        slots += _merge(sorted(self._pam_slots(hva, end, name)))
        if end > MiB:
            slots.append(Slot(MiB, end - MiB, hva + MiB, False, name))
        return slots

    def _pam_slots(self, hva: int, end: int, name: str) -> list[Slot]:
        slots: list[Slot] = []
        for (base, size), (read, write) in zip(PAM_SEGMENTS, self._pam, strict=True):
            if read and base + size <= end:
                slots.append(Slot(base, size, hva + base, not write, name))
            elif not read:
                slots += self._rom_slot(base, size)
        return slots

    def _rom_slot(self, base: int, size: int) -> list[Slot]:
        if self.rom is None or base < PAM_END - min(self.rom.size_bytes, ISA_BIOS_BYTES):
            return []
        offset = self.rom.size_bytes - (PAM_END - base)
        return [Slot(base, size, self.rom.hva + offset, True, "isa-bios")]


class FlatMemory(MemoryMap):
    """RAM from 0 on and nothing else: machine ``none``."""

    @staticmethod
    def _split(size_bytes: int) -> tuple[int, int]:
        return size_bytes, 0

    def _make_spans(self) -> Iterator[Span]:
        for region in self.memory.regions:
            yield Span(region.gpa, region.end, region.bytes_, region.bytes_)

    def _flatten(self) -> list[Slot]:
        return [Slot(region.gpa, region.size_bytes, region.hva, False, region.name) for region in self.memory.regions]


def _ram_span(ram: memoryview, start: int, end: int) -> Span:
    return Span(start, end, ram[start:end], ram[start:end])


def _segment_of(gpa: int) -> int:
    return 0 if gpa >= 0xF0000 else 1 + (gpa - PAM_BASE) // (16 * KiB)


def _merge(slots: list[Slot]) -> list[Slot]:
    merged: list[Slot] = []
    for slot in slots:
        last = merged[-1] if merged else None
        if (
            last is not None
            and last.gpa + last.size_bytes == slot.gpa
            and last.hva + last.size_bytes == slot.hva
            and (last.readonly, last.name) == (slot.readonly, slot.name)
        ):
            merged[-1] = last._replace(size_bytes=last.size_bytes + slot.size_bytes)
        else:
            merged.append(slot)
    return merged
