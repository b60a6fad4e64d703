# SPDX-License-Identifier: Apache-2.0
"""QAPI types of network devices."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

RxState = Literal["normal", "none", "all"]

RxFilterInfo = TypedDict(
    "RxFilterInfo",
    {
        "name": str,
        "promiscuous": bool,
        "multicast": RxState,
        "unicast": RxState,
        "vlan": RxState,
        "broadcast-allowed": bool,
        "multicast-overflow": bool,
        "unicast-overflow": bool,
        "main-mac": str,
        "vlan-table": list[int],
        "unicast-table": list[str],
        "multicast-table": list[str],
    },
)
"""Which packets the guest has asked its network card for."""
