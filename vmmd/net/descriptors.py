# SPDX-License-Identifier: Apache-2.0
"""Descriptors from outside, as the options of netdevs name them: inherited ones by number, ``/dev/fdset/N`` for one of
a set (-add-fd, add-fd; QEMU does not know that here). Loop thread, or start-up."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmmd.core.fdsets import PREFIX, is_inherited
from vmmd.errors import BackendError, UsageError

if TYPE_CHECKING:
    from vmmd.core.fdsets import FdSets

_DIGITS_MAX = 9


class OutsideDescriptors:
    """net.base.Descriptors: for one command, or one command line. None is named twice."""

    def __init__(self, fdsets: FdSets) -> None:
        self._fdsets = fdsets
        self._taken: set[str] = set()
        self._duplicates: list[int] = []  # ours until they are handed over

    def find(self, text: str, netdev: str) -> int:
        if text in self._taken:
            raise UsageError(f"{netdev}: file descriptor {text} is in use already", "each queue has one of its own")
        found = self._open(text, netdev) if text.startswith(PREFIX) else self._named(text, netdev)
        self._taken.add(text)
        return found

    def _named(self, text: str, netdev: str) -> int:
        """One that is no path. Raises VmmdError."""
        return inherited_descriptor(text, netdev)

    def _open(self, path: str, netdev: str) -> int:
        try:
            duplicate = self._fdsets.open(path, os.O_RDWR)
        except OSError as error:
            raise BackendError.from_os(f"{netdev}: Could not open '{path}'", error) from error
        self._duplicates.append(duplicate)
        return duplicate

    def handed_over(self) -> None:
        self._duplicates.clear()

    def give_back(self) -> None:
        while self._duplicates:
            os.close(self._duplicates.pop())


def inherited_descriptor(text: str, netdev: str) -> int:
    """The number that ``text`` says, when vmmd was started with that descriptor and nobody has taken it. Raises
    UsageError."""
    # QEMU-COMPAT: both sentences
    if not (text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX):
        raise UsageError(f"Invalid file descriptor number '{text}'")
    if not is_inherited(int(text)):
        sentence = f"{netdev}: Can't use file descriptor {text}: Bad file descriptor"
        raise UsageError(sentence, "vmmd was not started with it, or it is in use")
    return int(text)
