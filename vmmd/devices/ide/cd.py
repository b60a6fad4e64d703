# SPDX-License-Identifier: Apache-2.0
"""``ide-cd``: a CD/DVD-ROM drive on an IDE channel, as ``-device`` makes it. Its commands: ``mmc.py``.

The drive may be empty, and its medium may change; it never writes, so that an image that somebody else reads will do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.devices.ide.atapi import AtapiDrive
from vmmd.devices.ide.device import FIRMWARE_VERSION, IdeDevice
from vmmd.devices.ide.mmc import Identity

if TYPE_CHECKING:
    from vmmd.core.backend import DriveHandle
    from vmmd.devices.ide.disk_io import DiskIo


class IdeCd(IdeDevice):
    """A CD/DVD-ROM drive."""

    type_name = "ide-cd"
    description = "virtual IDE CD-ROM"
    media = "cd"
    # what happened to the medium, and transfer modes, as QEMU keeps them
    KEPT_AT_RESET = ("drive.optical._new_medium", "drive.optical._eject_wanted", "drive._modes")

    class Props(IdeDevice.Props):
        """Names and defaults as QEMU 7.2 shows them."""

    props: IdeCd.Props

    def claim(self) -> DriveHandle:
        props = self.props
        return self.ctx.backends.drive(
            props.drive or "", self.type_name, share_rw=props.share_rw, allow_empty=True, writes=False
        )

    def make_drive(self, handle: DriveHandle, io: DiskIo) -> AtapiDrive:
        props = self.props
        self.block_sizes(handle)
        identity = Identity(self.serial(handle), props.model, props.ver or FIRMWARE_VERSION, props.wwn)
        drive = AtapiDrive(self.bus, self.unit, io, self.ctx, identity)
        handle.attach_media(drive)
        return drive
