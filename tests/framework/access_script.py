# SPDX-License-Identifier: Apache-2.0
"""Accesses to a machine as data, and as lines of a qtest script: what the random-access suites save when a seed fails.

A script is text, one request of the qtest protocol per line (``outb 0x3f8 0x41``). ``# arguments:`` gives the command
line of the machine, ``# backend:`` lines tell what the host did (they cannot be replayed over the wire), and
``qmp NAME`` lines are QMP commands. ``tests.fuzz.replay`` plays one on vmmd or QEMU.
"""

from __future__ import annotations

from typing import NamedTuple

PCI_ADDRESS, PCI_DATA = 0xCF8, 0xCFC
_LETTERS = {1: "b", 2: "w", 4: "l", 8: "q"}
_SIZES = {letter: size for size, letter in _LETTERS.items()}


class In(NamedTuple):
    """A port read."""

    port: int
    size: int


class Out(NamedTuple):
    """A port write."""

    port: int
    size: int
    value: int


class Read(NamedTuple):
    """A memory-mapped read."""

    address: int
    size: int


class Write(NamedTuple):
    """A memory-mapped write."""

    address: int
    size: int
    value: int


class ConfigRead(NamedTuple):
    """A read of the device's own PCI configuration space, of any shape."""

    function: int  # slot << 3 | function
    offset: int
    size: int


class ConfigWrite(NamedTuple):
    """A write of it."""

    function: int
    offset: int
    size: int
    value: int


class Memory(NamedTuple):
    """Guest memory gets these bytes: a driver's structures, or what a device is to find by DMA."""

    address: int
    data: bytes


class Step(NamedTuple):
    """Virtual time moves on."""

    nanoseconds: int


class Qmp(NamedTuple):
    """A QMP command without arguments: ``system_reset``."""

    command: str


class Backend(NamedTuple):
    """The host did something: only told in the script."""

    event: str
    argument: int


Access = In | Out | Read | Write | ConfigRead | ConfigWrite | Memory | Step | Qmp | Backend


def lines(access: Access) -> list[str]:
    """The access as lines of a script."""
    match access:
        case In(port, size):
            return [f"in{_LETTERS[size]} {port:#x}"]
        case Out(port, size, value):
            return [f"out{_LETTERS[size]} {port:#x} {value:#x}"]
        case Read(address, size):
            return [f"read{_LETTERS[size]} {address:#x}"]
        case Write(address, size, value):
            return [f"write{_LETTERS[size]} {address:#x} {value:#x}"]
        case ConfigRead(function, offset, size):
            return [line for at, part in _dwords(offset, size) for line in _config(function, at, f"in{_LETTERS[part]}")]
        case ConfigWrite(function, offset, size, value):
            return [
                f"{line} {value >> 8 * (at - offset) & (1 << 8 * part) - 1:#x}" if index else line
                for at, part in _dwords(offset, size)
                for index, line in enumerate(_config(function, at, f"out{_LETTERS[part]}"))
            ]
        case Memory(address, data):
            return [f"write {address:#x} {len(data):#x} 0x{data.hex()}"]
        case Step(nanoseconds):
            return [f"clock_step {nanoseconds}"]
        case Qmp(command):
            return [f"qmp {command}"]
        case Backend(event, argument):
            return [f"# backend: {event} {argument}"]


def _dwords(offset: int, size: int) -> list[tuple[int, int]]:
    """A configuration access as (offset, size) that the data port can do; nothing behind the 256 bytes."""
    if (offset & 3 and (offset & 3) + size > 4) or offset + size > 256 or size > 4:
        return [(at, 1) for at in range(offset, min(offset + size, 256))]
    return [(offset, size)]


def _config(function: int, offset: int, verb: str) -> list[str]:
    return [
        f"outl {PCI_ADDRESS:#x} {0x8000_0000 | function << 8 | offset & ~3:#x}",
        f"{verb} {PCI_DATA + (offset & 3):#x}",
    ]


def parse(line: str) -> Access | None:
    """The access of a script's line; None for a comment. Configuration accesses come back as port accesses. Raises
    ValueError."""
    words = line.split()
    if line.startswith("# backend: "):
        return Backend(words[2], int(words[3]))
    if not words or line.startswith("#"):
        return None
    verb, numbers = words[0], words[1:]
    if verb == "qmp":
        return Qmp(numbers[0])
    if verb == "clock_step":
        return Step(int(numbers[0], 0))
    if verb == "write":
        return Memory(int(numbers[0], 0), bytes.fromhex(numbers[2][2:]))
    values = [int(each, 0) for each in numbers]
    size = _SIZES.get(verb[-1])
    if size is None:
        raise ValueError(f"not a line of a script: {line}")
    match verb[:-1], values:
        case "in", [port]:
            return In(port, size)
        case "out", [port, value]:
            return Out(port, size, value)
        case "read", [address]:
            return Read(address, size)
        case "write", [address, value]:
            return Write(address, size, value)
    raise ValueError(f"not a line of a script: {line}")


def arguments_of(text: str) -> list[str]:
    """The command line that a script names."""
    for line in text.splitlines():
        if line.startswith("# arguments:"):
            return line.split()[2:]
    return []
