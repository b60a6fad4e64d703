# SPDX-License-Identifier: Apache-2.0
"""Markdown made from the declarations: the README's table of options. Used by ``scripts/generate-docs``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.options import backends, netdevs, objects
from vmmd.options.table import OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterable


def options_table() -> str:
    """Supported options by group as a Markdown table, then the names of those that come later."""
    lines = ["| Option | What it does |", "|---|---|"]
    group = None
    for spec in OPTIONS:
        if spec.later:
            continue
        if spec.group != group:
            group = spec.group
            lines.append(f"| **{group}** | |")
        head = f"-{spec.name}" + (f" {spec.metavar}" if spec.metavar is not None else "")
        lines.append(f"| `{_cell(head)}` | {_cell(spec.help)} |")
    lines += ["", "Refused by name, not available in this version: " + _names(f"-{s.name}" for s in OPTIONS if s.later)]
    return "\n".join(lines) + "\n"


def backends_table() -> str:
    """Character devices, block drivers and objects as a Markdown table."""
    rows: tuple[tuple[str, Iterable[str], Iterable[str]], ...] = (
        ("-chardev", backends.CHARDEVS, backends.CHARDEVS_LATER),
        ("-blockdev", backends.BLOCKDEVS, backends.BLOCKDEVS_LATER),
        ("-object", objects.OBJECTS, objects.OBJECTS_LATER),
        ("-netdev", netdevs.NETDEVS, netdevs.NETDEVS_LATER),
    )
    lines = ["| Option | Available | Later |", "|---|---|---|"]
    lines += [f"| `{option}` | {_names(now)} | {_names(later)} |" for option, now, later in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
