# SPDX-License-Identifier: Apache-2.0
"""Descriptors that the process was started with, as options name them: by number."""

from __future__ import annotations

from vmmd.core.fdsets import is_inherited
from vmmd.errors import UsageError

_DIGITS_MAX = 9


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


class CommandLineDescriptors:
    """Of one command line (net.base.Descriptors): none is named twice."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def find(self, text: str, netdev: str) -> int:
        fd = inherited_descriptor(text, netdev)
        if fd in self._taken:
            raise UsageError(f"{netdev}: file descriptor {fd} is in use already", "each queue has one of its own")
        self._taken.add(fd)
        return fd

    def handed_over(self) -> None:
        """They were nobody else's."""
