# SPDX-License-Identifier: Apache-2.0
"""Netdev: the base of the network backends (core.backend.NetBackend); Queue: of their queues (NetQueue).

Life: construct → ``check`` (no side effect) → ``open`` → in use → ``stop`` → ``close``. ``open`` and ``close`` run at
the start and the end of the process, or on a thread while the machine runs; all else on the loop. A queue is *cut*
while the link is down at either end: what is sent is dropped, what comes is read and dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol

from vmmd.core.backend import NetOffload

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from vmmd.core.backend import CharBackend, NetFrontend
    from vmmd.core.events import EventSink
    from vmmd.core.notify import LoopPort
    from vmmd.core.vhost import VhostBackend, VhostState
    from vmmd.net.hub import Hub
    from vmmd.net.options import NetOptions


class Descriptors(Protocol):
    """Where descriptors that options name come from."""

    def find(self, text: str, netdev: str) -> int:
        """The descriptor called ``text``, by its number or by the name that a monitor's client gave it; it stays open
        until there is a word of its end. Raises VmmdError."""

    def handed_over(self) -> None:
        """All that ``find`` gave are the netdev's from now on."""

    def give_back(self) -> None:
        """There will be no netdev: close what ``find`` has opened for it, and give the rest back to its owners."""


class Host(NamedTuple):
    """What a netdev gets of the process."""

    loop: LoopPort
    lock: threading.Lock
    descriptors: Descriptors
    #: the character device of that id. Raises UsageError
    chardev: Callable[[str], CharBackend]
    #: ``told(netdev)`` when its ``link_up`` has changed by itself; on the loop, with the DeviceLock held
    link_changed: Callable[[Netdev], None]
    #: the netdev of that id, also one that is only planned
    find: Callable[[str], Netdev | None]
    #: by number
    hubs: dict[int, Hub]
    events: EventSink


class Queue(Protocol):
    """NetQueue, and what the network asks of it."""

    #: frames that the host refused, or that nobody was there for
    dropped: int

    def attach(self, frontend: NetFrontend) -> None: ...

    def detach(self) -> None: ...

    def read(self, buffers: Sequence[memoryview]) -> int: ...

    def write(self, buffers: Sequence[memoryview]) -> bool: ...

    def watch(self, wanted: bool) -> None: ...

    def set_cut(self, cut: bool) -> None:
        """The link is down at one end, or up at both."""


class NetUser(Protocol):
    """Who a netdev is connected to."""

    @property
    def name(self) -> str: ...


class Netdev:
    """One network backend without a header, without offloads. ``Subclass(options, host)``."""

    kind: ClassVar[str] = ""
    header_lengths: frozenset[int] = frozenset()
    offloads = NetOffload(0)

    def __init__(self, options: NetOptions, host: Host) -> None:
        self.id = options.id
        self.removable = options.removable
        self.host = host
        self.queues: Sequence[Queue] = ()
        self.vhost: VhostBackend | None = None
        self.alive = True  # what it leads to is there
        self.user: NetUser | None = None  # who it is connected to: a NIC's port, or a port of a hub
        self.order = 0  # in which it came, among all that the network has

    @property
    def link_up(self) -> bool:
        return self.alive

    @property
    def vhost_state(self) -> VhostState | None:
        """Whether rings are served outside, and why (not), for people; None: nobody asked for that."""
        return None if self.vhost is None else self.vhost.state

    @property
    def open_may_wait(self) -> bool:
        """``open`` waits for others: on a thread while the machine runs."""
        return False

    @property
    def close_may_wait(self) -> bool:
        """``close`` does."""
        return self.open_may_wait

    def describe(self, index: int) -> str:
        """What ``info network`` shows behind the type, for queue ``index``."""
        return ""

    def lines(self) -> list[str]:
        """How ``info network`` describes it, a line for each queue."""
        # QEMU-COMPAT: it is the NIC that numbers them
        numbers = [0 if self.user is None else index for index in range(len(self.queues))]
        head = f"type={self.kind},"
        return [f"{self.id}: index={shown},{head}{self.describe(index)}\n" for index, shown in enumerate(numbers)]

    def check(self) -> None:
        """What was inherited is what it must be. No side effect. Raises VmmdError."""

    def open(self) -> None:
        """Raises VmmdError, and leaves nothing behind then."""

    def abandon(self) -> None:
        """vmmd ends while ``open`` is under way on a thread: end the programs that it waits for. Loop thread."""

    def start(self) -> None:
        """After ``open``, on the loop or before it runs: it has entered the network, and the loop may watch it."""

    def stop(self) -> None:
        """Nothing is read or sent any more, and the loop watches nothing of it. Idempotent."""

    def close(self) -> None:
        """After ``stop``: give everything back. Idempotent; also after ``open`` has failed, or was not called."""

    def set_header(self, length_bytes: int) -> None:
        assert length_bytes == 0

    def set_offloads(self, accepted: NetOffload) -> None:
        assert not accepted

    def enable_queues(self, count: int) -> None:
        """The guest uses the first ``count`` queue pairs."""

    def set_cut(self, cut: bool) -> None:
        """The link is down at one end, or up at both. On the loop."""
        for queue in self.queues:
            queue.set_cut(cut)

    def set_alive(self, alive: bool) -> None:
        """What it leads to has come or gone. On the loop, without the lock."""
        if alive is not self.alive:
            with self.host.lock:
                self.alive = alive
                self.host.link_changed(self)
