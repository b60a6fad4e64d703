# SPDX-License-Identifier: Apache-2.0
"""machine.memory_map: which slots the hypervisor gets for RAM, ROM, PAM and SMRAM."""

from __future__ import annotations

import pytest

from vmmd.core.memory import GuestMemory
from vmmd.machine.memory_map import FOUR_GIB, PAM_SEGMENTS, MemoryMap, split_ram
from vmmd.machine.ram import RamBlock, RamSettings
from vmmd.units import GiB, KiB, MiB


class Slots:
    """Records slots like the hypervisor; refuses overlaps and reuse of a live id."""

    def __init__(self) -> None:
        self.live: dict[int, tuple[int, int, int, bool]] = {}
        self.calls = 0

    def set_memory_slot(
        self, slot: int, gpa: int, size_bytes: int, hva: int, *, readonly: bool = False, log_dirty: bool = False
    ) -> None:
        self.calls += 1
        if size_bytes == 0:
            del self.live[slot]
            return
        assert slot not in self.live
        for base, size, _, _ in self.live.values():
            assert gpa + size_bytes <= base or base + size <= gpa, "slots overlap"
        self.live[slot] = (gpa, size_bytes, hva, readonly)

    def at(self, gpa: int) -> tuple[int, bool] | None:
        """(hva, readonly) that the guest sees at ``gpa``."""
        for base, size, hva, readonly in self.live.values():
            if base <= gpa < base + size:
                return hva + gpa - base, readonly
        return None


def make(ram_mib: int = 2, rom_kib: int = 256) -> tuple[MemoryMap, Slots, RamBlock, RamBlock]:
    sink = Slots()
    ram = RamBlock("pc.ram", RamSettings(size_bytes=ram_mib * MiB))
    rom = RamBlock("pc.bios", RamSettings(size_bytes=rom_kib * KiB))
    memory_map = MemoryMap(sink, [ram], GuestMemory())
    memory_map.set_rom(rom, "bios.bin")
    memory_map.commit()
    return memory_map, sink, ram, rom


def test_power_on_shows_rom_below_four_gib_and_below_one_mib() -> None:
    _, sink, ram, rom = make()
    assert sink.at(0) == (ram.hva, False)
    assert sink.at(0xA0000) is None
    assert sink.at(FOUR_GIB - 1) == (rom.hva + rom.size_bytes - 1, True)
    assert sink.at(0xFFFFF) == (rom.hva + rom.size_bytes - 1, True)
    assert sink.at(0xE0000) == (rom.hva + rom.size_bytes - 128 * KiB, True)
    assert sink.at(0xDFFFF) is None
    assert sink.at(MiB) == (ram.hva + MiB, False)


@pytest.mark.parametrize("segment", range(13))
@pytest.mark.parametrize(("read", "write"), [(True, False), (True, True)])
def test_pam_read_shows_ram(segment: int, read: bool, write: bool) -> None:
    memory_map, sink, ram, _ = make()
    base, size = PAM_SEGMENTS[segment]
    memory_map.pam_changed(segment, read, write)
    assert sink.at(base) == (ram.hva + base, not write)
    assert sink.at(base + size - 1) == (ram.hva + base + size - 1, not write)
    memory_map.pam_changed(segment, False, False)
    assert sink.at(base) == make_view(memory_map, base)


def make_view(memory_map: MemoryMap, base: int) -> tuple[int, bool] | None:
    rom = memory_map.rom
    assert rom is not None
    return (rom.hva + rom.size_bytes - (MiB - base), True) if base >= 0xE0000 else None


def test_all_segments_open_are_few_slots_and_unchanged_slots_stay() -> None:
    memory_map, sink, _, _ = make()
    for segment in range(13):
        memory_map.pam_changed(segment, True, True)
    assert sum(0xC0000 <= gpa < MiB for gpa, _, _, _ in sink.live.values()) == 1
    before = sink.calls
    memory_map.pam_changed(3, True, True)
    assert sink.calls == before


def test_smram_open_shows_ram_in_the_display_window() -> None:
    memory_map, sink, ram, _ = make()
    memory_map.smram_changed(True)
    assert sink.at(0xA0000) == (ram.hva + 0xA0000, False)
    memory_map.smram_changed(False)
    assert sink.at(0xA0000) is None


def test_low_ram_stays_mapped_while_smram_opens_and_closes() -> None:
    memory_map, sink, _, _ = make()
    low = next(slot for slot, (gpa, *_) in sink.live.items() if gpa == 0)
    changed: list[int] = []
    set_slot = sink.set_memory_slot

    def watched(slot: int, *args: int, **flags: bool) -> None:
        changed.append(slot)
        set_slot(slot, *args, **flags)

    sink.set_memory_slot = watched  # type: ignore[method-assign,assignment]
    memory_map.smram_changed(True)
    memory_map.smram_changed(False)
    assert changed
    assert low not in changed


def test_write_behind_rom_reaches_ram_only_when_pam_says_so() -> None:
    memory_map, _, _, _ = make()
    assert memory_map.write_hidden(0xF0000, b"x")
    assert memory_map.memory.read(0xF0000, 1) == b"\0"
    memory_map.pam_changed(0, False, True)
    assert memory_map.write_hidden(0xF0000, b"x")
    assert memory_map.memory.read(0xF0000, 1) == b"x"
    assert not memory_map.write_hidden(0xA0000, b"x")
    assert not memory_map.write_hidden(0xFE000000, b"x")
    assert memory_map.write_hidden(FOUR_GIB - 4, b"x")


def test_read_during_a_slot_change_sees_what_the_slot_shows() -> None:
    memory_map, _, _, rom = make()
    rom.view[-1] = 0x5A
    assert memory_map.read_hidden(0xFFFFF, 1) == b"\x5a"
    assert memory_map.read_hidden(0xC0000, 1) is None
    memory_map.pam_changed(0, True, False)
    assert memory_map.read_hidden(0xFFFFF, 1) == b"\0"


@pytest.mark.parametrize(
    ("size", "split"),
    [(2 * MiB, (2 * MiB, 0)), (0xE000_0000 - MiB, (0xE000_0000 - MiB, 0)), (4 * GiB, (3 * GiB, GiB))],
)
def test_ram_is_split_around_the_pci_hole(size: int, split: tuple[int, int]) -> None:
    assert split_ram(size) == split


def test_nodes_follow_each_other_and_cross_the_hole() -> None:
    blocks = [RamBlock("a", RamSettings(size_bytes=3 * GiB - MiB)), RamBlock("b", RamSettings(size_bytes=2 * GiB))]
    memory = GuestMemory()
    MemoryMap(None, blocks, memory)
    assert [(region.gpa, region.size_bytes, region.name) for region in memory.regions] == [
        (0, 3 * GiB - MiB, "a"), (3 * GiB - MiB, MiB, "b"), (FOUR_GIB, 2 * GiB - MiB, "b"),
    ]  # fmt: skip


HIGH = 0xE000_0000


def option_rom(kib: int = 64) -> RamBlock:
    return RamBlock("x.rom", RamSettings(size_bytes=kib * KiB))


def test_option_rom_is_a_slot_of_its_own_where_nothing_else_is() -> None:
    memory_map, sink, ram, rom = make()
    other = option_rom()
    for gpa, there in (
        (HIGH, True),
        (HIGH + 0x1_0000, True),
        (2 * MiB, True),
        (2 * MiB - 0x1000, False),  # over the end of RAM
        (0, False),
        (0xC_0000, False),  # where PAM decides
        (0xFEBF_0000, True),
        (0xFEBF_1000, False),  # over the I/O APIC, which may be in the kernel
        (0xFEE0_0000, False),
        (FOUR_GIB - 256 * KiB - 0x1000, False),  # over the firmware
    ):
        memory_map.show_rom(other, gpa)
        if there:
            assert sink.at(gpa) == (other.hva, True)
            assert sink.at(gpa + other.size_bytes - 1) == (other.hva + other.size_bytes - 1, True)
            span = memory_map.find_span(gpa)
            assert span is not None
            assert span[2:] == (other.view, None)
        else:
            assert other.hva not in [hva for _, _, hva, _ in sink.live.values()]
        memory_map.hide_rom(other)
        assert other.hva not in [hva for _, _, hva, _ in sink.live.values()]
    assert sink.at(0) == (ram.hva, False)
    assert sink.at(FOUR_GIB - 1) == (rom.hva + rom.size_bytes - 1, True)
    calls = sink.calls
    memory_map.hide_rom(other)
    assert sink.calls == calls


def test_of_two_option_roms_in_one_place_the_first_has_it() -> None:
    memory_map, sink, _, _ = make()
    first, second = option_rom(), option_rom()
    memory_map.show_rom(first, HIGH)
    memory_map.show_rom(second, HIGH + 0x8000)
    assert sink.at(HIGH + 0x8000) == (first.hva + 0x8000, True)
    assert sink.at(HIGH + 0x1_0000) is None
    memory_map.hide_rom(first)
    assert sink.at(HIGH + 0x8000) == (second.hva, True)
