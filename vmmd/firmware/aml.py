# SPDX-License-Identifier: Apache-2.0
"""A small builder of ACPI Machine Language (ACPI 6.4 §20): every function returns the bytes of one term.

    device("COM1", name("_HID", eisa_id("PNP0501")), name("_CRS", resources(io(0x3F8, 8), irq(4))))

Terms are plain ``bytes`` and nest by argument. There are no loops on purpose: AML is interpreted, and a loop over PCI
slots costs a guest seconds on a slow processor. Wrong use is a ValueError of the programmer, never of a user.
"""

from __future__ import annotations

import struct
from enum import IntEnum

ZERO = b"\x00"
NULL_TARGET = b"\x00"  # "no target" of operators such as And


class Space(IntEnum):
    """Address spaces of operation regions (§5.5.2.4)."""

    SYSTEM_MEMORY = 0
    SYSTEM_IO = 1
    PCI_CONFIG = 2


class Access(IntEnum):
    """Access width of a field (§19.6.48)."""

    ANY = 0
    BYTE = 1
    WORD = 2
    DWORD = 3


# --- names, lengths, data (§20.2.2 - §20.2.4) --------------------------------------------------------------------


def _segment(text: str) -> bytes:
    if (
        not 1 <= len(text) <= 4
        or not all(c.isdigit() or c == "_" or "A" <= c <= "Z" for c in text)
        or text[0].isdigit()
    ):
        raise ValueError(f"'{text}' is no AML name segment")
    return text.ljust(4, "_").encode("ascii")


def path(text: str) -> bytes:
    r"""A NameString: ``LNKA``, ``\_SB.PCI0``, ``^FOO``."""
    rest = text.lstrip("\\^")
    prefix = text[: len(text) - len(rest)].encode("ascii")
    segments = [_segment(each) for each in rest.split(".")] if rest else []
    if not segments:
        return prefix + b"\x00"
    if len(segments) == 1:
        return prefix + segments[0]
    if len(segments) == 2:
        return prefix + b"\x2e" + b"".join(segments)
    return prefix + b"\x2f" + bytes((len(segments),)) + b"".join(segments)


def _field_length(length: int) -> bytes:
    """A PkgLength that does not count itself (field elements)."""
    if length < 0x40:
        return bytes((length,))
    for more in (1, 2, 3):
        if length < 1 << (4 + 8 * more):
            return bytes((more << 6 | length & 0xF,)) + (length >> 4).to_bytes(more, "little")
    raise ValueError("AML package is too long")


def _packaged(body: bytes) -> bytes:
    """PkgLength, which counts itself, and the body."""
    for own in (1, 2, 3, 4):
        total = len(body) + own
        encoded = _field_length(total)
        if len(encoded) == own:
            return encoded + body
        if len(encoded) < own:  # 0x3f with one byte, 0x40 with two: the longer form holds the smaller number
            return bytes(((own - 1) << 6 | total & 0xF,)) + (total >> 4).to_bytes(own - 1, "little") + body
    raise ValueError("AML package is too long")


def integer(value: int) -> bytes:
    """The shortest encoding of a number of up to 64 bits."""
    if value in (0, 1):
        return bytes((value,))
    for prefix, size in ((0x0A, 1), (0x0B, 2), (0x0C, 4), (0x0E, 8)):
        if 0 <= value < 1 << (8 * size):
            return bytes((prefix,)) + value.to_bytes(size, "little")
    raise ValueError(f"{value} is no 64-bit number")


def string(text: str) -> bytes:
    return b"\x0d" + text.encode("ascii") + b"\0"


def eisa_id(text: str) -> bytes:
    """A compressed EISA identifier: ``PNP0A03`` (§19.3.4)."""
    if len(text) != 7 or not all("A" <= c <= "Z" for c in text[:3]):
        raise ValueError(f"'{text}' is no EISA identifier")
    letters = [ord(c) - 0x40 for c in text[:3]]
    number = letters[0] << 26 | letters[1] << 21 | letters[2] << 16 | int(text[3:], 16)
    return b"\x0c" + number.to_bytes(4, "big")


def buffer(data: bytes) -> bytes:
    return b"\x11" + _packaged(integer(len(data)) + data)


def package(*elements: bytes) -> bytes:
    if len(elements) > 255:
        raise ValueError("an AML package has at most 255 elements")
    return b"\x12" + _packaged(bytes((len(elements),)) + b"".join(elements))


# --- named objects (§20.2.5) --------------------------------------------------------------------------------------


def name(where: str, value: bytes) -> bytes:
    return b"\x08" + path(where) + value


def scope(where: str, *terms: bytes) -> bytes:
    return b"\x10" + _packaged(path(where) + b"".join(terms))


def device(where: str, *terms: bytes) -> bytes:
    return b"\x5b\x82" + _packaged(path(where) + b"".join(terms))


def method(where: str, arguments: int, *terms: bytes, serialized: bool = False) -> bytes:
    """``serialized`` is needed when the body makes named objects."""
    if not 0 <= arguments <= 7:
        raise ValueError("a method has up to 7 arguments")
    return b"\x14" + _packaged(path(where) + bytes((arguments | (8 if serialized else 0),)) + b"".join(terms))


def operation_region(where: str, space: Space, offset: int, length: int) -> bytes:
    return b"\x5b\x80" + path(where) + bytes((space,)) + integer(offset) + integer(length)


def field(region: str, access: Access, *elements: tuple[str | None, int]) -> bytes:
    """Fields of a region in order, each (name, bits); None skips bits. No lock, other bits are preserved."""
    body = path(region) + bytes((access,))
    for element, bits in elements:
        body += (b"\0" if element is None else _segment(element)) + _field_length(bits)
    return b"\x5b\x81" + _packaged(body)


def mutex(where: str) -> bytes:
    return b"\x5b\x01" + path(where) + b"\x00"


def create_dword_field(source: bytes, byte_offset: int, where: str) -> bytes:
    """Names the 32 bits at ``byte_offset`` of a buffer."""
    return b"\x8a" + source + integer(byte_offset) + path(where)


# --- statements and expressions (§20.2.5.3, §20.2.5.4, §20.2.6) ------------------------------------------------------


def arg(index: int) -> bytes:
    if not 0 <= index <= 6:
        raise ValueError("Arg0 to Arg6")
    return bytes((0x68 + index,))


def local(index: int) -> bytes:
    if not 0 <= index <= 7:
        raise ValueError("Local0 to Local7")
    return bytes((0x60 + index,))


def store(source: bytes, target: bytes) -> bytes:
    return b"\x70" + source + target


def and_(left: bytes, right: bytes, target: bytes = NULL_TARGET) -> bytes:
    return b"\x7b" + left + right + target


def add(left: bytes, right: bytes, target: bytes = NULL_TARGET) -> bytes:
    return b"\x72" + left + right + target


def index(source: bytes, number: int, target: bytes = NULL_TARGET) -> bytes:
    """A reference to an element of a package or buffer."""
    return b"\x88" + source + integer(number) + target


def dword(value: int) -> bytes:
    """A constant of 32 bits whatever its value: firmware may patch it in place."""
    return b"\x0c" + value.to_bytes(4, "little")


def or_(left: bytes, right: bytes, target: bytes = NULL_TARGET) -> bytes:
    return b"\x7d" + left + right + target


def shift_left(value: bytes, count: bytes, target: bytes = NULL_TARGET) -> bytes:
    return b"\x79" + value + count + target


def equal(left: bytes, right: bytes) -> bytes:
    return b"\x93" + left + right


def if_(predicate: bytes, *terms: bytes) -> bytes:
    return b"\xa0" + _packaged(predicate + b"".join(terms))


def return_(value: bytes) -> bytes:
    return b"\xa4" + value


def notify(target: str, value: int | bytes) -> bytes:
    return b"\x86" + path(target) + (integer(value) if isinstance(value, int) else value)


def acquire(where: str, timeout_ms: int = 0xFFFF) -> bytes:
    return b"\x5b\x23" + path(where) + timeout_ms.to_bytes(2, "little")


def release(where: str) -> bytes:
    return b"\x5b\x27" + path(where)


def call(where: str, *arguments: bytes) -> bytes:
    return path(where) + b"".join(arguments)


# --- resource descriptors (§6.4) -----------------------------------------------------------------------------------

_MEMORY, _IO, _BUS = 0, 1, 2
_PRODUCER_FIXED = 0x0C  # MinFixed, MaxFixed, positive decode


def resources(*descriptors: bytes) -> bytes:
    """A ResourceTemplate: descriptors and the end tag, whose checksum 0 stands for «not computed» (§6.4.2.9)."""
    return buffer(b"".join(descriptors) + b"\x79\x00")


def irq(*numbers: int) -> bytes:
    """Edge, active high, exclusive: the ISA form without flags (§6.4.2.1)."""
    return struct.pack("<BH", 0x22, sum(1 << number for number in numbers))


def io(base: int, length: int, alignment: int = 1) -> bytes:
    """A fixed range of ports with 16-bit decoding (§6.4.2.5)."""
    return struct.pack("<BBHHBB", 0x47, 1, base, base, alignment, length)


def dma(*channels: int) -> bytes:
    """DMA channels, one of which is used: byte transfers, compatibility timing (ACPI 6.4 §6.4.2.2)."""
    return bytes((0x2A, sum(1 << channel for channel in channels), 0x00))


def memory32_fixed(base: int, length: int, *, writable: bool = False) -> bytes:
    return struct.pack("<BHBII", 0x86, 9, 1 if writable else 0, base, length)


def interrupt(*numbers: int) -> bytes:
    """Extended interrupt descriptor: consumer, level, active high, shared (§6.4.3.6)."""
    body = struct.pack("<BB", 0x09, len(numbers)) + b"".join(number.to_bytes(4, "little") for number in numbers)
    return b"\x89" + len(body).to_bytes(2, "little") + body


#: where the first number of ``interrupt`` stands in a buffer that begins with it
INTERRUPT_NUMBER_OFFSET = 5


def _window(tag: int, form: str, kind: int, specific: int, low: int, high: int) -> bytes:
    body = struct.pack("<BBB" + form * 5, kind, _PRODUCER_FIXED, specific, 0, low, high, 0, high - low + 1)
    return bytes((tag,)) + len(body).to_bytes(2, "little") + body


def word_bus_number(low: int, high: int) -> bytes:
    return _window(0x88, "H", _BUS, 0, low, high)


def word_io(low: int, high: int) -> bytes:
    """A window of ports handed down to the bus; ISA and non-ISA addresses (§6.4.3.5.5)."""
    return _window(0x88, "H", _IO, 3, low, high)


def dword_memory(low: int, high: int, *, cacheable: bool = False) -> bytes:
    return _window(0x87, "I", _MEMORY, 3 if cacheable else 1, low, high)


def qword_memory(low: int, high: int, *, cacheable: bool = False) -> bytes:
    return _window(0x8A, "Q", _MEMORY, 3 if cacheable else 1, low, high)
