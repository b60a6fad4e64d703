# SPDX-License-Identifier: Apache-2.0
"""floppy: a diskette drive on the bus of a floppy disk controller. Diskettes come and go (blockdev-change-medium).

An image's size decides its format (``formats``). The kind of the drive follows from the first diskette, or is the
controller's fallback. A floppy drive knows no error policy: errors are reported to the guest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.device import Device
from vmmd.core.props import BOOL, DRIVE, ON_OFF_AUTO, SIZE, U32, prop
from vmmd.devices.disk_props import AUTO_GRANULARITY, block_sizes
from vmmd.devices.floppy.formats import KINDS, kind_for
from vmmd.devices.floppy.isa import DRIVE_TYPE
from vmmd.devices.ide.disk_io import DiskIo
from vmmd.errors import UsageError

if TYPE_CHECKING:
    from vmmd.core.backend import DriveHandle
    from vmmd.core.device import DeviceContext, ResetKind
    from vmmd.core.props import PropSet
    from vmmd.devices.floppy.isa import FloppyBus

UNIT_AUTO = 0xFFFF_FFFF
SECTOR_BYTES = 512


class Floppy(Device):
    """One drive. The machine sets ``bus`` before it is plugged."""

    type_name = "floppy"
    description = "virtual floppy drive"
    category = "storage"
    bus_type = "floppy-bus"
    user_creatable = True
    parent_type = "device"
    KEPT_AT_RESET = ("bus",)  # the controller is reset by itself
    has_tray = False
    medium_locked = False

    class Props(Device.Props):
        """Names and defaults as QEMU 7.2 shows them."""

        unit = prop(U32, None, "0: A, 1: B; default: the first that is free", unset=UNIT_AUTO)
        drive = prop(DRIVE, None, "Node name or ID of a block device to use as a backend")
        backend_defaults = prop(ON_OFF_AUTO, "auto", "take geometry from the backend", wire="backend_defaults")
        logical_block_size = prop(SIZE, 0, "A power of two between 512 B and 2 MiB", wire="logical_block_size")
        physical_block_size = prop(SIZE, 0, "A power of two between 512 B and 2 MiB", wire="physical_block_size")
        min_io_size = prop(SIZE, 0, "smallest good transfer in bytes", wire="min_io_size")
        opt_io_size = prop(SIZE, 0, "best transfer in bytes", wire="opt_io_size")
        discard_granularity = prop(SIZE, AUTO_GRANULARITY, "alignment of discards", wire="discard_granularity")
        write_cache = prop(ON_OFF_AUTO, "auto", "volatile write cache; a floppy drive has none")
        share_rw = prop(BOOL, False, "others may write to the image")
        drive_type = prop(DRIVE_TYPE, "auto", "FDC drive type, 144/288/120/none/auto")

    bus: FloppyBus
    props: Floppy.Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.unit = 0
        self.kind = "none"
        self._handle: DriveHandle | None = None

    def realize(self) -> None:
        """Take the place and the backend. Raises UsageError."""
        props, ctx = self.props, self.ctx
        self.unit = self.bus.free_unit(None if props.unit in (None, UNIT_AUTO) else props.unit)
        handle = ctx.backends.drive(props.drive or "", self.type_name, share_rw=props.share_rw, allow_empty=True)
        self.on_undo(lambda: ctx.backends.release(handle))
        self._handle = handle
        self._check(handle)
        self.kind = self._choose_kind(handle)
        self.resolved |= {
            "unit": self.unit, "drive_type": self.kind,
            "logical_block_size": SECTOR_BYTES, "physical_block_size": SECTOR_BYTES,
        }  # fmt: skip
        handle.qdev = self.id or self.qom_path
        io = DiskIo(ctx, handle, "report", "report")
        self.on_undo(ctx.requests.on_quiesce(io.quiesce))
        self.on_undo(ctx.requests.on_resume(io.resume))
        self.on_undo(self.bus.attach(self.unit, self))
        self.bus.fdc.drives[self.unit].connect(io, self.kind)
        self._io = io
        handle.attach_media(self)
        handle.on_lost(self._lost)

    def _check(self, handle: DriveHandle) -> None:
        block, _ = block_sizes(self.type_name, self.props, handle)
        if block != SECTOR_BYTES:
            raise UsageError("Physical and logical block size must be 512 for floppy")
        for option, value in (("werror", handle.werror), ("rerror", handle.rerror)):
            if value not in ("auto", "report" if option == "rerror" else "enospc"):
                # QEMU-COMPAT: the sentence
                raise UsageError(f"fdc doesn't support drive option {option}", "errors are reported to the guest")

    def _choose_kind(self, handle: DriveHandle) -> str:
        if self.props.drive_type in KINDS:
            return self.props.drive_type
        found = kind_for(handle.backend.size_bytes) if handle.inserted else None
        return found or self.bus.fallback

    def reset(self, kind: ResetKind) -> None:
        self._io.reset_by_machine()

    # -- MediaDevice -----------------------------------------------------------------------------------------

    @property
    def tray_open(self) -> bool:
        return self._handle is None or not self._handle.inserted

    def medium_changed(self, load: bool) -> None:
        self.bus.fdc.medium_changed(self.bus.fdc.drives[self.unit])

    def eject_request(self, force: bool) -> None:
        """Nothing holds a diskette."""

    def _lost(self) -> None:
        with self.ctx.lock:
            self.medium_changed(load=False)
