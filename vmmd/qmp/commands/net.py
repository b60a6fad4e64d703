# SPDX-License-Identifier: Apache-2.0
"""Commands about network devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import DeviceNotFoundError, UsageError
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from vmmd.qmp.models.net import RxFilterInfo


@command("set_link", since="0.14", example=Example({"name": "net0", "up": False}, error="DeviceNotFound"))
def set_link(ctx: Context, *, name: str, up: bool) -> dict[str, object]:
    """Plug in or pull out the cable of a network device or backend."""
    # LIMIT: there are no network devices yet, so none has this name
    raise DeviceNotFoundError(f"Device '{name}' not found")


@command("query-rx-filter", since="1.6", example=Example())
def query_rx_filter(ctx: Context, *, name: str | None = None) -> list[RxFilterInfo]:
    """Which packets the guest has asked each network card for, or the card ``name``."""
    # LIMIT: there are no network devices yet
    if name is not None:
        # QEMU-COMPAT: the sentence
        raise UsageError(f"invalid net client name: {name}", "there is no network device")
    return []
