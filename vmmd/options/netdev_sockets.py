# SPDX-License-Identifier: Apache-2.0
"""``-netdev stream``, ``dgram`` and ``socket``. QEMU-COMPAT: the sentences of errors without a hint of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmmd.core import sockets
from vmmd.core.props import BOOL, STR, prop
from vmmd.errors import UsageError
from vmmd.options import keyval
from vmmd.options.addresses import (
    NET_NAME,
    SOCKET_ADDRESS,
    check_port_range,
    given_socket,
    host_and_port,
    inet_address,
    read_address,
)
from vmmd.options.fields import shown
from vmmd.options.netdev_base import NetdevOptions

if TYPE_CHECKING:
    from vmmd.options.addresses import SocketAddress
    from vmmd.options.fields import Items


class _WithAddresses(NetdevOptions):
    """Keys of kind SOCKET_ADDRESS are made from all that begin with them."""

    def take(self, items: Items, where: str, *, is_json: bool = False) -> None:
        for declared in self.each():
            if declared.kind is SOCKET_ADDRESS:
                key = declared.wire_name
                inside, items = keyval.split_prefix(items, f"{key}.")
                if inside or (key, {}) in items:
                    items = [item for item in items if item != (key, {})]
                    self.values[declared.name] = read_address(inside, key, where, is_json=is_json)
                    self.given.add(key)
        super().take(items, where, is_json=is_json)


class NetdevStream(_WithAddresses):
    kind = "stream"
    addr = prop(SOCKET_ADDRESS, None, "where to listen or connect: addr.type=inet, unix or fd, …", required=True)
    server = prop(BOOL, False, "listen instead of connecting")

    def check(self, where: str) -> None:
        super().check(where)
        check_port_range(where, self.addr.port, self.addr.to, server=self.server)


class NetdevDgram(_WithAddresses):
    kind = "dgram"
    local = prop(SOCKET_ADDRESS, None, "own address: local.type=inet, unix or fd, …")
    remote = prop(SOCKET_ADDRESS, None, "the peer's address, or a multicast group: remote.type=inet or unix, …")

    def check(self, where: str) -> None:
        super().check(where)
        local, remote = self.local, self.remote
        if local is None and not (remote is not None and sockets.is_group(remote.host)):
            raise UsageError(f"{where}: dgram requires local= parameter", "only a multicast group needs none")
        if local is not None and local.fd is not None:
            if remote is not None and not sockets.is_group(remote.host):
                raise UsageError(f"{where}: don't set remote with local.fd", "the socket is connected already")
            return
        if remote is None:
            raise UsageError(f"{where}: type=inet or type=unix requires remote parameter")
        if local is not None and local.type != remote.type:
            raise UsageError(f"{where}: remote and local types must be the same")
        for address in (local, remote):
            self._check_address(where, address)

    @staticmethod
    def _check_address(where: str, address: SocketAddress | None) -> None:
        if address is None:
            return
        if address.to is not None or address.keep_alive:
            raise UsageError(f"{where}: 'to' and 'keep-alive' are for streams")
        port = address.port
        if port is not None and not (port.isascii() and port.isdigit()):
            raise UsageError(f"{where}: port number '{shown(port)}' is invalid", "it is a number here")


_WAYS = ("fd", "listen", "connect", "mcast", "udp")


class NetdevSocket(NetdevOptions):
    """The older form of ``stream`` and ``dgram``, IPv4 only. ``addr`` and ``server``, or ``local`` and ``remote``, say
    the same as there."""

    kind = "socket"
    fd = prop(STR, None, "a connected stream or datagram socket")
    listen = prop(NET_NAME, None, "[HOST]:PORT to listen on")
    connect = prop(NET_NAME, None, "HOST:PORT to connect to")
    mcast = prop(NET_NAME, None, "GROUP:PORT, an IPv4 multicast group")
    localaddr = prop(NET_NAME, None, "with mcast=: address of the interface; with udp=: own [HOST]:PORT")
    udp = prop(NET_NAME, None, "HOST:PORT that datagrams go to")

    addr: Any = None
    server = False
    local: Any = None
    remote: Any = None

    def check(self, where: str) -> None:
        super().check(where)
        ways = [key for key in _WAYS if key in self.given]
        if len(ways) != 1:
            raise UsageError(f"{where}: exactly one of listen=, connect=, mcast= or udp= is required", "or fd=")
        if self.localaddr is not None and ways[0] not in ("mcast", "udp"):
            raise UsageError(f"{where}: localaddr= is only valid with mcast= or udp=")
        getattr(self, f"_read_{ways[0]}")(where)

    def _read_fd(self, where: str) -> None:
        self.addr = self.local = given_socket(str(self.fd))

    def _read_listen(self, where: str) -> None:
        self.addr = host_and_port(str(self.listen), where)
        self.server = True

    def _read_connect(self, where: str) -> None:
        self.addr = host_and_port(str(self.connect), where)

    def _read_udp(self, where: str) -> None:
        if self.localaddr is None:
            raise UsageError(f"{where}: localaddr= is mandatory with udp=", "[HOST]:PORT, where frames come in")
        self.local = host_and_port(self.localaddr, where)
        self.remote = host_and_port(str(self.udp), where)

    def _read_mcast(self, where: str) -> None:
        self.remote = host_and_port(str(self.mcast), where)
        if not sockets.is_group(self.remote.host):
            sentence = f"{where}: specified mcastaddr {shown(self.remote.host)} does not contain a multicast address"
            raise UsageError(sentence, "224.0.0.0 to 239.255.255.255")
        if self.localaddr is not None:
            if not sockets.is_ipv4(self.localaddr):
                raise UsageError(f"{where}: localaddr '{shown(self.localaddr)}' is not a valid IPv4 address")
            self.local = inet_address(self.localaddr, "0")
