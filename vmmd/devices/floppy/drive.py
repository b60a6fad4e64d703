# SPDX-License-Identifier: Apache-2.0
"""The mechanics of one drive as the controller sees it: where the head stands, and what diskette is in it.

``FloppyDrive`` is also what an empty place on the cable looks like: nothing answers there. DeviceLock held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.devices.floppy.formats import SECTOR_BYTES, Format, format_for

if TYPE_CHECKING:
    from vmmd.devices.ide.disk_io import DiskIo

NOTHING = Format(0, 0, 0, 0)


class FloppyDrive:
    """A place for a drive. ``io`` is None while there is none."""

    def __init__(self) -> None:
        self.io: DiskIo | None = None
        self.kind = "none"
        self.format = NOTHING  # of the diskette, or the drive's usual one
        self.track = 0
        self.head = 0
        self.sector = 0
        self.perpendicular = 0  # PERPENDICULAR MODE, while it was selected
        self.changed = True  # the change line: set when a diskette goes, cleared by a step with one inside

    def connect(self, io: DiskIo, kind: str) -> None:
        """A drive is there."""
        self.io, self.kind = io, kind
        self.medium_changed()
        self.power_on()

    def disconnect(self) -> None:
        """It is gone."""
        self.io, self.kind = None, "none"
        self.format, self.changed = NOTHING, True

    @property
    def inserted(self) -> bool:
        """There is a diskette."""
        return self.io is not None and self.kind != "none" and self.io.drive.inserted

    @property
    def write_protected(self) -> bool:
        """The diskette's notch is covered; so it looks without one, too."""
        return not self.inserted or self.io is None or self.io.drive.backend.read_only

    @property
    def image_sectors(self) -> int:
        """Sectors that the image really has."""
        return self.io.drive.backend.size_bytes // SECTOR_BYTES if self.io is not None else 0

    def medium_changed(self) -> None:
        """Another diskette, or none."""
        self.changed = True
        size_bytes = self.io.drive.backend.size_bytes if self.io is not None else 0
        self.format = format_for(self.kind, size_bytes) or NOTHING

    def reaches(self, track: int, head: int) -> bool:
        """The head can be put there. QEMU-COMPAT: one track further than the format says."""
        return track <= self.format.tracks and head < max(self.format.heads, 1)

    def step(self, track: int) -> None:
        """Move the head to ``track``; the change line follows when there is a diskette."""
        if track != self.track and self.inserted:
            self.changed = False
        self.track = track

    def recalibrate(self) -> None:
        """Back to track 0."""
        self.step(0)
        self.head, self.sector = 0, 1

    def power_on(self) -> None:
        """As after a reset: QEMU-COMPAT: the head is at track 0 without having stepped."""
        self.track, self.head, self.sector = 0, 0, int(bool(self.format.sectors))
