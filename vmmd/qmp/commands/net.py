# SPDX-License-Identifier: Apache-2.0
"""Commands about network devices."""

from __future__ import annotations

from vmmd.errors import DeviceNotFoundError
from vmmd.qmp.registry import Context, Example, command


@command("set_link", since="0.14", example=Example({"name": "net0", "up": False}, error="DeviceNotFound"))
def set_link(ctx: Context, *, name: str, up: bool) -> dict[str, object]:
    """Plug in or pull out the cable of a network device or backend."""
    # LIMIT: there are no network devices yet, so none has this name
    raise DeviceNotFoundError(f"Device '{name}' not found")
