# SPDX-License-Identifier: Apache-2.0
"""The seam between a virtio device and whoever serves its rings outside vmmd: kernel vhost, or a vhost-user process.

A device gives one ring after the other away (``start_ring``) and gets them back (``stop_ring``). In between it never
touches them. A back end that dies while it has rings keeps their records and goes on with them when it is back: the
device only sees its link go down and up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.core.memory import GuestMemory


class VhostRing(NamedTuple):
    """A ring on its way out. Addresses are host virtual ones, checked to lie in RAM; the descriptors stay the device's,
    open until ``stop_ring`` or ``drop_ring``."""

    number: int  # 2 * queue pair, and 1 for the transmit queue
    size: int
    desc_hva: int
    avail_hva: int
    used_hva: int
    kick_fd: int  # the driver has rung
    call_fd: int  # interrupt the driver
    features: int  # what the driver has accepted of the device's offer; the same for all rings of a device
    #: where to begin: the next entry of the available ring. Asked again when a back end that was lost has come back
    position: Callable[[], int]


class VhostState(NamedTuple):
    """For people: whether rings are, or would be, served outside, and why (not)."""

    on: bool
    reason: str


class VhostBackend(Protocol):
    """On the loop, without the DeviceLock, unless stated."""

    @property
    def in_user_space(self) -> bool:
        """It is another process, not the kernel."""

    @property
    def state(self) -> VhostState:
        """Any thread."""

    def join(self, memory: GuestMemory) -> None:
        """A device that has this memory is going to give its rings. DeviceLock held. Raises UsageError when the back
        end cannot reach it."""

    def mask_features(self, offered: int) -> int:
        """What of these feature bits a device may offer to the driver when the back end serves its
        rings. Any thread."""

    def set_mtu(self, mtu: int) -> None:
        """The driver is told this MTU (host_mtu); comes before the first ``start_ring``."""

    def start_ring(self, ring: VhostRing) -> None:
        """Serve it, beginning at ``ring.position()``. Chains may be waiting already."""

    def stop_ring(self, index: int, done: Callable[[int | None], None]) -> None:
        """Stop serving. ``done`` is called once, maybe at once, and after a deadline at the latest: with the next entry
        of the available ring, or None when the back end cannot tell any more."""

    def drop_ring(self, index: int) -> None:
        """Stop serving, whatever that does to chains in flight; as far as that can be without waiting for anybody. Any
        thread, DeviceLock held, nothing running on the loop."""
