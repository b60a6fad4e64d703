# SPDX-License-Identifier: Apache-2.0
"""``-chardev null``: output goes nowhere (but into the log, if there is one); there is no input."""

from __future__ import annotations

from vmmd.chardev.base import Chardev


class NullChardev(Chardev):
    @property
    def connected(self) -> bool:
        return False

    def write(self, data: bytes) -> int:
        return len(data) if self.log is None else super().write(data)
