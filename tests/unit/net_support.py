# SPDX-License-Identifier: Apache-2.0
"""Netdevs without a machine: a loop that runs one turn at a time, a NIC that remembers, options from a command line."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from typing import TYPE_CHECKING, Any

from tests.unit.select_loop import Handle
from vmmd.core.fdsets import FdSets
from vmmd.net.base import Host
from vmmd.net.descriptors import OutsideDescriptors
from vmmd.net.network import Network
from vmmd.options.cmdline import parse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from vmmd.net.base import Netdev
    from vmmd.options.netdev_base import NetdevOptions

#: how long a frame may take through the kernel
PATIENCE_MS = 30_000


class TurnLoop:
    """LoopPort: ``turn`` waits for descriptors and calls back; what is posted runs first."""

    def __init__(self) -> None:
        self.readers: dict[int, Callable[[], None]] = {}
        self.writers: dict[int, Callable[[], None]] = {}
        self.posted: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self.later: list[tuple[int, Handle]] = []  # delay
        self.changes = 0  # times that the set of watched descriptors changed

    def post(self, callback: Callable[..., None], *args: object) -> None:
        self.posted.append((callback, args))

    def call_later(self, delay_ns: int, callback: Callable[..., None], *args: object) -> Handle:
        self.later.append((delay_ns, Handle(0, callback, args)))
        return self.later[-1][1]

    def run_later(self) -> None:
        """What ``call_later`` was asked for, now."""
        later, self.later = self.later, []
        for _, each in later:
            each.callback(*each.args)

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        self.changes += 1
        self.readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        self.changes += 1
        self.readers.pop(fd, None)

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        self.changes += 1
        self.writers[fd] = callback

    def remove_writer(self, fd: int) -> None:
        self.changes += 1
        self.writers.pop(fd, None)

    def on_loop_thread(self) -> bool:
        return True

    def turn(self, timeout_ms: int = 0) -> int:
        """One turn; how many callbacks ran."""
        posted, self.posted = self.posted, []
        for callback, args in posted:
            callback(*args)
        poller = select.poll()
        for fd in {*self.readers, *self.writers}:
            poller.register(
                fd, (select.POLLIN if fd in self.readers else 0) | (select.POLLOUT if fd in self.writers else 0)
            )
        ran = len(posted)
        for fd, events in poller.poll(0 if posted else timeout_ms):
            for watched, bit in ((self.readers, select.POLLIN), (self.writers, select.POLLOUT)):
                callback = watched.get(fd)
                if callback is not None and events & (bit | select.POLLERR | select.POLLHUP):
                    callback()
                    ran += 1
        return ran

    def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert self.turn(PATIENCE_MS), "nothing happens any more"


class FakeNic:
    """Nic, and NetFrontend of each queue: takes every frame."""

    type_name = "virtio-net-pci"
    inner_type = "virtio-net-device"

    def __init__(self, id_: str | None = "n0") -> None:
        self.id = id_
        self.current_mac = bytes(6)
        self.links: list[bool] = []
        self.removed = 0
        self.frames: list[bytes] = []
        self.rooms = 0
        self.takes = True
        self.announced = 0
        self.queue: Any = None

    def announce(self) -> None:
        self.announced += 1

    def use(self, queue: Any) -> None:
        self.queue = queue
        queue.attach(self)
        queue.watch(True)

    def readable(self) -> None:
        while True:
            buffer = bytearray(70_000)
            length = self.queue.read([memoryview(buffer)])
            if not length:
                return
            self.frames.append(bytes(buffer[:length]))

    def writable(self) -> None:
        self.rooms += 1

    def link_changed(self, up: bool) -> None:
        self.links.append(up)

    def backend_removed(self) -> None:
        self.removed += 1

    def take_rings_back(self, done: Callable[[], None]) -> None:
        done()


def options(*words: str) -> NetdevOptions:
    """Of ``-netdev`` WORDS."""
    return parse(["-nodefaults", "-netdev", ",".join(words)]).netdevs[0]


class NumberedFds(OutsideDescriptors):
    """Descriptors of this process by number, inheritable or not."""

    def __init__(self) -> None:
        super().__init__(FdSets())

    def find(self, text: str, netdev: str) -> int:
        with contextlib.suppress(OSError):
            os.set_inheritable(int(text), True)
        return super().find(text, netdev)


class Rig:
    """A network on a loop of its own."""

    def __init__(self) -> None:
        self.loop = TurnLoop()
        self.lock = threading.Lock()
        self.events: list[tuple[object, ...]] = []
        self.network = Network(self.loop, self.lock, self)  # type: ignore[arg-type]
        self.descriptors = NumberedFds()

    def emit(self, event: tuple[object, ...]) -> None:
        self.events.append(event)

    def add(self, *words: str) -> Netdev:
        made = self.network.plan(options(*words), self.descriptors)
        made.open()
        self.network.enter(made)
        return made

    def connect(self, nic: FakeNic, netdev: str | None) -> Any:
        with self.lock:
            return self.network.connect(nic, netdev, None)


def views(*parts: bytes) -> Sequence[memoryview]:
    return [memoryview(part) for part in parts]


__all__ = ["PATIENCE_MS", "FakeNic", "Host", "NumberedFds", "Rig", "TurnLoop", "options", "views"]
