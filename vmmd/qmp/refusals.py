# SPDX-License-Identifier: Apache-2.0
"""What a request is refused with: QAPI's sentence, which clients may know, then what would be accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import UnknownCommandError, UsageError, did_you_mean
from vmmd.options.fields import listed

if TYPE_CHECKING:
    from collections.abc import Collection


def unknown_command(name: str, commands: Collection[str]) -> UnknownCommandError:
    """There is no such command."""
    return UnknownCommandError(f"The command {name} has not been found", did_you_mean(name, commands))


def unexpected(path: str, known: Collection[str] | None = None) -> UsageError:
    """A member that the object at this place does not have; ``known`` are those that it has, where that is known."""
    hint = None
    if known is not None:
        hint = did_you_mean(path, known) or (f"known are: {listed(known)}" if known else "there are no arguments")
    return UsageError(f"Parameter '{path}' is unexpected", hint)


def not_a_word(shown: str, value: str, words: Collection[str]) -> UsageError:
    """A text that is none of the words of an enumeration."""
    hint = did_you_mean(value, words) or f"it takes {listed(words)}"
    return UsageError(f"Parameter '{shown}' does not accept value '{value}'", hint)
