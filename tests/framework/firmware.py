# SPDX-License-Identifier: Apache-2.0
"""A 64 KiB firmware image that does what it is told over COM1: every way in which a guest ends or resets itself.

It prints `@` and then obeys one letter after the other (`COMMANDS`). It runs in real mode without touching RAM, so it
also works where everything else is broken. Assembled with binutils.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from tests.framework import cache

if TYPE_CHECKING:
    from pathlib import Path

#: what each letter does; the names are for test ids
COMMANDS = {
    "cf9": "c",
    "port 92h": "9",
    "keyboard controller": "k",
    "triple fault": "t",
    "power off": "s",
    "debug exit": "e",
    "code in a hole": "i",
    "halt": "h",
    "echo": "p",
}
SIZE_BYTES = 0x10000

SOURCE = r"""
.code16
.macro config address, value
    mov $0xcf8, %dx
    mov $\address, %eax
    out %eax, %dx
    mov $0xcfc, %dx
    mov $\value, %eax
    out %eax, %dx
.endm
.macro protected
    lgdtl %cs:gdtr
    lidtl %cs:empty
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
.endm
start:
    cli
    mov $'@', %bl
    jmp say
next:                              # wait for a letter
    mov $0x3fd, %dx
    in %dx, %al
    test $1, %al
    jz next
    mov $0x3f8, %dx
    in %dx, %al
    cmp $'c', %al
    je cf9
    cmp $'9', %al
    je port92
    cmp $'k', %al
    je keyboard
    cmp $'t', %al
    je triple
    cmp $'s', %al
    je poweroff
    cmp $'e', %al
    je leave
    cmp $'i', %al
    je mmio
    cmp $'h', %al
    je halt
    mov %al, %bl                   # anything else is sent back
say:
    mov $0x3f8, %dx
    mov %bl, %al
    out %al, %dx
    jmp next

cf9:
    mov $0xcf9, %dx
    mov $0x02, %al
    out %al, %dx
    mov $0x06, %al
    out %al, %dx
    jmp bad
port92:
    in $0x92, %al
    or $1, %al
    out %al, $0x92
    jmp bad
keyboard:
    mov $0xfe, %al
    out %al, $0x64
    jmp bad
triple:                            # 32-bit protected mode, and an exception without an interrupt table
    protected
    ljmpl $8, $(0xf0000 + fault)
.code32
fault:
    ud2
.code16
poweroff:                          # PIIX4 function 3: PMBASE = 600h, PMIOSE, then S5 (type 0)
    config 0x80000b40, 0x601
    config 0x80000b80, 1
    mov $0x604, %dx
    mov $0x2000, %ax
    out %ax, %dx
    jmp bad
leave:
    mov $0x501, %dx
    mov $0x15, %al
    out %al, %dx
    jmp bad
mmio:                              # where there is nothing to execute
    protected
    ljmpl $8, $0x80000000
halt:
    hlt
    jmp halt
bad:                               # the guest must never get here
    mov $'!', %bl
    jmp say

.balign 8
gdt:
    .quad 0, 0x00cf9b000000ffff
gdtr:
    .word 15
    .long 0xf0000 + gdt
empty:
    .word 0
    .long 0
.org 0xfff0
    ljmp $0xf000, $start
.org 0xffff
    .byte 0
"""


def commanded() -> Path:
    """The image, made on first use."""
    key = hashlib.sha256(SOURCE.encode()).hexdigest()[: cache.HASH_DIGITS]

    def build(directory: Path) -> None:
        (directory / "rom.S").write_text(SOURCE)
        cache.run([cache.program("binutils", "as"), "--32", directory / "rom.S", "-o", directory / "rom.o"])
        link = ["-m", "elf_i386", "-Ttext", "0", "--oformat", "binary", "-o", str(directory / "rom.bin")]
        cache.run([cache.program("binutils", "ld"), *link, str(directory / "rom.o")])
        assert (directory / "rom.bin").stat().st_size == SIZE_BYTES

    return cache.built(f"firmware-{key}", build) / "rom.bin"
