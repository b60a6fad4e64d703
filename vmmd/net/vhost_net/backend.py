# SPDX-License-Identifier: Apache-2.0
"""A device's rings in the kernel's hands (``core.vhost.VhostBackend``). Loop thread, unless stated.

What the kernel refuses ends the netdev's life: its link goes down, and the state says why. A ring comes back all the
same, from where its used index is.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmmd.core.vhost import VhostState
from vmmd.log import get_logger
from vmmd.net.vhost_net.device import F_VIRTIO_NET_HDR, NO_TAP

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.core.memory import GuestMemory, RamRegion
    from vmmd.core.vhost import VhostRing
    from vmmd.net.vhost_net.device import VhostNetDevice

log = get_logger("vmmd.net")

#: feature bits (virtio 1.2 §5.1.3, §6) that the kernel must have to be offered; offloads are the tap's, all else ours
DELEGATED = sum(
    1 << bit
    for bit in (
        15,  # MRG_RXBUF
        24,  # NOTIFY_ON_EMPTY
        28,  # INDIRECT_DESC
        29,  # EVENT_IDX
        32,  # VERSION_1
        40,  # RING_RESET
    )
)


class VhostNet:
    """One descriptor of vhost-net and one of the tap for each pair of queues."""

    in_user_space = False

    def __init__(
        self,
        name: str,
        devices: Sequence[VhostNetDevice],
        tap_fds: Sequence[int],
        *,
        has_header: bool,
        poll_us: int = 0,
        lost: Callable[[], None],
    ) -> None:
        """``has_header``: the tap's frames have a vnet header. ``lost()``: it does not work any more; on the loop.
        Raises OSError."""
        self._name = name
        self._devices = list(devices)
        self._tap_fds = list(tap_fds)
        self._has_header = has_header
        self._poll_us = poll_us
        self._lost = lost
        self._features = self._own()
        self._regions: tuple[RamRegion, ...] = ()
        self._configured: set[VhostNetDevice] = set()
        self._rings: dict[int, VhostRing] = {}  # set up in the kernel
        self._running: set[int] = set()  # of them, those that have the tap
        self._enabled_pairs = 1
        self._cut = False
        self._stopped = False
        self._reason = ""

    def _own(self) -> int:
        """Features that all descriptors have."""
        features = -1
        for device in self._devices:
            device.own()
            features &= device.features()
        return features

    @property
    def state(self) -> VhostState:
        """Any thread."""
        return VhostState(not self._reason, self._reason or "the kernel's vhost-net serves the rings")

    def join(self, memory: GuestMemory) -> None:
        """DeviceLock held. Any memory will do: it is this process's."""
        # LIMIT: memory that is plugged later would have to be told
        self._regions = memory.regions

    def mask_features(self, offered: int) -> int:
        """Any thread."""
        return offered & (self._features | ~DELEGATED)

    def set_mtu(self, mtu: int) -> None:
        """The kernel has no use for it."""

    def start_ring(self, ring: VhostRing) -> None:
        if self._stopped:  # the descriptors may be somebody else's
            return
        try:
            self._set_up(ring)
            self._follow(ring.number)
        except OSError as error:
            self._failed(error)

    def _set_up(self, ring: VhostRing) -> None:
        device, number = self._place(ring.number)
        if device not in self._configured:
            device.set_features(ring.features & DELEGATED | (0 if self._has_header else F_VIRTIO_NET_HDR))
            device.set_memory(self._regions)
            self._configured.add(device)
        device.set_ring(number, ring.size, ring.position() & 0xFFFF, (ring.desc_hva, ring.avail_hva, ring.used_hva))
        device.set_eventfds(number, ring.kick_fd, ring.call_fd)
        if self._poll_us:
            device.poll(number, self._poll_us)
        self._rings[ring.number] = ring

    def stop_ring(self, number: int, done: Callable[[int | None], None]) -> None:
        done(self._take_back(number))

    def drop_ring(self, number: int) -> None:
        """Any thread."""
        self._take_back(number)

    def _take_back(self, number: int) -> int | None:
        if self._rings.pop(number, None) is None:
            return None
        device, ring = self._place(number)
        try:
            if number in self._running:
                self._running.discard(number)
                device.set_tap(ring, NO_TAP)
            position = device.position(ring)
        except OSError as error:
            self._failed(error)
            return None
        if not any(each // 2 == number // 2 for each in self._rings):
            self._configured.discard(device)  # the next driver may accept other features
        return position

    def stop(self) -> None:
        """The netdev goes: the kernel leaves rings and tap alone, for good."""
        self._stopped = True
        for number in list(self._rings):
            self._take_back(number)

    def enable_pairs(self, count: int) -> None:
        """The driver uses the first ``count`` queue pairs."""
        self._enabled_pairs = count
        self._follow_all()

    def set_cut(self, cut: bool) -> None:
        """The link is down at one end, or up at both: no frames meanwhile."""
        self._cut = cut
        self._follow_all()

    def _follow_all(self) -> None:
        try:
            for number in list(self._rings):
                self._follow(number)
        except OSError as error:
            self._failed(error)

    def _follow(self, number: int) -> None:
        """Give the ring the tap, or take it away, as things are now."""
        wanted = not self._cut and number < 2 * self._enabled_pairs
        if wanted is (number in self._running):
            return
        device, ring = self._place(number)
        device.set_tap(ring, self._tap_fds[number // 2] if wanted else NO_TAP)
        (self._running.add if wanted else self._running.discard)(number)

    def _place(self, number: int) -> tuple[VhostNetDevice, int]:
        return self._devices[number // 2], number % 2

    def _failed(self, error: OSError) -> None:
        if not self._reason:
            self._reason = f"vhost-net has failed: {os.strerror(error.errno or 0)}"
            log.warning("netdev %s: %s", self._name, self._reason)
            self._lost()
