# SPDX-License-Identifier: Apache-2.0
"""Completion of arguments that are those of an option: ``virtio-blk-pci,drive=disk0,ser`` + Tab."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    #: ids that a key may have as its value, by key
    Values = Mapping[str, Iterable[str]]


def option_words(
    word: str, kinds: Iterable[str], keys_of: Callable[[str], Iterable[str]], values: Values | None = None
) -> Iterable[str]:
    """What ``KIND[,key=value]…`` may go on with: kinds, then keys of the kind, and after some keys their values."""
    kind, comma, _ = word.partition(",")
    if not comma:
        return kinds
    before, _, last = word.rpartition(",")
    key, equals, _ = last.partition("=")
    if equals:
        return [f"{before},{key}={value}" for value in (values or {}).get(key, ())]
    return [f"{before},{name}=" for name in keys_of(kind)]
