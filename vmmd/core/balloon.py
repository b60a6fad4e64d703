# SPDX-License-Identifier: Apache-2.0
"""The one memory balloon that a machine may have, where the commands find it. DeviceLock held."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vmmd.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable


class Balloon(Protocol):
    """A balloon device as the commands see it. On the loop, with the DeviceLock held."""

    @property
    def actual_bytes(self) -> int:
        """The memory that it has left to the guest, as the guest says."""

    def set_target(self, left_bytes: int) -> None:
        """Ask the guest to keep so much memory."""


class BalloonSlot:
    """Holds the balloon, when there is one."""

    def __init__(self) -> None:
        self.device: Balloon | None = None

    def connect(self, device: Balloon) -> Callable[[], None]:
        """``device`` is the machine's balloon until the function that this returns is called. Raises UsageError."""
        if self.device is not None:
            # QEMU-COMPAT: the sentence
            raise UsageError("Only one balloon device is supported")
        self.device = device

        def disconnect() -> None:
            self.device = None

        return disconnect
