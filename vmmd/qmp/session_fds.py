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
        self._names: set[str] = set()

    def _named(self, text: str, netdev: str) -> int:
        if text[:1].isdigit():
            return super()._named(text, netdev)
        fd = self._fds.named(text)
        self._names.add(text)
        return fd

    def handed_over(self) -> None:
        super().handed_over()
        while self._names:
            self._fds.handed_over(self._names.pop())
