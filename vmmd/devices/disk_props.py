# SPDX-License-Identifier: Apache-2.0
"""Checks of the properties that all disks have, whatever they sit on: sizes, geometry, error policy. QEMU's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vmmd.core.props import enum_type
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from vmmd.core.backend import DriveHandle

ERROR_POLICY = enum_type("BlockdevOnError", "report", "ignore", "enospc", "stop", "auto")
BLOCK_SIZE_MIN, BLOCK_SIZE_MAX = 512, 2 << 20
AUTO_GRANULARITY = 0xFFFF_FFFF
IO_SIZE_MAX = 0xFFFF_FFFF


class BlockSizes(Protocol):
    """The properties that ``block_sizes`` looks at; 0 means the default."""

    @property
    def logical_block_size(self) -> int: ...
    @property
    def physical_block_size(self) -> int: ...


def block_sizes(type_name: str, props: BlockSizes, drive: DriveHandle) -> tuple[int, int]:
    """Logical and physical block size in bytes. Raises UsageError."""
    sizes = {"logical_block_size": props.logical_block_size, "physical_block_size": props.physical_block_size}
    for name, value in sizes.items():
        if not value:
            continue
        if not BLOCK_SIZE_MIN <= value <= BLOCK_SIZE_MAX:
            raise UsageError(
                f"Property .{name} doesn't take value {value} (minimum: {BLOCK_SIZE_MIN}, maximum: {BLOCK_SIZE_MAX})"
            )
        if value & (value - 1):
            raise UsageError(f"Property .{name} doesn't take value '{value}', it's not a power of 2")
    block = props.logical_block_size or BLOCK_SIZE_MIN
    physical = props.physical_block_size or BLOCK_SIZE_MIN
    if block > physical:
        raise UsageError("logical_block_size > physical_block_size not supported")
    needed = drive.backend.request_alignment
    if block % needed:
        raise UsageError(
            f"{type_name}: drive '{drive.backend.name}' takes requests in multiples of {needed} bytes only",
            f"use logical_block_size={needed},physical_block_size={needed} or a cache mode without O_DIRECT",
        )
    return block, physical


def io_size(type_name: str, name: str, value: int, block: int, blocks_max: int) -> int:
    """A hint about good transfer sizes: whole blocks. Raises UsageError."""
    if value > IO_SIZE_MAX:
        raise UsageError(f"Property {type_name}.{name} doesn't take value {value} (maximum: {IO_SIZE_MAX})")
    if value % block:
        raise UsageError(f"{name} must be a multiple of logical_block_size")
    if value // block > blocks_max:
        raise UsageError(f"{name} must not exceed {blocks_max} logical blocks")
    return value


def granularity(type_name: str, value: int, block: int) -> int:
    """Bytes that discards are made of. Raises UsageError."""
    if value == AUTO_GRANULARITY:
        return block
    if value > IO_SIZE_MAX:
        raise UsageError(f"Property {type_name}.discard_granularity doesn't take value {value}")
    if value % block:
        raise UsageError("discard_granularity must be a multiple of logical_block_size")
    return value


def geometry(cylinders: int, heads: int, sectors: int, limits: tuple[int, int, int]) -> tuple[int, int, int] | None:
    """Cylinders, heads and sectors that the user gave, or None. Raises UsageError: above ``limits``, or not all."""
    if not (cylinders or heads or sectors):
        return None
    for name, value, most in zip(("cyls", "heads", "secs"), (cylinders, heads, sectors), limits, strict=True):
        if not 1 <= value <= most:
            raise UsageError(f"{name} must be between 1 and {most}")
    return cylinders, heads, sectors


def error_policy(of_device: str, of_drive: str, default: str) -> str:
    """rerror or werror: the device's property, else the drive's, else the default."""
    return next((value for value in (of_device, of_drive) if value != "auto"), default)
