# SPDX-License-Identifier: Apache-2.0
"""The seam between a PCI function and its option ROM: an image of the host, which the guest reads and runs in place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class RomImage(Protocol):
    """An option ROM in memory. ``view`` is as long as the base address register shows; the file lies at its start."""

    view: memoryview

    @property
    def size_bytes(self) -> int:
        """A power of two."""


class OptionRoms(Protocol):
    """Where option ROMs come from and go. DeviceLock held."""

    def load(self, romfile: str, name: str, size_bytes: int | None) -> RomImage:
        """The image of a file, which is looked for where firmware is. ``name``: what the memory is called.
        ``size_bytes``: how large it is to be; None: as the file, rounded up. Raises VmmdError in QEMU's words."""

    def release(self, image: RomImage) -> None:
        """It is not needed any more, and shown nowhere."""

    def show(self, image: RomImage, gpa: int) -> None:
        """It is to be seen at ``gpa`` without an exit for each access, if nothing else is there. Its owner answers for
        the address as well."""

    def hide(self, image: RomImage) -> None:
        """Undo ``show``."""

    def give_to_firmware(self, romfile: str) -> Callable[[], None]:
        """Have firmware run a file that no register shows (rombar=0); returns a function that undoes it. One that
        cannot be read is logged. Raises VmmdError."""
