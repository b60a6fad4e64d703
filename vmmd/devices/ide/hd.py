# SPDX-License-Identifier: Apache-2.0
"""``ide-hd``: an ATA disk on an IDE channel, as ``-device`` makes it. Its commands: ``ata.py``.

bios-chs-trans and lcyls/lheads/lsecs are about what firmware is told (CMOS, fw_cfg ``bios-geometry``); the disk itself
shows cyls/heads/secs, or a geometry that it guesses from its partition table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.props import U16, U32, enum_type, prop
from vmmd.devices.disk_props import geometry
from vmmd.devices.ide.ata import AtaDrive
from vmmd.devices.ide.device import FIRMWARE_VERSION, IdeDevice
from vmmd.devices.ide.geometry import Chs, Translation, automatic, guess
from vmmd.devices.ide.identify import DiskIdentity
from vmmd.errors import UsageError
from vmmd.units import SECTOR_BYTES

if TYPE_CHECKING:
    from vmmd.core.backend import DriveHandle
    from vmmd.core.device import DeviceContext
    from vmmd.core.props import PropSet
    from vmmd.devices.ide.disk_io import DiskIo

MODEL = "QEMU HARDDISK"  # QEMU-COMPAT: guests and managers know a virtual disk by it
GEOMETRY_MAX = (65535, 16, 255)
TRANSLATION = enum_type("BiosAtaTranslation", "auto", "none", "lba", "large", "rechs")


class IdeHd(IdeDevice):
    """A disk."""

    type_name = "ide-hd"
    description = "virtual IDE disk"
    media = "hd"

    class Props(IdeDevice.Props):
        """Names and defaults as QEMU 7.2 shows them."""

        cyls = prop(U32, 0, "cylinders shown to the guest; 0: guessed")
        heads = prop(U32, 0, "heads shown to the guest")
        secs = prop(U32, 0, "sectors a track shown to the guest")
        lcyls = prop(U32, 0, "cylinders that firmware translates to; 0: it chooses")
        lheads = prop(U32, 0, "heads that firmware translates to")
        lsecs = prop(U32, 0, "sectors a track that firmware translates to")
        bios_chs_trans = prop(TRANSLATION, "auto", "Logical CHS translation algorithm, auto/none/lba/large/rechs")
        rotation_rate = prop(U16, 0, "turns a minute; 1: a solid state disk; 0: not told", wire="rotation_rate")

    props: IdeHd.Props

    def __init__(self, props: PropSet, ctx: DeviceContext, id_: str | None = None) -> None:
        super().__init__(props, ctx, id_)
        self.chs = Chs(0, 0, 0)
        self.translation = Translation.AUTO

    @property
    def logical_chs(self) -> Chs:
        """What firmware is told by ``bios-geometry``; zeroes: nothing."""
        return Chs(self.props.lcyls, self.props.lheads, self.props.lsecs)

    def claim(self) -> DriveHandle:
        props = self.props
        if not props.drive:
            raise UsageError("No drive specified", "drive= takes the id of a -drive or a node name")
        return self.ctx.backends.drive(props.drive, self.type_name, share_rw=props.share_rw)

    def make_drive(self, handle: DriveHandle, io: DiskIo) -> AtaDrive:
        props, backend = self.props, handle.backend
        if backend.read_only:
            raise UsageError("Block node is read-only", "an IDE disk is written to; ide-cd and virtio-blk are not")
        block, physical = self.block_sizes(handle)
        self._find_geometry(handle)
        identity = DiskIdentity(
            serial=self.serial(handle),
            version=props.ver or FIRMWARE_VERSION,
            model=props.model or MODEL,
            geometry=self.chs,
            physical_exponent=(physical // block).bit_length() - 1,
            wwn=props.wwn,
            rotation_rate=props.rotation_rate,
        )

        cache = props.write_cache
        cached = not backend.writes_through if cache == "auto" else cache == "on"
        return AtaDrive(self.bus, self.unit, io, identity, write_cache=cached)

    def _find_geometry(self, handle: DriveHandle) -> None:
        props = self.props
        given = geometry(props.cyls, props.heads, props.secs, GEOMETRY_MAX)
        wanted = Translation[props.bios_chs_trans.upper()]
        if given is None:
            self.chs, guessed = guess(handle.head(SECTOR_BYTES), handle.backend.size_bytes // SECTOR_BYTES)
        else:
            self.chs = Chs(*given)
            guessed = automatic(self.chs)
        self.translation = guessed if wanted is Translation.AUTO else wanted
        cylinders, heads, sectors = self.chs
        self.resolved |= {
            "cyls": cylinders,
            "heads": heads,
            "secs": sectors,
            "bios_chs_trans": self.translation.name.lower(),
        }
