# SPDX-License-Identifier: Apache-2.0
"""A descriptor chain as popped from a virtqueue, and what device models do with it.

``Chain`` is a flat tuple, because thousands a second are made: ``(head, readable, gpa0, length0, gpa1, length1, …)``.
The first ``readable`` pairs are device-readable, the rest device-writable; no length is 0; addresses and lengths are
the guest's and unchecked (below 2⁶⁴ and 2³²).
"""

from __future__ import annotations

from vmmd.core.memory import GuestAddressError, GuestMemory

Chain = tuple[int, ...]
Pairs = list[tuple[int, int]]


def split(chain: Chain) -> tuple[Pairs, Pairs]:
    """The readable and the writable (gpa, length) pairs."""
    pairs = list(zip(chain[2::2], chain[3::2], strict=True))
    return pairs[: chain[1]], pairs[chain[1] :]


def total(pairs: Pairs) -> int:
    """Sum of the lengths in bytes."""
    return sum(length for _, length in pairs)


def take_front(memory: GuestMemory, pairs: Pairs, count: int) -> tuple[bytes, Pairs]:
    """A copy of the first ``count`` bytes, and what remains. Raises GuestAddressError (also when too short)."""
    data = bytearray()
    for position, (gpa, length) in enumerate(pairs):
        part = min(length, count - len(data))
        data += memory.read(gpa, part)
        if len(data) == count:
            rest = pairs[position + 1 :]
            return bytes(data), [(gpa + part, length - part), *rest] if part < length else rest
    raise GuestAddressError(0, count)


def drop_last_byte(pairs: Pairs) -> tuple[int, Pairs]:
    """The address of the last byte, and the pairs without it. ``pairs`` is not empty."""
    gpa, length = pairs[-1]
    front = pairs[:-1]
    return gpa + length - 1, [*front, (gpa, length - 1)] if length > 1 else front


def resolve(memory: GuestMemory, pairs: Pairs, *, writable: bool) -> list[memoryview]:
    """Views of all the buffers, or GuestAddressError when any is not RAM (and nothing was touched)."""
    views: list[memoryview] = []
    for gpa, length in pairs:
        views += memory.views(gpa, length, writable=writable)
    return views
