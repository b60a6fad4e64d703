# SPDX-License-Identifier: Apache-2.0
"""What the register-probing guest looks at on the i440FX PC: every register whose value does not depend on the moment.

No firmware has run: base addresses are given here. ``comparison`` runs the guest on both emulators with the same
arguments and returns what differs.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from tests.framework.register_probe import Program, run
from vmmd.core.registry import DEVICES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Values = dict[tuple[str, str], int]

PM_BASE, SMBUS_BASE, BUS_MASTER_BASE, LEGACY_BASE = 0x600, 0x700, 0xC080, 0xC100
BLK_SLOT, RNG_SLOT = 5, 6
MSIX_BASE, MODERN_BASE = 0xE000_0000, 0xE001_0000
IO_APIC, LOCAL_APIC, HPET = 0xFEC0_0000, 0xFEE0_0000, 0xFED0_0000
FW_SELECT, FW_DATA, FW_DIRECTORY, FW_ENTRY_BYTES, FW_FILES_MAX = 0x510, 0x511, 0x19, 64, 40
FW_CONTENT_MAX = 0x4000  # 20 us a byte
#: signature, interfaces, UUID, RAM, graphics, CPUs, NUMA, menu, CPU limit; IRQ0 override, HPET
FW_NUMBERS = (0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x0D, 0x0E, 0x0F, 0x8002, 0x8004)
FW_NUMBER_BYTES = 16

PCI_NAMES = {
    0x00: "vendor and device id",
    0x04: "command and status",
    0x08: "revision and class",
    0x0C: "cache line, latency, header type, BIST",
    **{0x10 + 4 * index: f"BAR {index}" for index in range(6)},
    0x2C: "subsystem ids",
    0x30: "ROM address",
    0x34: "capabilities",
    0x3C: "interrupt line, pin",
}
FUNCTIONS = {
    (0, 0): "i440FX",
    (1, 0): "PIIX3",
    (1, 1): "piix3-ide",
    (1, 3): "PIIX4_PM",
    (BLK_SLOT, 0): "virtio-blk-pci",
    (RNG_SLOT, 0): "virtio-rng-pci",
    (2, 0): "slot 2",
    (31, 7): "slot 31, function 7",
}
COMMON_REGISTERS = (
    ("device features", 0x04, 4), ("driver features", 0x0C, 4), ("configuration vector", 0x10, 2),
    ("queues", 0x12, 2), ("status", 0x14, 1), ("generation", 0x15, 1), ("queue size", 0x18, 2),
    ("queue vector", 0x1A, 2), ("queue enable", 0x1C, 2), ("queue notify offset", 0x1E, 2),
)  # fmt: skip


#: devices that are there when vmmd has them: (type, options); {disk}, {cdrom}, {floppy} are images
OPTIONAL = (
    ("ide-hd", "-drive if=none,id=hd,file={disk},format=raw -device ide-hd,drive=hd,bus=ide.0,unit=0,serial=probe"),
    ("ide-cd", "-drive if=none,id=cd,file={cdrom},format=raw,media=cdrom -device ide-cd,drive=cd,bus=ide.1,unit=0"),
    ("floppy", "-drive if=none,id=fd,file={floppy},format=raw -device floppy,drive=fd,unit=0"),
    ("virtio-rng-pci", f"-device virtio-rng-pci,addr={RNG_SLOT}"),
)


def arguments(directory: Path) -> list[str]:
    """The command line of both, with images in ``directory``."""
    images = {"disk": 8 << 20, "blk": 8 << 20, "cdrom": 64 << 10, "floppy": 1440 << 10}
    paths = {name: directory / f"{name}.img" for name in images}
    for name, path in paths.items():
        if not path.exists():
            path.write_bytes(bytes(images[name]))
    optional = " ".join(options for type_name, options in OPTIONAL if type_name in DEVICES)
    return [
        "-machine", "pc,accel=kvm", "-cpu", "qemu64", "-m", "64", "-smp", "2", "-nodefaults", "-vga", "none",
        "-uuid", "6a0b8f1e-3c74-4d0a-9a2e-0c9f6d2f5b11", "-rtc", "base=2020-02-28T12:34:00,clock=vm",
        "-serial", "null", "-drive", f"if=none,id=blk,file={paths['blk']},format=raw",
        "-device", f"virtio-blk-pci,drive=blk,addr={BLK_SLOT},serial=abc",
        *optional.format(**paths).split(),
    ]  # fmt: skip


# -- what is looked at ------------------------------------------------------------------------------------


def pci(program: Program) -> None:
    """Configuration spaces as reset leaves them, and the sizes of all BARs."""
    for (slot, function), name in FUNCTIONS.items():
        program.pci_config(f"PCI {name}", slot, function)
    for (slot, function), name in FUNCTIONS.items():
        if slot in (2, 31):
            continue
        for register in (*range(0x10, 0x28, 4), 0x30):
            program.pci_write(slot, function, register, 4, 0xFFFF_FFFF)
            program.out(0xCF8, 4, 0x8000_0000 | slot << 11 | function << 8 | register)
            program.read_port(f"PCI {name}, all ones", f"{register:#04x}", 0xCFC, 4)
            program.pci_write(slot, function, register, 4, 0)
    for slot, function in FUNCTIONS:  # what can be written of the command register and of what follows the header
        if slot not in (2, 31):
            name = FUNCTIONS[slot, function]
            for register in (0x04, 0x0C, 0x2C, 0x3C, 0x40, 0x44, 0x58, 0x5C, 0x80, 0x90):
                if slot == 0 and register in (0x58, 0x5C):
                    continue  # PAM: the guest runs from there
                keep = 0xFFFF_FFFF if register != 0x04 else 0x0000_0144
                program.pci_write(slot, function, register, 4, keep)
                program.out(0xCF8, 4, 0x8000_0000 | slot << 11 | function << 8 | register)
                program.read_port(f"PCI {name}, written", f"{register:#04x}", 0xCFC, 4)
                program.pci_write(slot, function, register, 4, 0)


def cmos(program: Program) -> None:
    """The clock's registers but for the seconds and the update bit, and CMOS RAM."""
    program.indexed("CMOS", 0x70, 0x71, range(0x01, 0x0A))
    program.indexed("CMOS", 0x70, 0x71, range(0x0B, 0x80))


def pm(program: Program) -> None:
    """PIIX4 power management, SMBus, general purpose events, and hotplug registers."""
    program.pci_write(1, 3, 0x40, 4, PM_BASE | 1)
    program.pci_write(1, 3, 0x90, 4, SMBUS_BASE | 1)
    program.pci_write(1, 3, 0xD2, 1, 0x09)
    program.pci_write(1, 3, 0x80, 1, 1)
    program.pci_write(1, 3, 0x04, 2, 1)
    for name, offset in (("PM1 status", 0), ("PM1 enable", 2), ("PM1 control", 4)):
        program.read_port("PM", name, PM_BASE + offset, 2)
    program.out(PM_BASE + 2, 2, 0xFFFF)
    program.read_port("PM", "PM1 enable, all ones", PM_BASE + 2, 2)
    program.out(PM_BASE + 2, 2, 0)
    program.out(PM_BASE + 4, 2, 0x1C01)
    program.read_port("PM", "PM1 control, written", PM_BASE + 4, 2)
    for offset in range(0x0C, 0x40, 4):
        program.read_port("PM", f"{offset:#04x}", PM_BASE + offset, 4)
    for offset in range(0x0F):
        program.read_port("SMBus", f"{offset:#04x}", SMBUS_BASE + offset, 1)
    for name, port in (("APM control", 0xB2), ("APM status", 0xB3)):
        program.read_port("PM", name, port, 1)
    for port in range(0xAFE0, 0xAFE4):
        program.read_port("GPE", f"{port:#06x}", port, 1)
    for port in range(0xAE00, 0xAE18, 4):
        program.read_port("PCI hotplug", f"{port:#06x}", port, 4)
    for port in range(0xAF00, 0xAF0C):
        program.read_port("CPU hotplug", f"{port:#06x}", port, 1)


def uart(program: Program) -> None:
    """COM1: reset values, what sticks, divisor, scratch, FIFOs, loop-back; COM2 that is not there."""
    base = 0x3F8
    for offset, name in enumerate(("RBR", "IER", "IIR", "LCR", "MCR", "LSR", "MSR", "SCR")):
        program.read_port("UART", name, base + offset, 1)
    program.read_port("COM2", "LSR", 0x2FD, 1)
    for offset, name, value in ((1, "IER", 0xFF), (7, "SCR", 0xA5), (4, "MCR", 0xFF), (3, "LCR", 0x7F)):
        program.out(base + offset, 1, value)
        program.read_port("UART, written", name, base + offset, 1)
    program.read_port("UART, written", "MSR in loop-back", base + 6, 1)
    program.out(base + 1, 1, 0)
    program.out(base + 2, 1, 0xC1)
    program.read_port("UART, written", "IIR with FIFOs", base + 2, 1)
    program.out(base + 3, 1, 0x83)
    for offset, name in ((0, "DLL"), (1, "DLM")):
        program.read_port("UART", name, base + offset, 1)


def keyboard(program: Program) -> None:
    """i8042: self tests, command byte, output port, and what keyboard and mouse say that they are."""

    def answers(name: str, count: int) -> None:
        for index in range(count):
            program.wait("i8042", f"{name}: status {index}", 0x64, 1, 1, times=2000)
            program.read_port("i8042", f"{name}: byte {index}", 0x60, 1)

    program.read_port("i8042", "status", 0x64, 1)
    for name, command, count in (
        ("self test", 0xAA, 1), ("keyboard interface test", 0xAB, 1), ("mouse interface test", 0xA9, 1),
        ("command byte", 0x20, 1), ("output port", 0xD0, 1), ("input port", 0xC0, 1),
    ):  # fmt: skip
        program.out(0x64, 1, command)
        answers(name, count)
    program.out(0x64, 1, 0x60)
    program.out(0x60, 1, 0x00)
    for name, data, count in (("keyboard reset", 0xFF, 2), ("keyboard identify", 0xF2, 3), ("keyboard echo", 0xEE, 1)):
        program.out(0x60, 1, data)
        answers(name, count)
    for name, data, count in (("mouse reset", 0xFF, 3), ("mouse identify", 0xF2, 2), ("mouse status", 0xE9, 4)):
        program.out(0x64, 1, 0xD4)
        program.out(0x60, 1, data)
        answers(name, count)
    program.read_port("i8042", "status at the end", 0x64, 1)


def ide(program: Program) -> None:
    """Task files after reset, and what each drive says that it is."""
    for channel, base, control in (("primary", 0x1F0, 0x3F6), ("secondary", 0x170, 0x376)):
        for drive, select in (("master", 0xA0), ("slave", 0xB0)):
            where = f"IDE {channel} {drive}"
            program.out(base + 6, 1, select)
            for offset, name in enumerate(("error", "count", "LBA low", "LBA middle", "LBA high", "drive", "status")):
                program.read_port(where, name, base + 1 + offset, 1)
            program.read_port(where, "alternate status", control, 1)
            for name, command in (("IDENTIFY", 0xEC), ("IDENTIFY PACKET", 0xA1)):
                program.out(base + 6, 1, select)
                program.out(base + 7, 1, command)
                program.wait(where, f"{name}: status", base + 7, 0x80, 0, times=2000)
                program.read_port(where, f"{name}: error", base + 1, 1)
                program.read_port(where, f"{name}: LBA middle", base + 4, 1)
                program.read_port(where, f"{name}: LBA high", base + 5, 1)
                program.read_port(f"{where}: {name}", "word", base, 2, count=256)
                program.read_port(where, f"{name}: status at the end", base + 7, 1)
    program.pci_write(1, 1, 0x20, 4, BUS_MASTER_BASE | 1)
    program.pci_write(1, 1, 0x04, 2, 5)
    for offset in range(16):
        program.read_port("IDE bus master", f"{offset:#04x}", BUS_MASTER_BASE + offset, 1)


def virtio(program: Program) -> None:
    """virtio-blk by both interfaces: features, queues, configuration."""
    for slot, name, length in ((BLK_SLOT, "virtio-blk", 60),):
        program.pci_write(slot, 0, 0x10, 4, LEGACY_BASE)
        program.pci_write(slot, 0, 0x14, 4, MSIX_BASE)
        program.pci_write(slot, 0, 0x20, 4, MODERN_BASE)
        program.pci_write(slot, 0, 0x24, 4, 0)
        program.pci_write(slot, 0, 0x04, 2, 7)
        for select in (0, 1, 2):
            program.write(MODERN_BASE, 4, select)
            program.read(f"{name} common", f"device features {select}", MODERN_BASE + 4, 4)
        for queue in (0, 1, 2, 3):
            program.write(MODERN_BASE + 0x16, 2, queue)
            for register, offset, size in COMMON_REGISTERS[6:]:
                program.read(f"{name} common", f"{register} of queue {queue}", MODERN_BASE + offset, size)
        for register, offset, size in COMMON_REGISTERS[1:6]:
            program.read(f"{name} common", register, MODERN_BASE + offset, size)
        program.read(f"{name} ISR", "ISR", MODERN_BASE + 0x1000, 1)
        program.read(f"{name} configuration", "byte", MODERN_BASE + 0x2000, 1, count=length + 8)
        program.read(f"{name} MSI-X", "table", MSIX_BASE, 4, count=16)
        for offset, size in ((0, 4), (4, 4), (8, 4), (12, 2), (14, 2), (18, 1), (19, 1)):
            program.read_port(f"{name} legacy", f"{offset:#04x}", LEGACY_BASE + offset, size)
        for offset in range(0x14, 0x14 + length):
            program.read_port(f"{name} legacy", f"configuration {offset - 0x14:#04x}", LEGACY_BASE + offset, 1)


def chips(program: Program) -> None:
    """8259 pair, I/O APIC, local APIC, PIT, HPET, DMA controllers, and single ports of the board."""
    for name, port in (("master", 0x20), ("slave", 0xA0)):
        program.read_port(f"8259 {name}", "mask", port + 1, 1)
        for ocw3, register in ((0x0A, "IRR"), (0x0B, "ISR")):
            program.out(port, 1, ocw3)
            program.read_port(f"8259 {name}", register, port, 1)
        program.out(port + 1, 1, 0xFB)
        program.read_port(f"8259 {name}", "mask, written", port + 1, 1)
    for port, value in ((0x4D0, 0xFF), (0x4D1, 0xFF)):
        program.read_port("8259 edges and levels", f"{port:#05x}", port, 1)
        program.out(port, 1, value)
        program.read_port("8259 edges and levels", f"{port:#05x}, all ones", port, 1)
    program.memory_indexed("I/O APIC", IO_APIC, range(0x42))
    for offset in (0x20, 0x30, 0x80, 0xD0, 0xE0, 0xF0, *range(0x100, 0x280, 0x10), 0x280, *range(0x300, 0x3F0, 0x10)):
        if offset != 0x390:  # the timer's count
            program.read("local APIC", f"{offset:#05x}", LOCAL_APIC + offset, 4)
    for counter in range(3):
        program.out(0x43, 1, 0xE0 | 2 << counter)  # read back the status
        program.read_port("PIT", f"status of counter {counter}", 0x40 + counter, 1)
    program.read("HPET", "register", HPET, 4, count=4)
    program.read("HPET", "timer 0", HPET + 0x100, 4, count=4)
    program.read("HPET", "interrupt status", HPET + 0x20, 4)
    for port in (0x92, 0x80, 0x84, 0x87, 0x08, 0xD0, 0x0F, 0xDE, 0xCF9, 0x3F0, 0x3F1, 0x3F2, 0x3F4, 0x505, 0x60):
        program.read_port("ports", f"{port:#05x}", port, 1)


def floppy(program: Program) -> None:
    """The floppy controller: version, DUMPREG, and what follows a reset."""

    def command(name: str, sent: Sequence[int], results: int) -> None:
        for index, byte in enumerate(sent):
            program.wait("floppy", f"{name}: ready {index}", 0x3F4, 0xC0, 0x80, times=500)
            program.out(0x3F5, 1, byte)
        for index in range(results):
            program.wait("floppy", f"{name}: result {index} ready", 0x3F4, 0xC0, 0xC0, times=500)
            program.read_port("floppy", f"{name}: result {index}", 0x3F5, 1)

    for port in (0x3F0, 0x3F1, 0x3F2, 0x3F3, 0x3F4, 0x3F7):
        program.read_port("floppy", f"{port:#05x}", port, 1)
    program.out(0x3F2, 1, 0x00)
    program.out(0x3F2, 1, 0x0C)
    for turn in range(4):
        command(f"sense interrupt {turn}", [0x08], 2)
    command("version", [0x10], 1)
    command("DUMPREG", [0x0E], 10)
    command("part id", [0x18], 1)
    command("sense drive", [0x04, 0x00], 1)


def fw_cfg(program: Program) -> None:
    """Numbers, and the directory of files."""
    for key in FW_NUMBERS:
        program.out(FW_SELECT, 2, key)
        program.read_port("fw_cfg", f"item {key:#x}", FW_DATA, 1, count=FW_NUMBER_BYTES)
    program.out(FW_SELECT, 2, FW_DIRECTORY)
    program.read_bytes("fw_cfg directory", "bytes", FW_DATA, 4 + FW_ENTRY_BYTES * FW_FILES_MAX)


PARTS: tuple[Callable[[Program], None], ...] = (chips, pci, cmos, pm, uart, keyboard, ide, virtio, floppy, fw_cfg)


# -- comparing ---------------------------------------------------------------------------------------------


class File(NamedTuple):
    """A file of fw_cfg."""

    name: str
    key: int
    size: int


def files(values: Values) -> list[File]:
    """The directory that the guest read; its bytes leave ``values``."""
    group = "fw_cfg directory"
    raw = values.pop((group, "bytes")).to_bytes(4 + FW_ENTRY_BYTES * FW_FILES_MAX, "little")
    (count,) = struct.unpack_from(">I", raw)
    assert count <= FW_FILES_MAX, f"{count} files"
    found = []
    for index in range(count):
        size, key, _, name = struct.unpack_from(">IHH56s", raw, 4 + FW_ENTRY_BYTES * index)
        found.append(File(name.rstrip(b"\0").decode(), key, size))
    return found


def file_contents(name: str, found: list[File], arguments_: Sequence[str]) -> Values:
    """Second run: sizes, and contents of all but the long ones (ACPI tables). A content is one number, its first byte
    the lowest."""
    program, values = Program(), {}
    for file in found:
        values[f"fw_cfg {file.name}", "size"] = file.size
        if 0 < file.size <= FW_CONTENT_MAX:
            program.out(FW_SELECT, 2, file.key)
            program.read_bytes(f"fw_cfg {file.name}", "content", FW_DATA, file.size)
    return values | run(name, program, arguments_)


def probe(name: str, directory: Path) -> Values:
    """Everything, on emulator ``name``."""
    program = Program()
    for part in PARTS:
        part(program)
    arguments_ = arguments(directory)
    values = run(name, program, arguments_)
    return values | file_contents(name, files(values), arguments_)


class Difference(NamedTuple):
    """One register; None: not there."""

    group: str
    name: str
    qemu: int | None
    vmmd: int | None

    def __str__(self) -> str:
        offset = int(self.name, 16) if self.group.startswith("PCI ") and self.name.startswith("0x") else -1
        meaning = f" ({PCI_NAMES[offset]})" if offset in PCI_NAMES else ""
        return f"{self.group}: {self.name}{meaning}: QEMU {self.shown(self.qemu)}, vmmd {self.shown(self.vmmd)}"

    @staticmethod
    def shown(value: int | None) -> str:
        """A value for people."""
        return "nothing" if value is None else f"{value:#x}" if value < 1 << 64 else f"{value.bit_length() // 8} bytes"


def compare(qemu: Values, vmmd: Values) -> list[Difference]:
    """In order of the guest's reads."""
    keys = [*qemu, *(key for key in vmmd if key not in qemu)]
    return [Difference(*key, qemu.get(key), vmmd.get(key)) for key in keys if qemu.get(key) != vmmd.get(key)]
