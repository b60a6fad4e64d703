# SPDX-License-Identifier: Apache-2.0
"""Network: the netdevs and NICs of one machine by name, and who is connected to whom. Loop thread.

The DeviceLock is held where a NIC is told something, and by devices that come and go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from vmmd import net
from vmmd.core.background import on_thread
from vmmd.errors import DeviceNotFoundError, UsageError, VmmdError
from vmmd.log import get_logger
from vmmd.net.base import Host

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from vmmd.core.backend import CharBackend, Nic
    from vmmd.core.notify import LoopPort
    from vmmd.net.base import Descriptors, Netdev
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

    def __init__(self, nic: Nic, name: str, mac: bytes, backend: Netdev | None) -> None:
        self.nic = nic
        self.name = name
        self.mac = mac
        self.backend = backend
        self.link_up = True

    def set_link(self, up: bool) -> None:
        """The NIC's cable. DeviceLock held."""
        self.link_up = up
        self.nic.link_changed(up)


class Network:
    """All of one machine."""

    def __init__(
        self, loop: LoopPort, lock: threading.Lock, chardev: Callable[[str], CharBackend] = no_chardev
    ) -> None:
        """``chardev``: the character device of an id. Raises UsageError."""
        self._loop = loop
        self._lock = lock
        self._chardev = chardev
        self.netdevs: dict[str, Netdev] = {}
        self.ports: dict[str, Port] = {}
        self._coming: set[str] = set()  # ids of netdevs that are being opened
        self._down: set[str] = set()  # ids of netdevs whose cable is out (set_link)

    # --- netdevs ----------------------------------------------------------------------------------------------

    def plan(self, options: NetOptions, descriptors: Descriptors) -> Netdev:
        """The netdev of one option, checked; nothing is opened. Raises VmmdError."""
        made = net.create(options, Host(self._loop, self._lock, descriptors, self._chardev, self._link_changed))
        made.check()
        return made

    def enter(self, netdev: Netdev) -> None:
        """One that is open."""
        self.netdevs[netdev.id] = netdev

    async def add(self, options: NetOptions, descriptors: Descriptors) -> None:
        """A new netdev while the machine runs. Raises VmmdError, and leaves nothing behind then."""
        id_ = options.id
        if id_ in self.netdevs or id_ in self._coming:
            # QEMU-COMPAT: the sentence
            raise UsageError(f"Duplicate ID '{id_}' for netdev", "netdev_del frees it")
        if len(self.netdevs) + len(self._coming) >= MAX_NETDEVS:
            raise UsageError(f"There are {MAX_NETDEVS} netdevs already", "netdev_del takes one away")
        made = self.plan(options, descriptors)
        self._coming.add(id_)
        try:
            if made.open_may_wait:
                await on_thread(self._loop, made.open, f"open/{id_}")
            else:
                made.open()
        finally:
            self._coming.discard(id_)
        descriptors.handed_over()
        self.enter(made)

    async def remove(self, id_: str) -> None:
        """Take a netdev away, also from under its NIC. Raises VmmdError."""
        found = self.netdevs.get(id_)
        if found is None:
            raise DeviceNotFoundError(f"Device '{id_}' not found")
        for port in self.ports.values():
            if port.backend is found:
                with self._lock:
                    port.nic.backend_removed()
                    port.backend = None
        found.stop()
        del self.netdevs[id_]
        self._down.discard(id_)
        if found.open_may_wait:
            await on_thread(self._loop, found.close, f"close/{id_}")
        else:
            found.close()

    def close(self) -> None:
        """The machine has ended."""
        while self.netdevs:
            _, each = self.netdevs.popitem()
            try:
                each.stop()
                each.close()
            except Exception:
                log.exception("at the end of netdev %s", each.id)

    # --- NICs -------------------------------------------------------------------------------------------------

    def connect(self, nic: Nic, id_: str | None, mac: bytes | None) -> Port:
        """DeviceLock held. Raises UsageError."""
        backend = None if id_ is None else self._free(id_, nic.type_name)
        port = Port(nic, self._name(nic), self._mac(mac), backend)
        self.ports[port.name] = port
        if backend is not None:
            self._tell_cut(port)
        return port

    def disconnect(self, port: Port) -> None:
        """The NIC goes. DeviceLock held."""
        self.ports.pop(port.name, None)
        if port.backend is not None:
            for queue in port.backend.queues:
                queue.detach()
            port.backend.set_cut(False)
            port.backend.set_header(0)
            port.backend = None

    def _free(self, id_: str, user: str) -> Netdev:
        found = self.netdevs.get(id_)
        # QEMU-COMPAT: both sentences
        if found is None:
            raise UsageError(f"Property '{user}.netdev' can't find value '{id_}'", "no netdev has this id")
        other = next((port for port in self.ports.values() if port.backend is found), None)
        if other is not None:
            raise UsageError(f"Property '{user}.netdev' can't take value '{id_}', it's in use", f"{other.name} has it")
        return found

    def _name(self, nic: Nic) -> str:
        if nic.id is not None:
            return nic.id
        # QEMU-COMPAT: counted by model
        others = sum(port.nic.type_name == nic.type_name for port in self.ports.values())
        names = (f"{nic.type_name}.{number}" for number in range(others, others + len(self.ports) + 1))
        return next(name for name in names if name not in self.ports)

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
        if netdev is not None:
            (self._down.discard if up else self._down.add)(name)
            port = port or next((each for each in self.ports.values() if each.backend is netdev), None)
        if port is not None:
            with self._lock:
                port.set_link(up)
                self._tell_cut(port)

    def _tell_cut(self, port: Port) -> None:
        if port.backend is not None:
            port.backend.set_cut(not port.link_up or port.backend.id in self._down)

    def _link_changed(self, netdev: Netdev) -> None:
        """A netdev's peer has come or gone. DeviceLock held."""
        for port in self.ports.values():
            if port.backend is netdev:
                port.set_link(netdev.link_up)


class CommandLineDescriptors:
    """Descriptors that the process was started with, by number."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def find(self, text: str, netdev: str) -> int:
        from vmmd.core.fdsets import is_inherited

        if not (text.isascii() and text.isdigit() and len(text) < 10):
            # QEMU-COMPAT: the sentence
            raise UsageError(f"File descriptor named '{text}' has not been found", "it takes a number")
        fd = int(text)
        if not is_inherited(fd):
            raise VmmdError(f"{netdev}: Can't use file descriptor {fd}: Bad file descriptor", "vmmd was not given it")
        if fd in self._taken:
            raise UsageError(f"file descriptor {fd} is in use already", "each queue has one of its own")
        self._taken.add(fd)
        return fd

    def handed_over(self) -> None:
        """They were nobody else's."""
