# SPDX-License-Identifier: Apache-2.0
"""Ports, read and written as a vCPU would, side effects included."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.hmp.memory import given_format
from vmmd.qmp.hmp.registry import hmp

if TYPE_CHECKING:
    from vmmd.qmp.hmp.arguments import Arguments
    from vmmd.qmp.hmp.monitor import HumanMonitor

_PORT_MASK = 0xFFFF
_SUFFIXES = {1: "b", 2: "w", 4: "l"}


@hmp("i", params="/fmt addr[.index]", help="read a port (after writing index to it and going to the next)")
def read_port(monitor: HumanMonitor, arguments: Arguments) -> str:
    width, shown = _access_bytes(monitor, arguments)
    address = arguments.expression()
    index = arguments.expression() if arguments.sign(".") else None
    arguments.done()
    with monitor.vm.lock:
        if index is not None:
            monitor.vm.pio.write(address & _PORT_MASK, 1, index & 0xFF)
            address += 1
        value = monitor.vm.pio.read(address & _PORT_MASK, width)
    return f"port{_SUFFIXES[width]}[0x{address & _PORT_MASK:04x}] = 0x{value:0{2 * shown}x}\n"


@hmp("o", params="/fmt addr value", help="write a port")
def write_port(monitor: HumanMonitor, arguments: Arguments) -> str:
    width, _shown = _access_bytes(monitor, arguments)
    address = arguments.expression()
    value = arguments.expression()
    arguments.done()
    with monitor.vm.lock:
        monitor.vm.pio.write(address & _PORT_MASK, width, value & ((1 << 8 * width) - 1))
    return ""


def _access_bytes(monitor: HumanMonitor, arguments: Arguments) -> tuple[int, int]:
    """(bytes of the access, bytes shown). QEMU-COMPAT: there are no accesses of 8 bytes, these are of one then."""
    size = given_format(monitor, arguments).size
    return (size if size in _SUFFIXES else 1), size
