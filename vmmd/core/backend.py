# SPDX-License-Identifier: Apache-2.0
"""Seams between devices and host backends: character devices and disks.

Devices see only these protocols; ``chardev`` and ``block`` implement them on the event loop.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.core.vhost import VhostBackend


class CharEvent(enum.Enum):
    OPENED = "opened"  # a peer is connected
    CLOSED = "closed"
    BREAK = "break"


class CharFrontend(Protocol):
    """The device's side of a character device. Called on the loop with the DeviceLock held."""

    def can_receive(self) -> int:
        """How many bytes the device takes now (0: hold back; call ``CharBackend.accept_input`` later)."""

    def receive(self, data: bytes) -> None:
        """At most ``can_receive()`` bytes from the host."""

    def handle_event(self, event: CharEvent) -> None:
        """The peer came, went, or sent a break."""

    def write_ready(self) -> None:
        """Room again after ``write`` took less than it was given."""


@runtime_checkable
class SwappableFrontend(CharFrontend, Protocol):
    """A front end whose backend may change while it runs (chardev-change)."""

    def replace_backend(self, backend: CharBackend) -> None:
        """Use ``backend`` from now on, which has been attached already. DeviceLock held."""


@runtime_checkable
class OrderedFrontend(CharFrontend, Protocol):
    """A front end that serves requests: what a peer has sent comes before its CLOSED, also when it leaves while there
    is no room (a bounded part more than ``can_receive`` said)."""

    def answering(self) -> bool:
        """Requests of the peer are still served: the end of its input, if it may still read, and the next peer wait
        until ``accept_input``. Loop thread, DeviceLock held."""


class ScatterFrontend:
    """A front end that has buffers of its own, guest RAM: backends with a descriptor read into them instead of
    ``receive``. A base class, because it is asked for at each read. Loop thread, without the DeviceLock."""

    def input_buffers(self) -> Sequence[memoryview]:
        """Where the next input goes; empty: hold back, ``CharBackend.accept_input`` follows."""
        raise NotImplementedError

    def input_done(self, count: int) -> None:
        """So many bytes were read into the buffers just given."""
        raise NotImplementedError


class CharBackend(Protocol):
    """The host's side of a character device. A backend has at most one frontend."""

    label: str  # the id
    dropped_bytes: int  # output that nobody got

    @property
    def connected(self) -> bool:
        """True when bytes written now reach a peer (or a file)."""

    def attach(self, frontend: CharFrontend) -> None:
        """Become the backend of ``frontend``. Raises UsageError when it already has one. DeviceLock held."""

    def detach(self) -> None:
        """Undo ``attach``. DeviceLock held."""

    def set_open(self, is_open: bool) -> None:
        """The device's own end is (not) ready for use; shown as ``frontend-open``."""

    def write(self, data: bytes) -> int:
        """Queue bytes for the host; returns how many were taken (bounded buffer). Any thread; never blocks."""

    def write_now(self, data: bytes) -> int:
        """``write`` that goes out at once, as far as the peer takes it; ``write_ready`` follows when that was not all.
        Loop thread, without the DeviceLock."""

    def write_views(self, views: Sequence[memoryview]) -> int:
        """Output that stays where it is until the peer takes it: how many bytes are done with; ``write_ready`` follows
        when that was not all. Without a peer it goes nowhere. Loop thread, without the DeviceLock."""

    def accept_input(self) -> None:
        """The frontend has room again: resume reading. Any thread; never blocks; coalesced."""


@runtime_checkable
class MessageBackend(CharBackend, Protocol):
    """A character device whose peer may be sent descriptors along with bytes: a socket."""

    @property
    def passes_descriptors(self) -> bool:
        """It is a UNIX socket."""

    def send_message(self, data: bytes, fds: Sequence[int]) -> bool:
        """All of ``data`` at once, past what ``write`` has queued, and ``fds`` with it, which stay the caller's. False:
        no peer, or it does not take it now. Loop thread, or before the loop runs."""

    def disconnect(self) -> None:
        """Shut the connection down; CLOSED follows, then the next peer may come. Loop thread."""

    def wait_connected(self) -> None:
        """Before the loop runs: block until there is a peer. Raises BackendError when none can come."""

    def read_now(self, timeout_s: float) -> bytes:
        """Before the loop runs: block for input. b"": the peer has left, or the time is over; it is gone then."""


class IoDone(Protocol):
    def __call__(self, error: int) -> None:
        """Called once on the loop when the request has ended: 0 or a positive errno."""


class BlockBackend(Protocol):
    """A disk as a device sees it. All methods on the loop, without the lock; lengths and offsets in bytes,
    multiples of ``request_alignment``, already checked to lie inside ``size_bytes``. ``done(errno)`` is called exactly
    once, on the loop, possibly before the call returns. Buffers are guest RAM: no copy unless alignment demands it."""

    name: str  # drive id or node name
    read_only: bool
    request_alignment: int
    writes_through: bool  # cache mode: each write is durable before it completes
    supports_discard: bool

    @property
    def size_bytes(self) -> int: ...

    def readv(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None: ...

    def writev(self, offset: int, buffers: Sequence[memoryview], done: IoDone) -> None: ...

    def flush(self, done: IoDone) -> None: ...

    def discard(self, offset: int, length: int, done: IoDone) -> None: ...

    def write_zeroes(self, offset: int, length: int, may_unmap: bool, done: IoDone) -> None: ...

    def on_resize(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` on the loop when ``size_bytes`` changed."""

    def pin(self) -> None:
        """Requests are in flight whose device is gone: the image stays open until ``unpin``."""

    def unpin(self) -> None:
        """Undo ``pin``."""


class NetFrontend(Protocol):
    """The NIC's side of one queue pair of a netdev. On the loop, without the lock."""

    def readable(self) -> None:
        """Frames wait: take a bounded number by ``NetQueue.read``. Called again in the loop's next turn while some are
        left and ``NetQueue.watch`` is on."""

    def writable(self) -> None:
        """Room again after ``NetQueue.write`` gave False."""


class NetQueue(Protocol):
    """One queue pair of a netdev. On the loop, without the lock. A frame begins with the vnet header (virtio 1.2
    §5.1.6.1) of ``NetBackend.set_header`` length when that is not 0, else with the destination address."""

    def attach(self, frontend: NetFrontend) -> None:
        """``frontend`` is told from now on; nothing is watched yet."""

    def detach(self) -> None:
        """It is not told any more."""

    def read(self, buffers: Sequence[memoryview]) -> int:
        """The next frame into ``buffers``, in one system call and without a copy where the host can: how many bytes it
        had; 0 when none waits. What has no room is lost, as with readv(2)."""

    def write(self, buffers: Sequence[memoryview]) -> bool:
        """Send a frame. False: the host has no room now, nothing was sent, ``writable`` will be called. A frame that
        the host refuses, or that nobody is there for, is gone and counted: True."""

    def watch(self, wanted: bool) -> None:
        """Whether ``readable`` is to be called; off while the guest has posted no buffers."""


@runtime_checkable
class DirectNetQueue(NetQueue, Protocol):
    """One whose frames may be moved by readv(2) and writev(2) on a descriptor, which spares a call for each."""

    @property
    def direct_fd(self) -> int | None:
        """The descriptor; None: not now. Good for one batch of frames. A frame for which the system call fails is left
        to ``read`` and ``write``."""


class NetBackend(Protocol):
    """A netdev as a NIC sees it. A netdev has at most one NIC. On the loop, without the lock, unless stated."""

    @property
    def id(self) -> str: ...
    @property
    def queues(self) -> Sequence[NetQueue]: ...
    @property
    def header_lengths(self) -> frozenset[int]:
        """Lengths that ``set_header`` takes besides 0; empty: the netdev knows no vnet header, and no offloads."""

    @property
    def offloads(self) -> NetOffload:
        """What the host can take over; frames given to it may use them once a header is set."""

    @property
    def vhost(self) -> VhostBackend | None:
        """Who serves the rings of a virtio NIC outside vmmd; None: frames go through ``queues``."""

    @property
    def link_up(self) -> bool:
        """The netdev's own end: set_link on it, and its peer's life."""

    def set_header(self, length_bytes: int) -> None:
        """Length of the vnet header that precedes each frame, both ways (little endian)."""

    def set_offloads(self, accepted: NetOffload) -> None:
        """What the guest takes in frames it receives."""

    def enable_queues(self, count: int) -> None:
        """The guest uses the first ``count`` queue pairs."""


class NetOffload(enum.IntFlag):
    """Work left to whoever gets a frame (virtio 1.2 §5.1.3, by their meaning for the receiver)."""

    CSUM = 1
    TSO4 = 2
    TSO6 = 4
    TSO_ECN = 8
    UFO = 16
    USO4 = 32
    USO6 = 64


class Nic(Protocol):
    """A NIC as the network layer and the monitor see it. DeviceLock held, on the loop."""

    @property
    def id(self) -> str | None: ...
    @property
    def type_name(self) -> str:
        """The model, "virtio-net-pci"."""

    @property
    def inner_type(self) -> str:
        """What of it has the netdev, "virtio-net-device"; empty: itself."""

    @property
    def current_mac(self) -> bytes:
        """The address that the guest has given it, or the one it was made with."""

    def link_changed(self, up: bool) -> None:
        """set_link on the NIC or its netdev, or the netdev's peer came or went. Frames need no care: those that come
        while the link is down are thrown away by the network."""

    def backend_removed(self) -> None:
        """netdev_del takes the netdev away; nothing of it may be used from now on, but what ``take_rings_back`` needs.
        The NIC stays, without a link."""

    def take_rings_back(self, done: Callable[[], None]) -> None:
        """A netdev with vhost was taken away: the NIC serves its rings itself as soon as they are back; ``done()``
        then. On the loop, without the lock."""

    def announce(self) -> None:
        """Tell the network where the NIC is: send a RARP frame, and have the guest do the same where it can. On the
        loop, without the lock."""

    def rx_filter(self) -> ReceiveFilter:
        """Which frames the guest wants. A change after this is an event. On the loop, without the lock."""


class ReceiveFilter(NamedTuple):
    """Which frames a NIC's guest wants. States are "normal" (by the table), "none" and "all"."""

    promiscuous: bool
    multicast: str
    unicast: str
    vlan: str
    broadcast_allowed: bool
    #: more addresses were asked for than there is room
    multicast_overflow: bool
    unicast_overflow: bool
    main_mac: bytes
    vlan_table: tuple[int, ...]
    unicast_table: tuple[bytes, ...]
    multicast_table: tuple[bytes, ...]


class NicPort(Protocol):
    """A NIC's place in the network, made by ``Backends.nic``."""

    @property
    def name(self) -> str:
        """What set_link and queries call the NIC: the device's id, or MODEL.N."""

    @property
    def mac(self) -> bytes:
        """As asked for, or else a free one."""

    @property
    def backend(self) -> NetBackend | None:
        """None: no netdev was named, or it has been taken away."""

    @property
    def link_up(self) -> bool:
        """The cable is in: what ``link_changed`` said last."""


class EntropySource(Protocol):
    """Random bytes for one device. On the loop, without the lock."""

    def read(self, count: int, done: Callable[[bytes], None]) -> None:
        """Ask for up to ``count`` bytes. ``done`` gets at least one of them, on the loop, maybe at once; never after
        ``cancel``. One request at a time."""

    def cancel(self) -> None:
        """Forget the request, if there is one."""


class MediaDevice(Protocol):
    """The device's side of a drive whose medium may come and go. Used on the loop with the DeviceLock held."""

    #: the drive can be open or closed; a floppy drive counts as open when it is empty
    has_tray: bool

    @property
    def tray_open(self) -> bool: ...

    @property
    def medium_locked(self) -> bool:
        """The guest does not want the medium to be taken out."""

    def medium_changed(self, load: bool) -> None:
        """The host closes the tray with what ``DriveHandle.backend`` is now (``load``), or opens it. Whether the tray
        has moved is seen in ``tray_open``, and announced by the caller."""

    def eject_request(self, force: bool) -> None:
        """The host would like to open a tray that is locked; ``force``: it is going to."""


class DriveHandle(Protocol):
    """A disk claimed by one device: backend, policy and statistics. From ``-drive`` or ``-blockdev``."""

    name: str  # -drive id; "" for a -blockdev node
    rerror: str  # "auto", "report", "ignore", "stop"
    werror: str  # the same, and "enospc"
    serial: str | None  # -drive serial=
    qdev: str | None  # QOM path of the device that has it, set by that device
    #: "ok"; "failed" or "nospace" while the VM is stopped by an error of this disk; None when its errors never stop
    io_status: str | None
    stats: BlockStats

    @property
    def backend(self) -> BlockBackend:
        """The medium of this moment; one of no bytes whose requests fail when there is none."""

    @property
    def inserted(self) -> bool:
        """There is a medium."""

    @property
    def node_name(self) -> str | None: ...

    def attach_media(self, device: MediaDevice) -> None:
        """The medium may be changed from now on; ``device`` is told. Nothing of the device is in flight when
        ``backend`` is exchanged: its ``on_quiesce`` callback has seen to that."""

    def head(self, count: int) -> bytes:
        """The first ``count`` bytes of the medium, fewer when they cannot be read. Blocks: while a machine is built."""

    def on_lost(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the medium is taken away: ``backend`` is then one that fails every request. Nothing is
        in flight at that moment. On the loop, without the DeviceLock."""


class BlockStats:
    """Counters of one disk, single writer: the loop."""

    __slots__ = (
        "failed_flush", "failed_rd", "failed_unmap", "failed_wr", "flush_ns", "flush_ops", "idle_since_ns",
        "invalid_rd", "invalid_unmap", "invalid_wr", "rd_bytes", "rd_merged", "rd_ns", "rd_ops",
        "unmap_bytes", "unmap_ns", "unmap_ops", "wr_bytes", "wr_highest_offset", "wr_merged", "wr_ns", "wr_ops",
    )  # fmt: skip

    def __init__(self) -> None:
        for name in self.__slots__:
            setattr(self, name, 0)

    if TYPE_CHECKING:
        failed_flush: int
        failed_rd: int
        failed_wr: int
        failed_unmap: int
        flush_ns: int
        flush_ops: int
        idle_since_ns: int
        invalid_rd: int
        invalid_wr: int
        invalid_unmap: int
        rd_bytes: int
        rd_merged: int
        rd_ns: int
        rd_ops: int
        unmap_bytes: int
        unmap_ns: int
        unmap_ops: int
        wr_bytes: int
        wr_highest_offset: int
        wr_merged: int
        wr_ns: int
        wr_ops: int
