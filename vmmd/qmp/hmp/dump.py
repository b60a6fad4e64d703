# SPDX-License-Identifier: Apache-2.0
"""Texts of ``x`` and ``xp``: numbers, characters, and with the format ``i`` instructions (by capstone, if it is there).

``read(address, length, item_size)`` gives bytes, or None where not all of them are there. A long text is made in
pieces, with a pause for the loop between them.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING, Any

from vmmd.core.background import once_on_thread
from vmmd.errors import VmmdError
from vmmd.qmp.hmp.arguments import ArgumentError
from vmmd.qmp.hmp.formats import cell
from vmmd.units import U64_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.kvm import abi
    from vmmd.qmp.hmp.arguments import Format
    from vmmd.qmp.hmp.monitor import HumanMonitor

    Read = Callable[[int, int, int], bytes | None]

#: most items of one dump
MAX_ITEMS = 1 << 16
MAX_INSTRUCTIONS = 4096
#: longest x86 instruction (Intel SDM vol. 2 §2.3.11)
INSTRUCTION_BYTES = 15

_LINE_BYTES = {1: 8, 2: 16, 4: 16, 8: 16}
_ITEM = {1: "B", 2: "H", 4: "I", 8: "Q"}
#: instructions decoded between two looks at the clock
_PIECE = 16
#: bytes of an instruction in one line
_SHOWN_BYTES = 8


def check_size(wanted: Format) -> None:
    """Raises ArgumentError for a dump that would be too long."""
    limit, what = (MAX_INSTRUCTIONS, "instructions") if wanted.letter == "i" else (MAX_ITEMS, "items")
    if wanted.items > limit:
        raise ArgumentError(f"at most {limit} {what} are shown at once")


def span_bytes(wanted: Format) -> int:
    """How much memory a dump may look at."""
    return max(1, wanted.items) * INSTRUCTION_BYTES if wanted.letter == "i" else wanted.items * wanted.size


async def dump(monitor: HumanMonitor, address: int, wanted: Format, read: Read) -> str:
    """The text for memory at ``address``. Raises VmmdError."""
    if wanted.letter == "i":
        return await _instructions(monitor, address, max(1, wanted.items), read)
    lines = []
    left = wanted.items * wanted.size
    line_bytes = _LINE_BYTES[wanted.size]
    # QEMU-COMPAT: characters are single bytes, as many as the items have
    size = 1 if wanted.letter == "c" else wanted.size
    turn = monitor.turn()
    while left:
        length = min(left, line_bytes)
        data = read(address, length, size)
        if data is None:
            lines.append(f"{address:016x}: Cannot access memory\n")
            break
        items = struct.unpack(f"<{length // size}{_ITEM[size]}", data)
        cells = " ".join(cell(item, wanted.letter, size) for item in items)
        lines.append(f"{address:016x}: {cells}\n")
        address = (address + length) & U64_MAX
        left -= length
        await turn.pause()
    return "".join(lines)


# -- instructions ------------------------------------------------------------------------------------------------------


async def _instructions(monitor: HumanMonitor, address: int, count: int, read: Read) -> str:
    decoder = await _decoder(monitor)
    lines: list[str] = []
    turn = monitor.turn()
    while count:
        code = _readable(read, address, min(count, _PIECE) * INSTRUCTION_BYTES)
        if not code:
            lines.append(f"0x{address:08x}: unable to read memory\n")
            break
        used = 0
        for at, size, mnemonic, operands in decoder.disasm_lite(code, address, min(count, _PIECE)):
            # «no index» of a SIB byte is a register to capstone 5, and nothing to QEMU's older one
            operands = operands.replace(", %riz", "").replace(", %eiz", "")
            lines.append(_instruction(at, code[used : used + size], f"{mnemonic:<8} {operands}"))
            used += size
            count -= 1
        address = (address + used) & U64_MAX
        await turn.pause()
    return "".join(lines)


def _readable(read: Read, address: int, length: int) -> bytes:
    """As many bytes as are there, up to ``length``."""
    length = min(length, (1 << 64) - address)
    data = read(address, length, 1)
    if data is not None:
        return data
    data = b""
    while len(data) < length and (byte := read(address + len(data), 1, 1)) is not None:
        data += byte
    return data


def _instruction(address: int, code: bytes, text: str) -> str:
    first = code[:_SHOWN_BYTES].hex(" ")
    line = f"0x{address:08x}:  {first:<{3 * _SHOWN_BYTES}} {text}\n"
    rest = code[_SHOWN_BYTES:]
    return line + (f"0x{address + _SHOWN_BYTES:08x}:  {rest.hex(' ')}\n" if rest else "")


async def _decoder(monitor: HumanMonitor) -> Any:
    """capstone for the mode that the current vCPU executes in. Raises VmmdError when capstone is not installed."""
    sregs = await monitor.control_registers()
    try:
        if "capstone" not in sys.modules:
            await once_on_thread(monitor.vm.loop, _import_capstone, "settle")
        capstone = _import_capstone()
    except ImportError:
        raise VmmdError(
            "The format 'i' needs the Python package capstone", "it comes with pip install 'vmmd[disassembly]'"
        ) from None
    decoder = capstone.Cs(capstone.CS_ARCH_X86, getattr(capstone, f"CS_MODE_{_code_bits(sregs)}"))
    decoder.syntax = capstone.CS_OPT_SYNTAX_ATT
    decoder.skipdata = True
    return decoder


def _import_capstone() -> Any:
    import capstone

    return capstone


def _code_bits(sregs: abi.Sregs) -> int:
    """Width of the code that a vCPU executes: 16, 32 or 64."""
    from vmmd.kvm.cpustate import is_long_mode_code

    if is_long_mode_code(sregs):
        return 64
    return 32 if sregs.cs.db else 16
