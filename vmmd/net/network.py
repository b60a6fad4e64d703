# SPDX-License-Identifier: Apache-2.0
"""Network: the netdevs and NICs of one machine by name, and who is connected to whom. Loop thread.

The DeviceLock is held where a NIC is told something, and by devices that come and go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from vmmd import net
from vmmd.core.background import on_thread
from vmmd.errors import DeviceNotFoundError, UsageError
from vmmd.log import get_logger
from vmmd.net.announce import Announcer
from vmmd.net.base import Host
from vmmd.net.hub import HubPort

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from vmmd.core.backend import CharBackend, Nic
    from vmmd.core.events import EventSink
    from vmmd.core.notify import LoopPort
    from vmmd.net.base import Descriptors, Netdev
    from vmmd.net.hub import Hub
    from vmmd.net.options import NetOptions

log = get_logger("vmmd.net")

#: as many at most; each may take 256 queues
MAX_NETDEVS = 1024
#: QEMU-COMPAT: the first address of NICs that were given none; the last byte counts
_FIRST_MAC = bytes.fromhex("525400123456")
_LAST_BYTE_MAX = 0xFE


def no_chardev(id_: str) -> NoReturn:
    """The character device of a machine that has none. Raises UsageError."""
    # QEMU-COMPAT: the sentence
    raise UsageError(f'chardev "{id_}" not found', "-chardev socket or chardev-add makes one")


class Port:
    """One NIC's place (core.backend.NicPort)."""

    def __init__(self, nic: Nic, names: list[str], mac: bytes, order: int) -> None:
        self.nic = nic
        self.names = names  # of its queues; with an id they are the same
        self.mac = mac
        self.order = order
        self.backend: Netdev | None = None
        self.plugged = True  # the cable is in
        #: how ``info network`` described the netdev that was taken away from the NIC
        self.removed: list[str] = []
        self.was_at_hub = False  # it was the port of a hub

    @property
    def name(self) -> str:
        return self.names[0]

    @property
    def link_up(self) -> bool:
        """The cable is in, and leads somewhere."""
        return self.plugged and (self.backend is None or self.backend.link_up)

    def show_link(self) -> None:
        """Tell the NIC. DeviceLock held."""
        self.nic.link_changed(self.link_up)


class Network:
    """All of one machine."""

    def __init__(
        self,
        loop: LoopPort,
        lock: threading.Lock,
        events: EventSink,
        chardev: Callable[[str], CharBackend] = no_chardev,
    ) -> None:
        """``chardev``: the character device of an id. Raises UsageError."""
        self._loop = loop
        self._lock = lock
        self._events = events
        self._chardev = chardev
        self.netdevs: dict[str, Netdev] = {}
        self.ports: dict[str, Port] = {}
        self.hubs: dict[int, Hub] = {}
        self._planned: dict[str, Netdev] = {}  # of the command line, not open yet
        self._passing: set[str] = set()  # ids of netdevs that are being opened, or closed
        self._opening: set[Netdev] = set()  # by threads
        self._leaving: set[Netdev] = set()  # that have yet to give rings back
        self._down: set[str] = set()  # ids of netdevs whose cable is out (set_link)
        self._came = 0  # as many netdevs and NICs have come
        self.announcer = Announcer(loop, lambda: [(port.name, port.nic) for port in self.ports.values()])

    def in_order(self) -> list[Port | Netdev]:
        """All, as they came."""
        return sorted([*self.netdevs.values(), *self.ports.values()], key=lambda each: each.order)

    def _next(self) -> int:
        self._came += 1
        return self._came

    # --- netdevs ----------------------------------------------------------------------------------------------

    def plan(self, options: NetOptions, descriptors: Descriptors) -> Netdev:
        """The netdev of one option, checked; nothing is opened. Those planned later may name it. Raises VmmdError."""
        made = self._planned[options.id] = self._checked(options, descriptors)
        return made

    def enter(self, netdev: Netdev) -> None:
        """One that is open."""
        self._planned.pop(netdev.id, None)
        netdev.order = self._next()
        netdev.start()
        self.netdevs[netdev.id] = netdev

    async def add(self, options: NetOptions, descriptors: Descriptors) -> None:
        """A new netdev while the machine runs. Raises VmmdError, and leaves nothing behind then."""
        id_ = options.id
        if id_ in self.netdevs or id_ in self._passing:
            # QEMU-COMPAT: the sentence
            raise UsageError(f"Duplicate ID '{id_}'", "netdev_del frees it")
        if len(self.netdevs) + len(self._passing) >= MAX_NETDEVS:
            raise UsageError(f"There are {MAX_NETDEVS} netdevs already", "netdev_del takes one away")
        self._passing.add(id_)
        try:
            made = await self._opened(options, descriptors)
            try:
                self.enter(made)
            except BaseException:
                await self._end(made)
                raise
        finally:
            self._passing.discard(id_)

    async def _opened(self, options: NetOptions, descriptors: Descriptors) -> Netdev:
        """A new netdev; the descriptors are its own. Raises VmmdError, and leaves nothing behind then."""
        try:
            made = self._checked(options, descriptors)
            await self._open(made)
        except BaseException:
            descriptors.give_back()
            raise
        descriptors.handed_over()
        return made

    async def _end(self, netdev: Netdev) -> None:
        """Nobody uses it any more."""
        netdev.stop()
        if netdev.close_may_wait:
            await on_thread(self._loop, netdev.close, f"close/{netdev.id}")
        else:
            netdev.close()

    async def _open(self, netdev: Netdev) -> None:
        if not netdev.open_may_wait:
            netdev.open()
            return
        self._opening.add(netdev)
        try:
            await on_thread(self._loop, netdev.open, f"open/{netdev.id}")
        finally:
            self._opening.discard(netdev)

    def _checked(self, options: NetOptions, descriptors: Descriptors) -> Netdev:
        host = Host(
            self._loop, self._lock, descriptors, self._chardev, self._link_changed, self._find, self.hubs, self._events
        )
        made = net.create(options, host)
        made.check()
        return made

    def _find(self, id_: str) -> Netdev | None:
        return self.netdevs.get(id_) or self._planned.get(id_)

    async def remove(self, id_: str) -> None:
        """Take a netdev away, also from under its NIC. Raises VmmdError."""
        found = self.netdevs.get(id_)
        if found is None:
            raise DeviceNotFoundError(f"Device '{id_}' not found")
        if not found.removable:
            # QEMU-COMPAT: the sentence
            raise UsageError(f"Device '{id_}' is not a netdev", "-net made it for good")
        del self.netdevs[id_]
        self._down.discard(id_)
        self._passing.add(id_)
        try:
            if isinstance(found.user, Port):
                await self._take_away(found.user, found)
            elif isinstance(found.user, HubPort):
                found.user.lose_uplink()
            await self._end(found)
        finally:
            self._passing.discard(id_)

    async def _take_away(self, port: Port, netdev: Netdev) -> None:
        """The netdev of a NIC goes. It may be stopped then."""
        port.removed, port.was_at_hub = netdev.lines(), isinstance(netdev, HubPort)
        with self._lock:
            port.plugged = False
            port.nic.backend_removed()
            port.backend = netdev.user = None
        if netdev.vhost is not None:
            back = self._loop.create_future()
            self._leaving.add(netdev)
            port.nic.take_rings_back(lambda: back.set_result(None))
            await back
            self._leaving.discard(netdev)

    def close(self) -> None:
        """The machine has ended."""
        self.announcer.close()
        for coming in self._opening:
            coming.abandon()
        ending = [*self._leaving, *reversed(self.netdevs.values())]
        self.netdevs.clear()
        for each in ending:
            try:
                each.stop()
                each.close()
            except Exception:
                log.exception("at the end of netdev %s", each.id)

    # --- NICs -------------------------------------------------------------------------------------------------

    def connect(self, nic: Nic, id_: str | None, mac: bytes | None) -> Port:
        """DeviceLock held. Raises UsageError."""
        backend = None if id_ is None else self._free(id_, nic.inner_type or nic.type_name)
        queues = 1 if backend is None else max(len(backend.queues), 1)
        names = self._names(nic, queues)
        if names[0] in self.ports:
            raise UsageError(f"NIC name '{names[0]}' is in use", "a NIC without an id has it")
        port = Port(nic, names, self._mac(mac), self._next())
        self.ports[port.name] = port
        if backend is not None:
            port.backend, backend.user = backend, port
            self._tell_cut(backend)
        return port

    def disconnect(self, port: Port) -> None:
        """The NIC goes. DeviceLock held."""
        self.ports.pop(port.name, None)
        backend, port.backend = port.backend, None
        if backend is not None:
            for queue in backend.queues:
                queue.detach()
            backend.user = None
            backend.set_header(0)
            self._tell_cut(backend)

    def _free(self, id_: str, user: str) -> Netdev:
        found = self.netdevs.get(id_)
        # QEMU-COMPAT: both sentences
        if found is None:
            raise UsageError(f"Property '{user}.netdev' can't find value '{id_}'", "no netdev has this id")
        if found.user is not None:
            sentence = f"Property '{user}.netdev' can't take value '{id_}', it's in use"
            raise UsageError(sentence, f"{found.user.name} has it")
        return found

    def _names(self, nic: Nic, queues: int) -> list[str]:
        if nic.id is not None:
            return [nic.id] * queues
        # QEMU-COMPAT: queues are counted by model
        first = sum(len(port.names) for port in self.ports.values() if port.nic.type_name == nic.type_name)
        while f"{nic.type_name}.{first}" in self.ports:
            first += 1
        return [f"{nic.type_name}.{number}" for number in range(first, first + queues)]

    def _mac(self, wanted: bytes | None) -> bytes:
        if wanted is not None:
            return wanted
        used = {port.mac for port in self.ports.values()}
        for last in range(_FIRST_MAC[5], _LAST_BYTE_MAX + 1):
            mac = _FIRST_MAC[:5] + bytes([last])
            if mac not in used:
                return mac
        return _FIRST_MAC[:5] + b"\xff"

    # --- links ------------------------------------------------------------------------------------------------

    def set_link(self, name: str, up: bool) -> None:
        """Plug in or pull out the cable of a NIC or netdev. Raises DeviceNotFoundError."""
        port = self.ports.get(name)
        netdev = self.netdevs.get(name)
        if port is None and netdev is None:
            raise DeviceNotFoundError(f"Device '{name}' not found")
        ports = [] if port is None else [port]
        if netdev is not None:
            (self._down.discard if up else self._down.add)(name)
            if isinstance(netdev.user, Port):
                ports.append(netdev.user)
        with self._lock:
            for each in ports:
                each.plugged = up
                each.show_link()
            for changed in (netdev, *(each.backend for each in ports)):
                if changed is not None:
                    self._tell_cut(changed)

    def is_down(self, netdev: Netdev) -> bool:
        """set_link has pulled its cable."""
        return netdev.id in self._down

    def _tell_cut(self, netdev: Netdev) -> None:
        netdev.set_cut(self.is_down(netdev) or (isinstance(netdev.user, Port) and not netdev.user.plugged))

    def _link_changed(self, netdev: Netdev) -> None:
        """A netdev's peer has come or gone. DeviceLock held."""
        if isinstance(netdev.user, Port):
            netdev.user.show_link()
