# SPDX-License-Identifier: Apache-2.0
"""Reader of ``-netdev``; ``nics`` has ``-nic`` and ``-net``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.options import keyval
from vmmd.options.draft import asks_for_help, refuse_duplicate
from vmmd.options.netdev_base import LaterNetdev
from vmmd.options.netdevs import NETDEVS, NETDEVS_LATER
from vmmd.options.read_backends import by_table

if TYPE_CHECKING:
    from vmmd.options.draft import Draft
    from vmmd.options.netdev_base import NetdevOptions


def read_netdev(draft: Draft, option: str, text: str) -> None:
    """``-netdev TYPE,id=…`` or JSON."""
    asks_for_help(option, text)
    made = netdev_options(option, text)
    refuse_duplicate(option, "netdev", made.id, [other.id for other in draft.config.netdevs])
    draft.config.netdevs.append(made)


def netdev_options(option: str, text: str) -> NetdevOptions:
    """What ``TYPE,id=…``, or JSON, says. Raises UsageError; its sentence begins with ``option``."""
    argument = keyval.parse(option, text, "type", json=True)
    made: NetdevOptions = by_table(argument, "type", text, (NETDEVS, NETDEVS_LATER, LaterNetdev))
    return made
