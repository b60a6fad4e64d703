# SPDX-License-Identifier: Apache-2.0
"""``-chardev null``: output goes nowhere (but into the log, if there is one); there is no input."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.chardev.base import Chardev

if TYPE_CHECKING:
    from collections.abc import Sequence


class NullChardev(Chardev):
    @property
    def connected(self) -> bool:
        return False

    def write_views(self, views: Sequence[memoryview]) -> int:
        return sum(map(len, views)) if self.log is None else super().write_views(views)

    def write(self, data: bytes) -> int:
        return len(data) if self.log is None else super().write(data)
