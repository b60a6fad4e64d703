# SPDX-License-Identifier: Apache-2.0
"""Network backends: ``create`` makes one from the options of ``-netdev``.

    netdev = create(options, host)  # nothing is touched
    netdev.check()                  # what was inherited is what it has to be; VmmdError
    netdev.open()                   # may block: BackendError
    netdev.start()                  # in use from now on
    netdev.close()                  # may block

``network.Network`` keeps them, the NICs, and who is connected to whom.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from vmmd.errors import UsageError

if TYPE_CHECKING:
    from vmmd.net.base import Host, Netdev
    from vmmd.net.options import NetOptions

#: word after ``-netdev`` -> its module and class; imported when first used
KINDS = {
    "bridge": "vmmd.net.tap:BridgeNetdev",
    "dgram": "vmmd.net.dgram:DgramNetdev",
    "hubport": "vmmd.net.hub:HubPort",
    "socket": "vmmd.net.legacy:create",
    "stream": "vmmd.net.stream:StreamNetdev",
    "tap": "vmmd.net.tap:TapNetdev",
    "user": "vmmd.net.user:UserNetdev",
    "vhost-user": "vmmd.net.vhost_user.netdev:VhostUserNetdev",
}


def create(options: NetOptions, host: Host) -> Netdev:
    """The netdev that ``options`` describe; nothing is opened yet. Raises UsageError for keys that do not go
    together."""
    known = KINDS.get(options.kind)
    if known is None:
        raise UsageError(f"network backend '{options.kind}' is not available in this version")
    module, _, name = known.partition(":")
    made: Netdev = getattr(importlib.import_module(module), name)(options, host)
    return made
