# SPDX-License-Identifier: Apache-2.0
"""One connection with a vhost-user back end, without I/O: what goes out goes to ``send``, what comes in to ``receive``.

The back end is another process and may say anything: a reply that nobody waits for, of the wrong request, size or
version is a ``ProtocolError``, after which the connection is to be closed. Replies come in the order of the requests.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmmd.net.vhost_user import messages
from vmmd.net.vhost_user.messages import F_PROTOCOL_FEATURES, FLAG_REPLY, HEADER, STATE, U64, Feature, Request

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.core.vhost import VhostRing
    from vmmd.net.vhost_user.messages import Region

_U16 = 0xFFFF
_U64 = 0xFFFF_FFFF_FFFF_FFFF
#: what a reply's flags must be
_REPLY_FLAGS = messages.VERSION | FLAG_REPLY


class ProtocolError(Exception):
    """The back end does not follow the protocol, or refuses what it has promised."""


class Send(Protocol):
    def __call__(self, data: bytes, fds: Sequence[int]) -> None:
        """A whole message; what cannot be sent ends the connection, later."""


class _Awaited(NamedTuple):
    """A reply that is to come."""

    request: Request
    size_bytes: int
    callback: Callable[[bytes], None]


class Session:
    """``begin`` → ``ready`` → rings. Not thread safe."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._inbox = bytearray()
        self._awaited: deque[_Awaited] = deque()
        self.ready = False
        self.answers = 0  # that have come
        #: virtio features that the back end has, without F_PROTOCOL_FEATURES
        self.features = 0
        self.protocol = Feature(0)
        self.queue_pairs = 1
        self._has_protocol = False
        self.status = 0  # as last told

    @property
    def waiting(self) -> bool:
        """A reply is to come."""
        return bool(self._awaited)

    # -- in ------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """Bytes of the back end. Raises ProtocolError."""
        inbox = self._inbox
        inbox += data
        while len(inbox) >= HEADER.size:
            request, flags, size_bytes = HEADER.unpack_from(inbox)
            if not self._awaited:
                raise ProtocolError(f"it answers request {request}, which was not made")
            awaited = self._awaited[0]
            if request != awaited.request or flags != _REPLY_FLAGS or size_bytes != awaited.size_bytes:
                raise ProtocolError(
                    f"it answers {awaited.request.name} with request {request}, flags {flags:#x}, {size_bytes} bytes"
                )
            if len(inbox) < HEADER.size + size_bytes:
                return
            payload = bytes(inbox[HEADER.size : HEADER.size + size_bytes])
            del inbox[: HEADER.size + size_bytes]
            self._awaited.popleft()
            self.answers += 1
            awaited.callback(payload)

    # -- out -----------------------------------------------------------------------------------------------------

    def _tell(self, request: Request, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        self._send(messages.message(request, payload), fds)

    def _ask(self, request: Request, payload: bytes, callback: Callable[[bytes], None]) -> None:
        self._awaited.append(_Awaited(request, messages.REPLY_BYTES[request], callback))
        self._send(messages.message(request, payload), ())

    def _ask_number(self, request: Request, callback: Callable[[int], None]) -> None:
        self._ask(request, b"", lambda payload: callback(U64.unpack(payload)[0]))

    def _demand(self, request: Request, payload: bytes, fds: Sequence[int] = ()) -> None:
        """Have the back end say whether it could, when it can say so."""
        if Feature.REPLY_ACK not in self.protocol:
            self._tell(request, payload, fds)
            return

        def answered(payload: bytes) -> None:
            if U64.unpack(payload)[0]:
                raise ProtocolError(f"it refuses {request.name}")

        self._awaited.append(_Awaited(request, U64.size, answered))
        self._send(messages.message(request, payload, need_reply=True), fds)

    # -- the beginning -------------------------------------------------------------------------------------------

    def begin(self, done: Callable[[], None]) -> None:
        """Find out what the back end can, and become its owner; ``done()`` from ``receive`` when that is known."""

        def got_features(features: int) -> None:
            self.features = features & ~F_PROTOCOL_FEATURES
            self._has_protocol = bool(features & F_PROTOCOL_FEATURES)
            if self._has_protocol:
                self._ask_number(Request.GET_PROTOCOL_FEATURES, got_protocol)
            else:
                own()

        def got_protocol(bits: int) -> None:
            wanted = Feature(0)
            for each in Feature:
                if bits & each:
                    wanted |= each
            self.protocol = wanted
            self._tell(Request.SET_PROTOCOL_FEATURES, U64.pack(wanted))
            if Feature.MQ in wanted:
                self._ask_number(Request.GET_QUEUE_NUM, got_queue_pairs)
            else:
                own()

        def got_queue_pairs(count: int) -> None:
            self.queue_pairs = min(count, messages.RINGS_MAX // 2)
            own()

        def own() -> None:
            self._tell(Request.SET_OWNER)
            self.ready = True
            done()

        self._ask_number(Request.GET_FEATURES, got_features)

    # -- the device ----------------------------------------------------------------------------------------------

    def configure(self, features: int, regions: Sequence[Region], mtu: int | None) -> None:
        """What the driver has accepted, guest memory, and the MTU that the driver was told."""
        self._tell(Request.SET_FEATURES, U64.pack(features | (F_PROTOCOL_FEATURES if self._has_protocol else 0)))
        if mtu is not None and Feature.MTU in self.protocol:
            self._demand(Request.NET_SET_MTU, U64.pack(mtu))
        self._demand(Request.SET_MEM_TABLE, messages.memory_table(regions), [each.fd for each in regions])

    def set_status(self, status: int) -> None:
        """The device status (virtio 1.2 §2.1) that the driver and the device have agreed on."""
        self.status = status
        if Feature.STATUS in self.protocol:
            self._tell(Request.SET_STATUS, U64.pack(status))

    def start_ring(self, ring: VhostRing, *, enabled: bool) -> None:
        """Set a ring up. The kick descriptor, which starts it, comes last: a back end drops what is sent through a ring
        that is started but not enabled."""
        number = ring.number
        self._tell(Request.SET_VRING_NUM, STATE.pack(number, ring.size))
        self._tell(Request.SET_VRING_BASE, STATE.pack(number, ring.position() & _U16))
        addresses = ring.desc_hva, ring.used_hva, ring.avail_hva, 0
        self._tell(Request.SET_VRING_ADDR, messages.ADDRESSES.pack(number, 0, *addresses))
        self._tell(Request.SET_VRING_CALL, U64.pack(number), [ring.call_fd])
        self.enable_ring(number, on=enabled)
        self._tell(Request.SET_VRING_KICK, U64.pack(number), [ring.kick_fd])

    def enable_ring(self, number: int, on: bool) -> None:
        """A back end without protocol features serves every ring that is set up."""
        if self._has_protocol:
            self._tell(Request.SET_VRING_ENABLE, STATE.pack(number, int(on)))

    def stop_ring(self, number: int, done: Callable[[int], None]) -> None:
        """``done(next entry of the available ring)`` from ``receive``; nothing of the ring is touched after that."""

        def stopped(payload: bytes) -> None:
            answered, position = STATE.unpack(payload)
            if answered != number or position > _U16:
                raise ProtocolError(f"it says that ring {answered} has stopped at {position}; ring {number} was to")
            done(position)

        self._ask(Request.GET_VRING_BASE, STATE.pack(number, 0), stopped)

    def send_rarp(self, mac: bytes) -> bool:
        """Have the back end tell the network where ``mac`` is. False when it cannot."""
        if Feature.RARP not in self.protocol:
            return False
        self._tell(Request.SEND_RARP, mac.ljust(U64.size, b"\0"))
        return True
