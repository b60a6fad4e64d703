# SPDX-License-Identifier: Apache-2.0
"""SMART of an ATA disk (ATA/ATAPI-6 §8.41; the data structures §8.41.6): a disk that has nothing to complain of.

Attributes and thresholds are constant, with QEMU's numbers. Self-tests end at once and well, and are written down in
their log. The key in LBA mid and high, and whether SMART is on, is checked by the caller.
"""

from __future__ import annotations

from typing import NamedTuple

KEY_MID, KEY_HIGH = 0x4F, 0xC2

READ_DATA = 0xD0
READ_THRESHOLDS = 0xD1
AUTOSAVE = 0xD2
EXECUTE_OFFLINE = 0xD4
READ_LOG = 0xD5
ENABLE = 0xD8
DISABLE = 0xD9
RETURN_STATUS = 0xDA

LOG_SUMMARY, LOG_SELF_TEST = 1, 6
_SELF_TESTS = 3  # off-line routine, short and extended self-test
_LOG_ENTRIES, _LOG_ENTRY_BYTES = 21, 24
_LIFETIME_HOURS = 0x1234


class _Attribute(NamedTuple):
    number: int
    flags: int
    value: int
    worst: int
    raw: bytes
    threshold: int


_ATTRIBUTES = (
    _Attribute(1, 0x0003, 100, 100, b"", 6),  # raw read error rate
    _Attribute(3, 0x0003, 100, 100, b"\x10", 0),  # spin-up time
    _Attribute(4, 0x0002, 100, 100, b"\x64", 20),  # start/stop count
    _Attribute(5, 0x0003, 100, 100, b"", 36),  # reallocated sectors
    _Attribute(9, 0x0003, 100, 100, b"\x01", 0),  # power-on hours
    _Attribute(12, 0x0003, 100, 100, b"", 0),  # power cycles
    _Attribute(190, 0x0003, 69, 69, b"\x1f\x00\x1f\x1f", 50),  # temperature
)
_ATTRIBUTE_BYTES = 12


class Smart:
    """What a disk remembers of itself."""

    def __init__(self) -> None:
        self.enabled = True
        self.autosave = True
        self._tests: list[int] = []  # kinds, the oldest first
        self._count = 0

    def data(self) -> bytes:
        """READ DATA: attributes and capabilities."""
        page = bytearray(512)
        page[0] = 1
        for place, each in enumerate(_ATTRIBUTES):
            at = 2 + place * _ATTRIBUTE_BYTES
            page[at : at + 5] = bytes((each.number, each.flags, 0, each.value, each.worst))
            page[at + 5 : at + 5 + len(each.raw)] = each.raw
        # off-line collection: done; it takes 288 s; what the disk can do; self-tests take 2 and 54 minutes
        page[362:375] = bytes((2, 0, 0x20, 1, 0, 0x19, 3, 0, 1, 0, 2, 0x36, 1))
        page[362] |= 0x80 if self.autosave else 0
        return _summed(page)

    def thresholds(self) -> bytes:
        """READ THRESHOLDS."""
        page = bytearray(512)
        page[0] = 1
        for place, each in enumerate(_ATTRIBUTES):
            at = 2 + place * _ATTRIBUTE_BYTES
            page[at], page[at + 1] = each.number, each.threshold
        return _summed(page)

    def log(self, number: int) -> bytes | None:
        """READ LOG; None for a log that there is not."""
        page = bytearray(512)
        page[0] = 1
        if number == LOG_SELF_TEST:
            for place, kind in enumerate(self._tests):
                at = 2 + place * _LOG_ENTRY_BYTES
                page[at] = kind
                page[at + 2 : at + 4] = _LIFETIME_HOURS.to_bytes(2, "little")
            page[508] = self._count
        elif number != LOG_SUMMARY:
            return None
        return _summed(page)

    def self_test(self, kind: int) -> bool:
        """EXECUTE OFF-LINE IMMEDIATE; False for a kind that there is not."""
        if kind >= _SELF_TESTS:
            return False
        if len(self._tests) < _LOG_ENTRIES:
            self._tests.append(kind)
            self._count = len(self._tests)
        else:  # the log goes round
            self._count = self._count % _LOG_ENTRIES + 1
            self._tests[self._count - 1] = kind
        return True


def _summed(page: bytearray) -> bytes:
    """The last byte makes the sum of all zero."""
    page[511] = -sum(page[:511]) & 0xFF
    return bytes(page)
