# SPDX-License-Identifier: Apache-2.0
"""What netdevs see of their options: the parts of ``options.netdevs``' models that are read here.

The models declare and convert; this package may not import them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence
    from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

    from vmmd.core.sockets import Address

    class NetOptions(Protocol):
        """Of every netdev."""

        @property
        def kind(self) -> str: ...
        @property
        def id(self) -> str: ...
        @property
        def removable(self) -> bool: ...

    class VhostUserOptions(NetOptions, Protocol):
        @property
        def chardev(self) -> str: ...
        @property
        def queues(self) -> int | None: ...

    class HubportOptions(NetOptions, Protocol):
        @property
        def hubid(self) -> int: ...
        @property
        def netdev(self) -> str | None: ...

    class BridgeOptions(NetOptions, Protocol):
        @property
        def br(self) -> str: ...
        @property
        def helper(self) -> str: ...

    class TapOptions(NetOptions, Protocol):
        @property
        def fd(self) -> str | None: ...
        @property
        def fds(self) -> str | None: ...
        @property
        def ifname(self) -> str | None: ...
        @property
        def script(self) -> str | None: ...
        @property
        def downscript(self) -> str | None: ...
        @property
        def br(self) -> str | None: ...
        @property
        def helper(self) -> str | None: ...
        @property
        def sndbuf(self) -> int | None: ...
        @property
        def vnet_hdr(self) -> bool | None: ...
        @property
        def vhost(self) -> bool | None: ...
        @property
        def vhostfd(self) -> str | None: ...
        @property
        def vhostfds(self) -> str | None: ...
        @property
        def vhostforce(self) -> bool | None: ...
        @property
        def poll_us(self) -> int | None: ...
        @property
        def queues(self) -> int | None: ...

    class SocketAddress(Address, Protocol):
        """What is not None says of which kind it is: ``path``, ``host`` or ``fd``."""

        @property
        def keep_alive(self) -> bool: ...
        @property
        def fd(self) -> str | None: ...

    class StreamOptions(NetOptions, Protocol):
        @property
        def addr(self) -> SocketAddress: ...
        @property
        def server(self) -> bool: ...

    class DgramOptions(NetOptions, Protocol):
        """One of them is not None."""

        @property
        def local(self) -> SocketAddress | None: ...
        @property
        def remote(self) -> SocketAddress | None: ...

    class LegacySocketOptions(StreamOptions, DgramOptions, Protocol):
        """One of ``fd``, ``addr`` and ``remote`` is not None."""

        @property
        def fd(self) -> str | None: ...

    class Ipv4(Protocol):
        @property
        def network(self) -> IPv4Network: ...
        @property
        def host(self) -> IPv4Address: ...
        @property
        def guest(self) -> IPv4Address: ...

    class Ipv6(Protocol):
        @property
        def network(self) -> IPv6Network: ...
        @property
        def host(self) -> IPv6Address: ...
        @property
        def guest(self) -> IPv6Address: ...
        @property
        def demanded(self) -> bool: ...

    class Forward(Protocol):
        """Connections to ``host_port`` of the host go to ``guest_port`` of the guest."""

        @property
        def protocol(self) -> str: ...
        @property
        def host(self) -> str: ...
        @property
        def host_port(self) -> int: ...
        @property
        def guest_port(self) -> int: ...
        @property
        def rule(self) -> str: ...

    class UserNetwork(Protocol):
        @property
        def ipv4(self) -> Ipv4 | None: ...
        @property
        def ipv6(self) -> Ipv6 | None: ...
        @property
        def search(self) -> Sequence[str]: ...
        @property
        def restrict(self) -> bool: ...
        @property
        def forwards(self) -> Sequence[Forward]: ...

    class UserOptions(NetOptions, Protocol):
        @property
        def network(self) -> UserNetwork: ...


class TapFromHelper(NamedTuple):
    """``TapOptions`` of a tap that a bridge helper makes."""

    id: str
    helper: str
    br: str
    removable: bool
    kind: str = "tap"
    fd: str | None = None
    fds: str | None = None
    ifname: str | None = None
    script: str | None = None
    downscript: str | None = None
    sndbuf: int | None = None
    vnet_hdr: bool | None = None
    queues: int | None = None
    vhost: bool | None = None
    vhostfd: str | None = None
    vhostfds: str | None = None
    vhostforce: bool | None = None
    poll_us: int | None = None
