# SPDX-License-Identifier: Apache-2.0
"""A device's rings over vhost-user connections that come and go (``core.vhost.VhostBackend``).

What a device wants (features, rings) is kept here and told to each new back end, so that one that dies costs the guest
its link for a while and nothing else: the next one goes on behind the last buffer that was given back. Nothing waits: a
reply that does not come in time ends the connection like any other fault, and whoever waits for a ring gets it back
then. Loop thread, unless stated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from vmmd.core.vhost import VhostState
from vmmd.errors import UsageError
from vmmd.log import get_logger
from vmmd.net.vhost_user.messages import REGIONS_MAX, Region
from vmmd.net.vhost_user.session import ProtocolError, Session
from vmmd.units import NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.core.memory import GuestMemory
    from vmmd.core.notify import Cancellable, LoopPort
    from vmmd.core.vhost import VhostRing

log = get_logger("vmmd.net")

#: patience with a reply; shorter than a vCPU waits for its device's reset
REPLY_DEADLINE_S = 3

#: feature bits (virtio 1.2 §5.1.3, §6) that are the work of whoever serves the rings. All others are the device's own:
#: configuration space, control queue, receive filter
DELEGATED = sum(
    1 << bit
    for bit in (
        0,  # CSUM
        1,  # GUEST_CSUM
        3,  # MTU
        6,  # GSO (legacy)
        7, 8, 9, 10,  # GUEST_TSO4, GUEST_TSO6, GUEST_ECN, GUEST_UFO
        11, 12, 13, 14,  # HOST_TSO4, HOST_TSO6, HOST_ECN, HOST_UFO
        15,  # MRG_RXBUF
        21,  # GUEST_ANNOUNCE: the back end then does not have to announce for the guest
        22,  # MQ
        24,  # NOTIFY_ON_EMPTY
        27,  # ANY_LAYOUT
        28,  # INDIRECT_DESC
        29,  # EVENT_IDX
        32,  # VERSION_1
        40,  # RING_RESET
        54, 55, 56,  # GUEST_USO4, GUEST_USO6, HOST_USO
        57,  # HASH_REPORT
        60,  # RSS
    )
)  # fmt: skip

# device status (virtio 1.2 §2.1)
_DRIVER = 1 | 2  # ACKNOWLEDGE, DRIVER
_FEATURES_OK = 8
_DRIVER_OK = 4


class Link(Protocol):
    """What carries the protocol."""

    def send(self, data: bytes, fds: Sequence[int]) -> bool:
        """A whole message; False: that cannot be."""

    def disconnect(self) -> None:
        """End the connection; ``lost`` follows, maybe later."""


class VhostUser:
    """core.vhost.VhostBackend."""

    in_user_space = True

    def __init__(self, name: str, loop: LoopPort, link: Link, pairs: int, alive: Callable[[bool], None]) -> None:
        """``pairs``: queue pairs that the device is to have. ``alive(on)``: the back end can serve, or not any more."""
        self._name = name
        self._loop = loop
        self._link = link
        self._pairs = pairs
        self._alive = alive
        self._is_alive = False  # as last told
        self.session: Session | None = None
        self._regions: list[Region] = []
        self._promised = 0  # delegated features that the device may have offered to its driver
        self._mtu: int | None = None
        self._rings: dict[int, VhostRing] = {}  # the device's wish
        self._served: set[int] = set()  # of them, those that the back end has been told of
        self._enabled_pairs = 1
        self._cut = False
        self._stops: dict[int, Callable[[int | None], None]] = {}  # rings on their way back
        self._configured = False  # the back end knows features and memory
        self._flush_posted = False
        self._deadline: Cancellable | None = None
        #: the last connection was closed here, for what the back end did
        self.refused = False
        self._reason = "no back end has connected yet"
        self._told = ""  # the fault that the log has

    # -- what the device sees ------------------------------------------------------------------------------------

    @property
    def state(self) -> VhostState:
        """Any thread."""
        session = self.session
        if session is not None and session.ready:
            return VhostState(True, "a vhost-user back end is connected")
        return VhostState(False, self._reason)

    def join(self, memory: GuestMemory) -> None:
        """DeviceLock held."""
        private = [each for each in memory.regions if each.fd is None]
        if private:
            raise UsageError(
                f"{self._name}: vhost-user needs guest memory that others can map, and '{private[0].name}' is private",
                "-object memory-backend-memfd,id=ram,size=…,share=on -machine memory-backend=ram",
            )
        if len(memory.regions) > REGIONS_MAX:
            raise UsageError(
                f"{self._name}: guest memory has {len(memory.regions)} parts; vhost-user takes {REGIONS_MAX}"
            )
        self._promised, self._mtu = 0, None  # nothing of another device, before this one
        # LIMIT: memory that is plugged later would have to be told
        self._regions = [
            Region(each.gpa, each.size_bytes, each.hva, each.fd, each.fd_offset)
            for each in memory.regions
            if each.fd is not None
        ]

    def mask_features(self, offered: int) -> int:
        """Any thread."""
        features = self.session.features if self.session is not None else 0
        kept = offered & (features | ~DELEGATED)
        self._promised |= kept & DELEGATED
        return kept

    def set_mtu(self, mtu: int) -> None:
        self._mtu = mtu

    def start_ring(self, ring: VhostRing) -> None:
        self._rings[ring.number] = ring
        self._flush_soon()

    def stop_ring(self, number: int, done: Callable[[int | None], None]) -> None:
        self._rings.pop(number, None)
        session = self.session
        if session is None or number not in self._served:
            done(None)
            return
        self._served.discard(number)
        self._stops[number] = done

        def stopped(position: int) -> None:
            self._stops.pop(number, None)
            if not self._served and not self._stops:
                self._unconfigure()
            done(position)

        session.enable_ring(number, on=False)
        session.stop_ring(number, stopped)
        self._watch_deadline()

    def drop_ring(self, number: int) -> None:
        """Any thread."""
        if self._rings.pop(number, None) is not None:
            self._loop.post(self.stop_ring, number, lambda _position: None)

    # -- what the netdev sees ------------------------------------------------------------------------------------

    def enable_pairs(self, count: int) -> None:
        """The driver uses the first ``count`` queue pairs."""
        self._enabled_pairs = count
        self._enable()

    def set_cut(self, cut: bool) -> None:
        """The link is down at one end, or up at both: no frames meanwhile."""
        self._cut = cut
        self._enable()

    def send_rarp(self, mac: bytes) -> bool:
        return self.session is not None and self.session.ready and self.session.send_rarp(mac)

    # -- connections ---------------------------------------------------------------------------------------------

    def connected(self, ready: Callable[[], None] | None = None) -> None:
        """There is a back end: find out what it can, tell it what is to be served. ``ready()`` then."""
        session = self.session = Session(self._send)
        self.refused = False

        def begun() -> None:
            self._check(session)
            if ready is not None:
                ready()
            self._is_alive = True
            self._told = ""
            self._alive(True)
            self._flush_soon()

        session.begin(begun)
        self._watch_deadline()

    def receive(self, data: bytes) -> None:
        """What the back end says."""
        session = self.session
        if session is None:
            return
        answers = session.answers
        try:
            session.receive(data)
        except ProtocolError as error:
            self._fail(str(error))
            return
        if session.answers != answers:
            self._stop_deadline()
        self._watch_deadline()

    def lost(self, reason: str = "the back end has closed the connection") -> None:
        """The connection is gone: rings come back from where they are, the device's link goes down. Idempotent."""
        session, self.session = self.session, None
        if session is None:
            return
        self._stop_deadline()
        self._reason = reason
        self._configured = False
        self._served.clear()
        stops, self._stops = self._stops, {}
        for done in stops.values():
            done(None)
        if self._is_alive:
            self._is_alive = False
            self._alive(False)

    def _check(self, session: Session) -> None:
        """A back end that is new does what the driver was told. Raises ProtocolError."""
        missing = self._promised & ~session.features
        if missing:
            raise ProtocolError(f"it lacks features {missing:#x} that the device has offered to the guest")
        if self._pairs > session.queue_pairs:
            # QEMU-COMPAT: the sentence
            raise ProtocolError(f"you are asking more queues than supported: {session.queue_pairs}")

    def _send(self, data: bytes, fds: Sequence[int]) -> None:
        if not self._link.send(data, fds):
            self._loop.post(self._unsent, self.session)

    def _unsent(self, session: Session | None) -> None:
        if session is self.session:
            self._fail("it does not read what it is sent")

    def _fail(self, reason: str) -> None:
        if reason != self._told:  # LIMIT: not again and again, when it comes back to do the same
            self._told = reason
            log.warning("vhost-user back end of %s: %s; the connection is closed", self._name, reason)
        self.refused = True
        self.lost(reason)
        self._link.disconnect()

    def _watch_deadline(self) -> None:
        """The oldest reply that is to come has so much time; each whole answer gives the next its own."""
        if self._deadline is None and self.session is not None and self.session.waiting and self._loop.runs:
            self._deadline = self._loop.call_later(REPLY_DEADLINE_S * NS_PER_S, self._too_late, self.session)

    def _stop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_late(self, session: Session) -> None:
        if session is self.session:
            self._fail(f"no answer for {REPLY_DEADLINE_S} s")

    # -- telling -------------------------------------------------------------------------------------------------

    def _flush_soon(self) -> None:
        if not self._flush_posted:
            self._flush_posted = True
            self._loop.post(self._flush)

    def _flush(self) -> None:
        """Tell the back end of rings that it does not know."""
        self._flush_posted = False
        session = self.session
        fresh = [ring for number, ring in sorted(self._rings.items()) if number not in self._served]
        if session is None or not session.ready or not fresh:
            return
        if not self._configured:
            self._configured = True
            features = fresh[0].features & DELEGATED
            session.set_status(_DRIVER)
            session.configure(features, self._regions, self._mtu)
            session.set_status(_DRIVER | _FEATURES_OK)
        for ring in fresh:
            session.start_ring(ring, enabled=self._is_enabled(ring.number))
            self._served.add(ring.number)
        session.set_status(_DRIVER | _FEATURES_OK | _DRIVER_OK)
        self._watch_deadline()

    def _enable(self) -> None:
        if self.session is not None:
            for number in sorted(self._served):
                self.session.enable_ring(number, on=self._is_enabled(number))

    def _is_enabled(self, number: int) -> bool:
        return not self._cut and number < 2 * self._enabled_pairs

    def _unconfigure(self) -> None:
        """The last ring is back: the device is as good as reset."""
        self._configured = False
        if self.session is not None:
            self.session.set_status(0)
