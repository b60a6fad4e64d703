# SPDX-License-Identifier: Apache-2.0
"""machine.option_roms: which files are option ROMs, how large they are, and where the hypervisor maps them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.unit.test_machine_memory_map import HIGH, make
from vmmd.core.address_space import AddressSpace, IoRange
from vmmd.errors import UsageError
from vmmd.machine.option_roms import FIRMWARE_DIRECTORY, MachineRoms
from vmmd.options.models import OptionRomOptions
from vmmd.units import KiB

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.test_machine_memory_map import Slots


class Bench:
    def __init__(self, directory: Path) -> None:
        memory_map, self.slots, _, _ = make()
        self.slots: Slots
        self.mmio = AddressSpace("memory", 1 << 52)
        self.roms = MachineRoms(memory_map, self.mmio, [str(directory)])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    for name, size in (("a.rom", 3000), ("exact.rom", 8192), ("tiny.rom", 50), ("empty.rom", 0)):
        (tmp_path / name).write_bytes(b"\x55\xaa".ljust(size, b"x")[:size])
    return Bench(tmp_path)


@pytest.mark.parametrize(
    ("name", "asked", "size"),
    [
        ("a.rom", None, 4096),
        ("exact.rom", None, 8192),
        ("exact.rom", 8192, 8192),
        ("a.rom", 65536, 65536),
        ("tiny.rom", None, 2048),
        ("tiny.rom", 64, 2048),
    ],
)
def test_size_is_a_power_of_two_that_a_register_can_say(bench: Bench, name: str, asked: int | None, size: int) -> None:
    image = bench.roms.load(name, "card.rom", asked)
    assert image.size_bytes == size
    assert image.view[:2] == b"\x55\xaa"
    assert not any(image.view[8192:])
    bench.roms.release(image)


@pytest.mark.parametrize(
    ("name", "asked", "sentence"),
    [
        ("nix.rom", None, 'failed to find romfile "nix.rom"'),
        ("efi-nix.rom", None, "install Debian's package 'ipxe-qemu'"),
        ("empty.rom", None, 'romfile "empty.rom" is empty'),
        ("a.rom", 3000, "ROM size 3000 is not a power of two"),
        ("a.rom", 0, "ROM size 0 is not a power of two"),
        ("a.rom", 2048, r'romfile "a.rom" \(3000 bytes\) is too large for ROM size 2048'),
    ],
)
def test_wrong_files_and_sizes_are_refused(bench: Bench, name: str, asked: int | None, sentence: str) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    with pytest.raises(UsageError, match=sentence):
        bench.roms.load(name, "card.rom", asked)
    assert len(os.listdir("/proc/self/fd")) == fds


def test_a_path_is_taken_as_it_is(bench: Bench, tmp_path: Path) -> None:
    image = bench.roms.load(str(tmp_path / "a.rom"), "card.rom", None)
    assert image.size_bytes == 4096
    with pytest.raises(UsageError, match="failed to find romfile"):
        bench.roms.load(str(tmp_path), "card.rom", None)


def test_mapped_unless_registers_are_there_or_it_is_no_page(bench: Bench) -> None:
    roms, mmio = bench.roms, bench.mmio
    image = roms.load("exact.rom", "card.rom", None)
    own = IoRange(HIGH, 8192, lambda *_: 0, lambda *_: None, name="card.rom")
    mmio.add(own)
    roms.show(image, HIGH)
    assert bench.slots.at(HIGH) == (image.block.hva, True)
    roms.hide(image)
    assert bench.slots.at(HIGH) is None
    mmio.add(IoRange(HIGH + 4096, 16, lambda *_: 0, lambda *_: None, name="registers"))
    roms.show(image, HIGH)
    assert bench.slots.at(HIGH) is None
    roms.hide(image)
    small = roms.load("tiny.rom", "card.rom", None)
    roms.show(small, HIGH + 64 * KiB)
    assert bench.slots.at(HIGH + 64 * KiB) is None
    for each in (image, small):
        roms.release(each)


def test_files_for_firmware(bench: Bench, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    roms = bench.roms
    undo = roms.give_to_firmware("a.rom")
    assert list(roms.files) == [FIRMWARE_DIRECTORY + "a.rom"]
    assert len(roms.files[FIRMWARE_DIRECTORY + "a.rom"]) == 3000
    with pytest.raises(UsageError, match=r"duplicate fw_cfg file name: genroms/a\.rom"):
        roms.give_to_firmware(str(tmp_path / "a.rom"))
    undo()
    assert roms.files == {}
    roms.give_to_firmware("nix.rom")()
    assert "Could not open option rom 'nix.rom': No such file or directory" in capfd.readouterr().err
    for text, index in (("a.rom", None), ("exact.rom", 3), ("nix.rom", 4)):
        items = [("romfile", text)] + ([("bootindex", str(index))] if index else [])
        roms.add_option(OptionRomOptions.from_items(items, "-option-rom"))
    assert roms.boot_entries == [(3, "/rom@genroms/exact.rom")]
    assert sorted(roms.files) == ["genroms/a.rom", "genroms/exact.rom"]
