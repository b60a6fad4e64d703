# SPDX-License-Identifier: Apache-2.0
"""Initial RAM disk and command line, as PVH and Linux kernels get them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.firmware import low_memory

if TYPE_CHECKING:
    from vmmd.core.memory import GuestMemory
    from vmmd.firmware.image import ImageFile
    from vmmd.firmware.low_memory import Space


def place_initrd(initrd: ImageFile, space: Space, bottom: int, limit: int) -> int:
    """Load the initrd on whole pages as high as possible below ``limit`` and the tables, above ``bottom``.

    Returns its address. Raises VmmdError when there is no room.
    """
    top = min(limit, space.tables_gpa)
    gpa = (top - initrd.size_bytes) & -low_memory.PAGE
    if gpa < low_memory.page_up(max(bottom, low_memory.F_SEGMENT_END)):
        room = max(0, top - bottom)
        raise initrd.error(
            f"{initrd.size_bytes} bytes do not fit between the kernel and {top:#x} ({room} bytes)", "give more with -m"
        )
    initrd.load(space.memory, gpa, 0, initrd.size_bytes)
    return gpa


def write_command_line(kernel: ImageFile, memory: GuestMemory, append: str, limit: int) -> int:
    """Store the command line with its NUL; returns its address. ``limit`` is the kernel's own, in bytes."""
    data = append.encode("utf-8", "surrogateescape")
    if len(data) > limit:
        raise kernel.error(f"the command line has {len(data)} bytes, the kernel takes {limit}", "shorten -append")
    memory.write(low_memory.COMMAND_LINE_GPA, data + b"\0")
    return low_memory.COMMAND_LINE_GPA
