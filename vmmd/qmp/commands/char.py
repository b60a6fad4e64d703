# SPDX-License-Identifier: Apache-2.0
"""Commands about character devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.registry import Context, command

if TYPE_CHECKING:
    from vmmd.qmp.models.char import ChardevInfo


@command("query-chardev", since="0.14")
def query_chardev(ctx: Context) -> list[ChardevInfo]:
    """The character devices and where they lead."""
    return [
        {"label": label, "filename": device.filename, "frontend-open": device.frontend_open}
        for label, device in ctx.vm.chardevs.items()
    ]
