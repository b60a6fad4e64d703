# SPDX-License-Identifier: Apache-2.0
"""Descriptors that a monitor's client names for a netdev: also by the name that it gave with getfd. Loop thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.net.descriptors import OutsideDescriptors

if TYPE_CHECKING:
    from vmmd.core.fdsets import FdSets
    from vmmd.qmp.passed_fds import PassedFds


class SessionDescriptors(OutsideDescriptors):
    """For one command."""

    def __init__(self, fds: PassedFds, fdsets: FdSets) -> None:
        super().__init__(fdsets)
        self._fds = fds
        self._claimed: dict[str, int] = {}

    def _named(self, text: str, netdev: str) -> int:
        if text[:1].isdigit():
            return super()._named(text, netdev)
        fd = self._claimed[text] = self._fds.claim(text)
        return fd

    def handed_over(self) -> None:
        super().handed_over()
        while self._claimed:
            self._claimed.popitem()
            self._fds.handed_over()

    def give_back(self) -> None:
        super().give_back()
        while self._claimed:
            self._fds.give_back(*self._claimed.popitem())
