# SPDX-License-Identifier: Apache-2.0
"""Who has which ``bootindex``: each number belongs to one device. On the loop, or before it runs."""

from __future__ import annotations

from vmmd.errors import UsageError


class BootIndices:
    """The numbers that devices have taken."""

    def __init__(self) -> None:
        self._owners: dict[int, object] = {}

    def claim(self, owner: object, index: int | None) -> None:
        """Give ``index`` to ``owner``, who gives back the one it had; None and negative ones are none.
        Raises UsageError, and ``owner`` keeps what it had."""
        if index is not None and self._owners.get(index, owner) is not owner:
            # QEMU-COMPAT: the sentence
            raise UsageError(f"The bootindex {index} has already been used")
        self.release(owner)
        if index is not None and index >= 0:
            self._owners[index] = owner

    def release(self, owner: object) -> None:
        """``owner`` has none any more."""
        self._owners = {index: each for index, each in self._owners.items() if each is not owner}
