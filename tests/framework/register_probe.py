# SPDX-License-Identifier: Apache-2.0
"""A guest of 64 KiB that does register accesses from a table and sends what it read to a debug port.

It replaces the firmware, so it sees the machine as reset leaves it. The table is made here (``Program``), the guest
runs in flat 32-bit mode without interrupts, and ends the emulator through isa-debug-exit. Assembled with binutils.

program = Program()
program.read_port("uart", "IER", 0x3F9, 1)
values = run("qemu", program, ["-serial", "null"])      # {("uart", "IER"): 0}
"""

from __future__ import annotations

import hashlib
import struct
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tests.framework import cache
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from collections.abc import Sequence

IMAGE_BYTES = 0x10000
TABLE_OFFSET = 0x400
DEBUG_PORT, EXIT_PORT = 0x402, 0x501
RUN_TIMEOUT_S = 60.0
END, IN, OUT, READ, WRITE, WAIT, INDEXED, MEMORY_INDEXED, STRING_IN = range(9)
_ENTRY = struct.Struct("<BBHIII")
PCI_ADDRESS, PCI_DATA = 0xCF8, 0xCFC

SOURCE = r"""
.set base, 0xf0000
.code16
start:
    cli
    lgdtl %cs:gdtr
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $8, $(base + main)
.code32
main:
    mov $16, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $0x7000, %esp
    mov $(base + 0x400), %esi      # an entry: kind, size, count; a, b, c
next:
    movzbl (%esi), %eax
    movzbl 1(%esi), %ebx
    movzwl 2(%esi), %ecx
    mov 4(%esi), %edi
    mov 8(%esi), %ebp
    add $16, %esi
    jmp *(base + kinds)(, %eax, 4)

port_in:                           # count reads of port a
    mov %edi, %edx
    call input
    call emit
    loop port_in
    jmp next
port_out:                          # b to port a
    mov %edi, %edx
    mov %ebp, %eax
    call output
    jmp next
memory_read:                       # count reads from address a on
    cmp $1, %bl
    je 1f
    cmp $2, %bl
    je 2f
    mov (%edi), %eax
    jmp 3f
1:  movzbl (%edi), %eax
    jmp 3f
2:  movzwl (%edi), %eax
3:  call emit
    add %ebx, %edi
    loop memory_read
    jmp next
memory_write:                      # b to address a
    cmp $1, %bl
    je 1f
    cmp $2, %bl
    je 2f
    mov %ebp, (%edi)
    jmp next
1:  mov %ebp, %eax
    mov %al, (%edi)
    jmp next
2:  mov %ebp, %eax
    mov %ax, (%edi)
    jmp next
wait_port:                         # until the bits b of port a are c, at most count times; the last value
    mov %edi, %edx
1:  in %dx, %al
    mov %al, %ah
    mov %ebp, %edx
    and %dl, %ah
    cmp -4(%esi), %ah
    mov %edi, %edx
    loopne 1b
    mov $1, %bl
    call emit
    jmp next
indexed:                           # index b, b + c, ... to port a, data from port a >> 16; sizes in two nibbles
    mov %edi, %edx
    and $0xffff, %edx
    mov %ebp, %eax
    push %ebx
    and $0xf, %bl
    call output
    pop %ebx
    push %ebx
    shr $4, %bl
    mov %edi, %edx
    shr $16, %edx
    call input
    call emit
    pop %ebx
    add -4(%esi), %ebp
    loop indexed
    jmp next
memory_indexed:                    # index b, b + 1, ... to address a, data from a + 16
    mov %ebp, (%edi)
    mov 16(%edi), %eax
    call emit
    inc %ebp
    loop memory_indexed
    jmp next
string_in:                         # count bytes or words of port a by one instruction, over RAM at 1 MiB
    push %esi
    cld
    mov %edi, %edx
    mov $0x100000, %edi
    push %ecx
    cmp $2, %bl
    je 1f
    rep insb
    pop %ecx
    jmp 2f
1:  rep insw
    pop %ecx
    add %ecx, %ecx
2:  mov $0x100000, %esi
    mov $0x402, %edx
    rep outsb
    pop %esi
    jmp next
finish:
    mov $0x501, %dx
    xor %eax, %eax
    out %al, %dx
1:  hlt
    jmp 1b

input:                             # eax from port dx, bl bytes
    xor %eax, %eax
    cmp $1, %bl
    je 1f
    cmp $2, %bl
    je 2f
    in %dx, %eax
    ret
1:  in %dx, %al
    ret
2:  in %dx, %ax
    ret
output:                            # eax to port dx, bl bytes
    cmp $1, %bl
    je 1f
    cmp $2, %bl
    je 2f
    out %eax, %dx
    ret
1:  out %al, %dx
    ret
2:  out %ax, %dx
    ret
emit:                              # bl bytes of eax
    push %ecx
    push %edx
    mov $0x402, %edx
    movzbl %bl, %ecx
1:  out %al, %dx
    shr $8, %eax
    loop 1b
    pop %edx
    pop %ecx
    ret

.balign 8
kinds:
    .long base + finish, base + port_in, base + port_out, base + memory_read
    .long base + memory_write, base + wait_port, base + indexed, base + memory_indexed
    .long base + string_in
gdt:
    .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
gdtr:
    .word 23
    .long base + gdt
.org 0xfff0
.code16
    ljmp $0xf000, $start
.org 0xffff
    .byte 0
"""


class Register(NamedTuple):
    """One value that the guest sends."""

    group: str
    name: str
    size: int


class Program:
    """A table of accesses, and the names of what they read, in order."""

    def __init__(self) -> None:
        self._table = bytearray()
        self.registers: list[Register] = []

    def _entry(self, kind: int, size: int, count: int, *words: int) -> None:
        self._table += _ENTRY.pack(kind, size, count, *words, *[0] * (3 - len(words)))

    def _reads(self, group: str, names: Sequence[str], size: int) -> None:
        self.registers += [Register(group, name, size) for name in names]

    def out(self, port: int, size: int, value: int) -> None:
        """A port write."""
        self._entry(OUT, size, 1, port, value)

    def read_port(self, group: str, name: str, port: int, size: int, count: int = 1) -> None:
        """``count`` reads of one port: of a FIFO, by one string instruction, when more than one."""
        self._entry(IN if count == 1 else STRING_IN, size, count, port)
        self._reads(group, [name] if count == 1 else [f"{name}[{index}]" for index in range(count)], size)

    def read_bytes(self, group: str, name: str, port: int, count: int) -> None:
        """Many bytes of a FIFO as one value, the first byte the lowest."""
        self._entry(STRING_IN, 1, count, port)
        self._reads(group, [name], count)

    def write(self, address: int, size: int, value: int) -> None:
        """A memory-mapped write."""
        self._entry(WRITE, size, 1, address, value)

    def read(self, group: str, name: str, address: int, size: int, count: int = 1) -> None:
        """``count`` reads from ``address`` on."""
        self._entry(READ, size, count, address)
        names = [name] if count == 1 else [f"{name}+{size * index:#04x}" for index in range(count)]
        self._reads(group, names, size)

    def wait(self, group: str, name: str, port: int, mask: int, value: int, times: int = 20_000) -> None:
        """Read a port until some bits are as wanted; the last value is a register as well."""
        self._entry(WAIT, 1, times, port, mask, value)
        self._reads(group, [name], 1)

    def indexed(self, group: str, index_port: int, data_port: int, indices: range) -> None:
        """One byte each behind an index register."""
        self._entry(INDEXED, 0x11, len(indices), index_port | data_port << 16, indices.start, indices.step)
        self._reads(group, [f"{index:#04x}" for index in indices], 1)

    def memory_indexed(self, group: str, address: int, indices: range) -> None:
        """32 bits each behind an index register, data 16 bytes on (I/O APIC)."""
        self._entry(MEMORY_INDEXED, 4, len(indices), address, indices.start)
        self._reads(group, [f"{index:#04x}" for index in indices], 4)

    def pci_config(self, group: str, slot: int, function: int) -> None:
        """The 256 bytes of a function's configuration space."""
        self._entry(INDEXED, 0x44, 64, PCI_ADDRESS | PCI_DATA << 16, _function(slot, function), 4)
        self._reads(group, [f"{offset:#04x}" for offset in range(0, 256, 4)], 4)

    def pci_write(self, slot: int, function: int, offset: int, size: int, value: int) -> None:
        """A write to a function's configuration space."""
        self.out(PCI_ADDRESS, 4, _function(slot, function) | offset & ~3)
        self.out(PCI_DATA + (offset & 3), size, value)

    def image(self) -> bytes:
        """The guest with this table."""
        table = bytes(self._table) + bytes(_ENTRY.size)
        image = bytearray(_code().read_bytes())
        assert TABLE_OFFSET + len(table) <= 0xFFF0, "the table does not fit"
        image[TABLE_OFFSET : TABLE_OFFSET + len(table)] = table
        return bytes(image)

    def decode(self, data: bytes) -> dict[tuple[str, str], int]:
        """What the guest sent, by group and name."""
        expected = sum(register.size for register in self.registers)
        assert len(data) == expected, f"{len(data)} of {expected} bytes came, the last before {self._at(len(data))}"
        values: dict[tuple[str, str], int] = {}
        at = 0
        for register in self.registers:
            key = (register.group, register.name)
            assert key not in values, f"{key} is read twice"
            values[key] = int.from_bytes(data[at : at + register.size], "little")
            at += register.size
        return values

    def _at(self, count: int) -> str:
        for register in self.registers:
            count -= register.size
            if count < 0:
                return f"{register.group} {register.name}"
        return "the end"


def _function(slot: int, function: int) -> int:
    return 0x8000_0000 | slot << 11 | function << 8


def _code() -> Path:
    key = hashlib.sha256(SOURCE.encode()).hexdigest()[: cache.HASH_DIGITS]

    def build(directory: Path) -> None:
        (directory / "rom.S").write_text(SOURCE)
        cache.run([cache.program("binutils", "as"), "--32", directory / "rom.S", "-o", directory / "rom.o"])
        link = ["-m", "elf_i386", "-Ttext", "0", "--oformat", "binary", "-o", str(directory / "rom.bin")]
        cache.run([cache.program("binutils", "ld"), *link, str(directory / "rom.o")])
        code = (directory / "rom.bin").read_bytes()
        assert len(code) == IMAGE_BYTES
        assert not any(code[TABLE_OFFSET:0xFFF0]), "the code runs into the table"

    return cache.built(f"register-probe-{key}", build) / "rom.bin"


def run(name: str, program: Program, arguments: Sequence[str]) -> dict[tuple[str, str], int]:
    """What the guest reads on emulator ``name``, by group and name. Raises VmError."""
    with tempfile.TemporaryDirectory(prefix="vmmd-probe-") as scratch:
        image, output = Path(scratch) / "probe.rom", Path(scratch) / "output"
        image.write_bytes(program.image())
        ours = ["-bios", str(image), "-chardev", f"file,id=probe,path={output}"]
        ours += ["-device", f"isa-debugcon,iobase={DEBUG_PORT:#x},chardev=probe"]
        ours += ["-device", f"isa-debug-exit,iobase={EXIT_PORT:#x}"]
        with Vm(emulator(name), [*arguments, *ours], serial=False, qmp=False) as vm:
            vm.wait_exit(RUN_TIMEOUT_S)
            return program.decode(output.read_bytes())
