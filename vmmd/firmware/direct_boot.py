# SPDX-License-Identifier: Apache-2.0
"""``-kernel``: starts a kernel without running firmware, with everything in place that firmware would leave.

``DirectBoot`` opens and recognises the files when the command line is read; ``prepare`` fills RAM at start and after
every reset and returns the state of the boot processor. Kinds, in QEMU's order: Linux bzImage, multiboot 1, ELF with
PVH note.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmmd.errors import UsageError, VmmdError
from vmmd.firmware import e820, elf, linux_loader, low_memory, mtrr, multiboot
from vmmd.firmware.image import ImageFile

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmmd.core.bootstate import BootState
    from vmmd.core.memory import GuestMemory
    from vmmd.firmware.acpi_tables import AcpiBlobs
    from vmmd.firmware.mptable import MpConfig

MP_GPA = low_memory.F_SEGMENT
#: SMBIOS tables up to this size go to the F segment, larger ones behind the ACPI tables
SMBIOS_LOW_BYTES = 0x8000
SMALLEST_RAM = 2 << 20


class Platform(NamedTuple):
    """The machine around the kernel. Sizes in bytes."""

    memory: GuestMemory
    ram_below_4g: int
    ram_above_4g: int
    smbios: tuple[bytes, bytes]
    mp: MpConfig
    acpi: AcpiBlobs | None = None
    serial_bases: Sequence[int] = ()
    hypertransport: bool = False
    physical_bits: int = 40  # width of the CPU's physical addresses


class DirectBoot:
    """The files of ``-kernel`` and ``-initrd``, opened and recognised."""

    def __init__(self, kernel: str, append: str = "", initrd: str | None = None) -> None:
        """Raises VmmdError naming the file and what is wrong with it."""
        self.append = append
        self.kernel_name = kernel
        self.modules: list[multiboot.Module] = []
        self.initrd: ImageFile | None = None
        self._header: multiboot.Header | None = None
        self._elf: elf.ElfImage | None = None
        if "\0" in append:
            raise UsageError("-append: the command line holds a NUL")
        self.kernel = ImageFile("-kernel", kernel)
        try:
            self.kind = self._recognise()
            if initrd and self.kind == "multiboot":
                self.modules = multiboot.open_modules(initrd)
            elif initrd:
                self.initrd = ImageFile("-initrd", initrd)
        except BaseException:
            self.close()
            raise

    def _recognise(self) -> str:
        if linux_loader.is_linux(self.kernel):
            return "linux"
        self._header = multiboot.find_header(self.kernel)
        if self._header is not None:
            multiboot.plan(self.kernel, self._header)  # a damaged image is refused at once
            return "multiboot"
        if self.kernel.read(0, 4) != elf.MAGIC:
            raise self.kernel.error(
                "unknown kernel format", "it takes a Linux bzImage, a multiboot image, or an ELF file with a PVH note"
            )
        self._elf = elf.parse(self.kernel)
        if self._elf.pvh_entry is None:
            raise self.kernel.error("Error loading uncompressed kernel without PVH ELF Note")
        return "pvh"

    def close(self) -> None:
        """Close all files. Idempotent."""
        self.kernel.close()
        for module in self.modules:
            module.image.close()
        if self.initrd is not None:
            self.initrd.close()

    def load(self, space: low_memory.Space) -> BootState:
        """Kernel and its companions into RAM. Raises VmmdError."""
        if self._header is not None:
            return multiboot.load(self.kernel, self._header, self.kernel_name, self.append, self.modules, space)
        if self._elf is not None:
            from vmmd.firmware import pvh

            return pvh.load(self.kernel, self._elf, self.append, self.initrd, space)
        return linux_loader.load(self.kernel, self.append, self.initrd, space)


def prepare(boot: DirectBoot, platform: Platform) -> BootState:
    """Firmware's tables and the kernel into RAM; returns how the boot processor starts. vCPUs paused, lock held.

    PCI is programmed by ``pci_setup.assign`` before (PAM then shows the tables). Raises VmmdError.
    """
    tables_gpa = (platform.ram_below_4g & -low_memory.PAGE) - low_memory.HIGH_TABLES_BYTES
    if platform.ram_below_4g < SMALLEST_RAM:
        raise VmmdError("-kernel needs at least 2 MiB of RAM", "give more with -m")
    _bios_data(platform)
    rsdp_gpa = _place_tables(platform, tables_gpa)
    low, high = platform.ram_below_4g, platform.ram_above_4g
    ranges = e820.direct_boot_map(low, high, tables_base=tables_gpa, hypertransport=platform.hypertransport)
    space = low_memory.Space(platform.memory, low, tables_gpa, ranges, rsdp_gpa)
    return boot.load(space)._replace(msrs=mtrr.values(low, platform.physical_bits))


def _bios_data(platform: Platform) -> None:
    """The words of the BIOS data area that kernels read, and the EBDA's size."""
    ports = list(platform.serial_bases[:4])
    equipment = 0x0006 | len(ports) << 9  # FPU, pointing device, serial ports
    area = struct.pack("<4H", *(ports + [0] * (4 - len(ports)))) + bytes(6)
    area += struct.pack("<HHBH", low_memory.EBDA_GPA >> 4, equipment, 0, low_memory.EBDA_GPA >> 10)
    platform.memory.write(low_memory.BIOS_DATA, area)
    platform.memory.write(low_memory.EBDA_GPA, b"\x01")


def _place_tables(platform: Platform, tables_gpa: int) -> int:
    """MP table, RSDP and SMBIOS into the F segment, ACPI tables to the end of low RAM. Returns the RSDP's address."""
    from vmmd.firmware import mptable, smbios

    memory = platform.memory
    mp = mptable.build(platform.mp, MP_GPA)
    memory.write(MP_GPA, mp)
    gpa = _align(MP_GPA + len(mp))
    rsdp_gpa = 0
    high = tables_gpa
    if platform.acpi is not None:
        from vmmd.firmware import acpi_tables

        rsdp_gpa = gpa
        high = _align(acpi_tables.place(platform.acpi, memory, tables_gpa=tables_gpa, rsdp_gpa=rsdp_gpa))
        gpa = _align(gpa + len(platform.acpi.rsdp))
    anchor, structures = platform.smbios
    structures_gpa = _align(gpa + len(anchor))
    if len(structures) > SMBIOS_LOW_BYTES:
        structures_gpa = high
    if structures_gpa >= tables_gpa and structures_gpa + len(structures) > platform.ram_below_4g:
        raise VmmdError("the ACPI and SMBIOS tables do not fit in the 128 KiB kept for them")
    memory.write(structures_gpa, structures)
    memory.write(gpa, smbios.seal(anchor, structures_gpa))
    return rsdp_gpa


def _align(gpa: int) -> int:
    return gpa + 15 & -16
