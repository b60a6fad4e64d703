# SPDX-License-Identifier: Apache-2.0
"""Descriptors that a monitor's client names for a netdev: by the name that it gave with getfd, or by number, if vmmd
was started with it (net.base.Descriptors). Loop thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import UsageError
from vmmd.net.descriptors import inherited_descriptor

if TYPE_CHECKING:
    from vmmd.qmp.passed_fds import PassedFds


class SessionDescriptors:
    """For one command."""

    def __init__(self, fds: PassedFds) -> None:
        self._fds = fds
        self._names: list[str] = []

    def find(self, text: str, netdev: str) -> int:
        if text[:1].isdigit():
            return inherited_descriptor(text, netdev)
        fd = self._fds.named(text)
        if text in self._names:
            raise UsageError(f"File descriptor named '{text}' is used twice", "each queue has one of its own")
        self._names.append(text)
        return fd

    def handed_over(self) -> None:
        while self._names:
            self._fds.handed_over(self._names.pop())
