# SPDX-License-Identifier: Apache-2.0
"""``-netdev socket``, the older form of ``stream`` and ``dgram``: which of them its keys mean."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from vmmd.net.dgram import LegacyDgramNetdev
from vmmd.net.inherited import InheritedSocket
from vmmd.net.stream import LegacyStreamNetdev

if TYPE_CHECKING:
    from vmmd.net.base import Host, Netdev
    from vmmd.net.options import LegacySocketOptions


def create(options: LegacySocketOptions, host: Host) -> Netdev:
    """Raises VmmdError when ``fd=`` is no socket."""
    if options.fd is not None:
        given = InheritedSocket(host.descriptors, options.fd, options.id)
        if given.type == socket.SOCK_STREAM:
            return LegacyStreamNetdev(options, host, given)
        return LegacyDgramNetdev(options, host, given)
    return LegacyStreamNetdev(options, host) if options.addr is not None else LegacyDgramNetdev(options, host)
