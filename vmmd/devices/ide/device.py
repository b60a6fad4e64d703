# SPDX-License-Identifier: Apache-2.0
"""IdeDevice: the base of what ``-device`` puts on an IDE channel (ide-hd, ide-cd): properties, place, backend.

A subclass implements ``make_drive``. The machine sets ``bus``, the channel, before ``plug``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from vmmd.core.device import Device
from vmmd.core.props import BOOL, BOOT_INDEX, DRIVE, ON_OFF_AUTO, SIZE, STR, U32, U64, prop
from vmmd.devices.disk_props import AUTO_GRANULARITY, ERROR_POLICY, block_sizes, error_policy, granularity, io_size
from vmmd.devices.ide.disk_io import DiskIo
from vmmd.errors import UsageError
from vmmd.units import SECTOR_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmmd.core.backend import DriveHandle
    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import Prop, PropSet
    from vmmd.devices.ide.channel import Channel
    from vmmd.devices.ide.drive import Drive

IO_BLOCKS_MAX = (0xFFFF, 0xFFFF_FFFF)
UNIT_AUTO = 0xFFFF_FFFF
FIRMWARE_VERSION = "2.5+"  # QEMU-COMPAT: what QEMU's machines up to this version say


class IdeDevice(Device):
    """A device on an IDE channel."""

    bus_type = "IDE"
    category = "storage"
    user_creatable = True
    parent_type = "ide-device"
    global_types = ("ide-device",)
    #: "hd" or "cd": part of the name of a drive that -drive made
    media: ClassVar[str] = ""

    class Props(Device.Props):
        """Names and defaults as QEMU 7.2 shows them."""

        drive = prop(DRIVE, None, "Node name or ID of a block device to use as a backend")
        logical_block_size = prop(SIZE, 0, "A power of two between 512 B and 2 MiB", wire="logical_block_size")
        physical_block_size = prop(SIZE, 0, "A power of two between 512 B and 2 MiB", wire="physical_block_size")
        min_io_size = prop(SIZE, 0, "smallest good transfer in bytes", wire="min_io_size")
        opt_io_size = prop(SIZE, 0, "best transfer in bytes", wire="opt_io_size")
        discard_granularity = prop(SIZE, AUTO_GRANULARITY, "alignment of discards", wire="discard_granularity")
        write_cache = prop(ON_OFF_AUTO, "auto", "volatile write cache; auto: as the drive's cache mode says")
        share_rw = prop(BOOL, False, "others may write to the image")
        rerror = prop(ERROR_POLICY, "auto", "Error handling policy, report/ignore/enospc/stop/auto")
        werror = prop(ERROR_POLICY, "auto", "Error handling policy, report/ignore/enospc/stop/auto")
        ver = prop(STR, None, "firmware revision, 8 characters")
        wwn = prop(U64, 0, "world wide name; 0: none")
        serial = prop(STR, None, "serial number, 20 characters")
        model = prop(STR, None, "model number, 40 characters")
        unit = prop(U32, UNIT_AUTO, "0: master, 1: slave; default: the first that is free")
        bootindex = prop(BOOT_INDEX, None, "place in the boot order, 0 first", live=True)

        @classmethod
        def own_first(cls) -> Iterator[Prop[Any]]:
            """QEMU-COMPAT: what both kinds have, then what one has, and the place last."""
            common = IdeDevice.Props.declared
            yield from (each for name, each in common.items() if name != "unit")
            yield from (each for name, each in cls.declared.items() if name not in common)
            yield common["unit"]

    bus: Channel
    props: IdeDevice.Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.unit = 0
        self.drive: Drive | None = None

    @property
    def hotpluggable(self) -> bool:
        return True  # QEMU-COMPAT: the device could; its bus cannot

    # -- what a subclass implements --------------------------------------------------------------------------

    def claim(self) -> DriveHandle:
        """The backend. Raises UsageError."""
        raise NotImplementedError

    def make_drive(self, handle: DriveHandle, io: DiskIo) -> Drive:
        """The protocol engine, at ``self.unit`` of ``self.bus``. Raises UsageError."""
        raise NotImplementedError

    # -- life ------------------------------------------------------------------------------------------------

    def realize(self) -> None:
        """Take a place on the channel, and the backend. Raises UsageError."""
        props, ctx = self.props, self.ctx
        handle = self.claim()
        self.on_undo(lambda: ctx.backends.release(handle))
        wanted = None if props.unit == UNIT_AUTO else props.unit
        self.unit = self.bus.free_unit(wanted, self.type_name)
        io = DiskIo(
            ctx,
            handle,
            error_policy(props.rerror, handle.rerror, "report"),
            error_policy(props.werror, handle.werror, "enospc"),
        )
        self.resolved |= {"unit": self.unit, "serial": self.serial(handle), "ver": props.ver or FIRMWARE_VERSION}
        drive = self.make_drive(handle, io)
        handle.qdev = self.id or self.qom_path
        if {"stop", "enospc"} & {io.rerror, io.werror}:  # else nothing ever stops, and there is nothing to show
            handle.io_status = "ok"
            self.on_undo(lambda: setattr(handle, "io_status", None))
        self.claim_boot_index(props.bootindex)
        self.on_undo(ctx.requests.on_quiesce(io.quiesce))
        self.on_undo(ctx.requests.on_resume(io.resume))
        self.bus.attach(drive, self)
        self.on_undo(lambda: self.bus.detach(drive))
        self.drive = drive
        handle.on_lost(io.lost_medium)
        handle.backend.on_resize(self._resized)
        self.on_undo(self._forget_drive)

    def _forget_drive(self) -> None:
        self.drive = None

    def _resized(self) -> None:
        """The backend has another size. On the loop, without the lock."""
        with self.ctx.lock:
            if self.drive is not None:
                self.drive.medium_resized()

    def block_sizes(self, handle: DriveHandle) -> tuple[int, int]:
        """Logical and physical block size in bytes. Raises UsageError."""
        props = self.props
        block, physical = block_sizes(self.type_name, props, handle)
        io_size(self.type_name, "min_io_size", props.min_io_size, block, IO_BLOCKS_MAX[0])
        io_size(self.type_name, "opt_io_size", props.opt_io_size, block, IO_BLOCKS_MAX[1])
        unit = granularity(self.type_name, props.discard_granularity, SECTOR_BYTES)
        # QEMU-COMPAT: the sentences
        if unit % block:
            raise UsageError("discard_granularity must be a multiple of logical_block_size", f"it is {unit}")
        if block != SECTOR_BYTES:
            raise UsageError("logical_block_size must be 512 for IDE", f"it is {block}")
        if unit != SECTOR_BYTES:
            raise UsageError("discard_granularity must be 512 for ide", f"it is {unit}")
        self.resolved |= {
            "logical_block_size": block,
            "physical_block_size": physical,
            "discard_granularity": unit,
        }
        return block, physical

    def serial(self, handle: DriveHandle) -> str:
        """The serial number: given, or one that says where the drive sits."""
        number = 2 * int(self.bus.name[-1]) + self.unit + 1
        return self.props.serial or handle.serial or f"QM{number:05d}"  # QEMU-COMPAT: the form

    def reset(self, kind: ResetKind) -> None:
        if self.drive is not None:
            self.drive.io.reset_by_machine()
            self.bus.reset()
