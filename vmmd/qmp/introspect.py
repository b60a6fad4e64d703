# SPDX-License-Identifier: Apache-2.0
"""What the monitor tells about itself, derived from the command registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.registry import load

if TYPE_CHECKING:
    from vmmd.qmp.models.control import CommandInfo


def command_list() -> list[CommandInfo]:
    """Every command there is, for ``query-commands``."""
    return [{"name": name} for name in load()]
