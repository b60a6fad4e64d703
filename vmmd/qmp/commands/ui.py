# SPDX-License-Identifier: Apache-2.0
"""Commands about displays. LIMIT: there are none yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.registry import Context, command

if TYPE_CHECKING:
    from vmmd.qmp.models.ui import DisplayOptions


@command("query-display-options", since="3.1")
def query_display_options(ctx: Context) -> DisplayOptions:
    """Where the guest's screen is shown (-display)."""
    return {"type": "none"}
