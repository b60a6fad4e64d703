# SPDX-License-Identifier: Apache-2.0
"""Option ROMs of PCI functions (core.rom): found as firmware is, kept in memory of their own, mapped as ROM."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmmd.errors import BackendError, UsageError
from vmmd.firmware import files
from vmmd.log import get_logger
from vmmd.machine.ram import RamBlock, RamSettings
from vmmd.units import PAGE_BYTES, GiB, KiB

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.core.address_space import AddressSpace
    from vmmd.core.rom import RomImage
    from vmmd.machine.memory_map import MemoryMap
    from vmmd.options.models import OptionRomOptions

log = get_logger("vmmd.machine")

#: what a ROM's base address register can say (PCI 3.0 §6.2.5.2)
SMALLEST_BYTES = 2 * KiB
LARGEST_BYTES = 2 * GiB
#: where firmware finds ROMs that are in no register
FIRMWARE_DIRECTORY = "genroms/"


class LoadedRom:
    """An image; its block is whole pages."""

    def __init__(self, block: RamBlock, size_bytes: int) -> None:
        self.block = block
        self.view = block.view[:size_bytes]

    @property
    def size_bytes(self) -> int:
        return len(self.view)


class MachineRoms:
    """core.rom.OptionRoms of one machine. DeviceLock held."""

    def __init__(self, memory_map: MemoryMap, mmio: AddressSpace, directories: Sequence[str]) -> None:
        """``directories``: -L."""
        self._memory_map = memory_map
        self._mmio = mmio
        self._directories = directories
        #: for fw_cfg, by name there
        self.files: dict[str, bytes] = {}
        #: (bootindex, path) of those of -option-rom that have one
        self.boot_entries: list[tuple[int, str]] = []

    def load(self, romfile: str, name: str, size_bytes: int | None) -> LoadedRom:
        """LIMIT: the file is read here: where it lies on a server that does not answer, a device_add holds up all."""
        # QEMU-COMPAT: the sentences
        if size_bytes is not None and (size_bytes <= 0 or size_bytes & (size_bytes - 1)):
            raise UsageError(f"ROM size {size_bytes} is not a power of two")
        path = files.search(romfile, self._directories)
        if path is None:
            raise UsageError(f'failed to find romfile "{romfile}"', files.package_of(romfile))
        data = _read(path, romfile, LARGEST_BYTES)
        if not data:
            raise UsageError(f'romfile "{romfile}" is empty')
        if size_bytes is None:
            size_bytes = 1 << (len(data) - 1).bit_length()
        elif len(data) > size_bytes:
            raise UsageError(f'romfile "{romfile}" ({len(data)} bytes) is too large for ROM size {size_bytes}')
        size_bytes = max(size_bytes, SMALLEST_BYTES)
        block = RamBlock(name, RamSettings(size_bytes=max(size_bytes, PAGE_BYTES), merge=False, reserve=False))
        block.view[: len(data)] = data
        return LoadedRom(block, size_bytes)

    def release(self, image: RomImage) -> None:
        assert isinstance(image, LoadedRom)  # made above
        image.view.release()
        image.block.unmap()

    def show(self, image: RomImage, gpa: int) -> None:
        """LIMIT: registers that are placed over a ROM later are hidden behind it."""
        assert isinstance(image, LoadedRom)
        end = gpa + image.size_bytes
        others = (each for each in self._mmio.ranges if (each.base, each.end) != (gpa, end))
        if image.size_bytes >= PAGE_BYTES and not any(each.base < end and gpa < each.end for each in others):
            self._memory_map.show_rom(image.block, gpa)

    def hide(self, image: RomImage) -> None:
        assert isinstance(image, LoadedRom)
        self._memory_map.hide_rom(image.block)

    def give_to_firmware(self, romfile: str) -> Callable[[], None]:
        name = self.add_file(romfile)

        def take_back() -> None:
            if name is not None:
                del self.files[name]

        return take_back

    def add_option(self, options: OptionRomOptions) -> None:
        """``-option-rom``. Raises VmmdError."""
        assert options.romfile is not None  # the reader has looked
        name = self.add_file(options.romfile)
        if name is not None and options.bootindex is not None:
            self.boot_entries.append((options.bootindex, f"/rom@{name}"))

    def add_file(self, romfile: str) -> str | None:
        """A file that firmware is to run: its name there. QEMU-COMPAT: one that is not there is a warning."""
        path = files.search(romfile, self._directories)
        try:
            data = _read(path or romfile, romfile, files.BIOS_MAX)
        except BackendError as error:
            log.warning("%s", error)
            return None
        name = FIRMWARE_DIRECTORY + os.path.basename(path or romfile)
        if name in self.files:
            raise UsageError(f"duplicate fw_cfg file name: {name}", "two option ROMs have the same name")
        self.files[name] = data
        return name


def _read(path: str, romfile: str, most_bytes: int) -> bytes:
    """All of a file. Raises VmmdError."""
    data = files.read_start(path, most_bytes + 1, f"Could not open option rom '{romfile}'")
    if len(data) > most_bytes:
        raise UsageError(f'romfile "{romfile}" too large (size cannot exceed {most_bytes >> 20} MiB)')
    return data
