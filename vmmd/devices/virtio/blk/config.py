# SPDX-License-Identifier: Apache-2.0
"""virtio-blk: feature bits, device configuration (virtio 1.2 §5.2.3, §5.2.4), and the checks of its properties."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from vmmd.devices.disk_props import block_sizes, geometry, granularity, io_size
from vmmd.errors import UsageError
from vmmd.units import SECTOR_BYTES

if TYPE_CHECKING:
    from vmmd.core.backend import DriveHandle
    from vmmd.devices.virtio.blk.device import VirtioBlkPci

# feature bits (§5.2.3)
F_SEG_MAX = 1 << 2
F_GEOMETRY = 1 << 4
F_RO = 1 << 5
F_BLK_SIZE = 1 << 6
F_FLUSH = 1 << 9
F_TOPOLOGY = 1 << 10
F_CONFIG_WCE = 1 << 11
F_MQ = 1 << 12
F_DISCARD = 1 << 13
F_WRITE_ZEROES = 1 << 14

#: §5.2.4: capacity, size_max, seg_max, cylinders, heads, sectors, blk_size, physical_block_exp, alignment_offset,
#: min_io_size, opt_io_size, writeback, unused, num_queues, max_discard_sectors, max_discard_seg,
#: discard_sector_alignment, max_write_zeroes_sectors, max_write_zeroes_seg, write_zeroes_may_unmap
_LAYOUT = struct.Struct("<QIIHBBIBBHIBBHIIIIIB")
WRITEBACK_OFFSET = 0x20
_BYTES_BASE = 0x24  # up to num_queues
_BYTES_DISCARD = 0x30
_BYTES_WRITE_ZEROES = 0x39

QUEUE_SIZE_LIMIT = 1024
QUEUES_LIMIT = 1024
SECTORS_PER_COMMAND_MAX = (1 << 31) // SECTOR_BYTES - 1  # of discard and write-zeroes, as QEMU bounds them
AUTO_QUEUES = 0xFFFF
GEOMETRY_MAX = (65535, 255, 255)


class BlkOptions(NamedTuple):
    """The device as its properties and its drive make it; checked."""

    queues: int
    queue_size: int
    seg_max: int
    block_bytes: int  # logical
    physical_bytes: int
    min_io_bytes: int
    opt_io_bytes: int
    geometry: tuple[int, int, int] | None  # given cylinders, heads, sectors
    discard: bool
    write_zeroes: bool
    discard_alignment_bytes: int
    max_discard_sectors: int
    max_write_zeroes_sectors: int
    config_wce: bool
    write_cache: bool
    read_only: bool
    merge: bool

    @property
    def config_bytes(self) -> int:
        if self.write_zeroes:
            return _BYTES_WRITE_ZEROES
        return _BYTES_DISCARD if self.discard else _BYTES_BASE

    def shown(self, size_bytes: int) -> dict[str, object]:
        """What was chosen for properties that were left open, by attribute name."""
        cylinders, heads, sectors = self.geometry or default_geometry(size_bytes // SECTOR_BYTES)
        return {
            "num_queues": self.queues,
            "logical_block_size": self.block_bytes,
            "physical_block_size": self.physical_bytes,
            "cyls": cylinders,
            "heads": heads,
            "secs": sectors,
        }

    @property
    def features(self) -> int:
        """The device's own feature bits."""
        bits = F_SEG_MAX | F_GEOMETRY | F_BLK_SIZE | F_TOPOLOGY
        for wanted, bit in (
            (self.read_only, F_RO),
            (self.config_wce or self.write_cache, F_FLUSH),
            (self.config_wce, F_CONFIG_WCE),
            (self.queues > 1, F_MQ),
            (self.discard, F_DISCARD),
            (self.write_zeroes, F_WRITE_ZEROES),
        ):
            if wanted:
                bits |= bit
        return bits

    def config(self, size_bytes: int, write_cache: bool) -> bytes:
        """The device configuration for a disk of ``size_bytes``."""
        capacity = size_bytes // SECTOR_BYTES
        cylinders, heads, sectors = self.geometry or default_geometry(capacity)
        sectors &= ~(self.block_bytes // SECTOR_BYTES - 1) & 0xFF
        exponent = (self.physical_bytes // self.block_bytes).bit_length() - 1
        discard = (0, 0, 0)
        if self.discard:
            discard = (self.max_discard_sectors, 1, self.discard_alignment_bytes // SECTOR_BYTES)
        packed = _LAYOUT.pack(
            capacity, 0, self.seg_max, cylinders, heads, sectors, self.block_bytes, exponent, 0,
            self.min_io_bytes // self.block_bytes, self.opt_io_bytes // self.block_bytes, int(write_cache), 0,
            self.queues, *discard, self.max_write_zeroes_sectors, 1, 1,
        )  # fmt: skip
        return packed[: self.config_bytes]


def default_geometry(capacity_sectors: int) -> tuple[int, int, int]:
    """16 heads, 63 sectors a track, and as many cylinders as fit, as PC firmware translates.

    # LIMIT: QEMU also looks for a geometry in the partition table; drivers use neither.
    """
    return min(max(capacity_sectors // (16 * 63), 2), 16383), 16, 63


def resolve(device: VirtioBlkPci, drive: DriveHandle) -> BlkOptions:
    """Check the properties against each other and the drive. Raises UsageError in QEMU's words."""
    props, inner = device.props, device.inner_type
    queues = props.num_queues
    if queues == AUTO_QUEUES:
        queues = max(1, min(device.ctx.vcpus, QUEUES_LIMIT - 1))
    if not queues:
        raise UsageError("num-queues property must be larger than 0")
    if queues > QUEUES_LIMIT:
        raise UsageError(f"invalid num-queues property ({queues}), must be at most {QUEUES_LIMIT}")
    queue_size = props.queue_size
    if queue_size <= 2:
        raise UsageError(f"invalid queue-size property ({queue_size}), must be > 2")
    if queue_size & (queue_size - 1) or queue_size > QUEUE_SIZE_LIMIT:
        raise UsageError(f"invalid queue-size property ({queue_size}), must be a power of 2 (max {QUEUE_SIZE_LIMIT})")
    block, physical = block_sizes(device.type_name, props, drive)
    for name, value in (
        ("max-discard-sectors", props.max_discard_sectors),
        ("max-write-zeroes-sectors", props.max_write_zeroes_sectors),
    ):
        if not 1 <= value <= SECTORS_PER_COMMAND_MAX:
            raise UsageError(f"invalid {name} property ({value}), must be between 1 and {SECTORS_PER_COMMAND_MAX}")
    cache = props.write_cache
    return BlkOptions(
        queues=queues,
        queue_size=queue_size,
        seg_max=queue_size - 2 if props.seg_max_adjust else 128 - 2,
        block_bytes=block,
        physical_bytes=physical,
        min_io_bytes=io_size(inner, "min_io_size", props.min_io_size, block, 0xFFFF),
        opt_io_bytes=io_size(inner, "opt_io_size", props.opt_io_size, block, 0xFFFF_FFFF),
        geometry=geometry(props.cyls, props.heads, props.secs, GEOMETRY_MAX),
        discard=props.discard,
        write_zeroes=props.write_zeroes,
        discard_alignment_bytes=granularity(inner, props.discard_granularity, block),
        max_discard_sectors=props.max_discard_sectors,
        max_write_zeroes_sectors=props.max_write_zeroes_sectors,
        config_wce=props.config_wce,
        write_cache=not drive.backend.writes_through if cache == "auto" else cache == "on",
        read_only=drive.backend.read_only,
        merge=props.request_merging,
    )
