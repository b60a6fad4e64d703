# SPDX-License-Identifier: Apache-2.0
"""Commands about migration. LIMIT: there is none yet; libvirt switches on its events at every start."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import StateError
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from vmmd.qmp.models.migration import MigrationCapabilityStatus


@command("query-migrate-capabilities", since="1.2")
def query_migrate_capabilities(ctx: Context) -> list[MigrationCapabilityStatus]:
    """What can be switched on for migrations, and is it?"""
    return [{"capability": "events", "state": ctx.vm.migration_events}]


@command(
    "migrate-set-capabilities",
    since="1.2",
    example=Example({"capabilities": [{"capability": "events", "state": True}]}),
)
def migrate_set_capabilities(ctx: Context, *, capabilities: list[MigrationCapabilityStatus]) -> dict[str, object]:
    """Switch capabilities on or off. ``events``: a migration sends an event at each step."""
    for each in capabilities:
        ctx.vm.migration_events = each["state"]
    return {}


@command("migrate-pause", since="3.0", oob=True, example=Example(error="GenericError"))
def migrate_pause(ctx: Context) -> dict[str, object]:
    """Interrupt a postcopy migration whose network hangs."""
    # QEMU-COMPAT: the sentence
    raise StateError("migrate-pause is currently only supported during postcopy-active state", "no migration runs")
