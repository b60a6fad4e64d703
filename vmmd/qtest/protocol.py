# SPDX-License-Identifier: Apache-2.0
"""The qtest wire protocol without I/O: bytes to requests, values to replies.

A request is a line of words with one space between, the command first; numbers are C's (``0x`` hexadecimal, leading
``0`` octal, else decimal). A reply is ``OK``, ``OK value``, ``FAIL text`` or ``ERR text``.
"""

from __future__ import annotations

import re

#: the most bytes that one request reads or writes
BLOCK_BYTES_MAX = 16 << 20
#: a request of that many bytes in hexadecimal, and its words
LINE_BYTES_MAX = 2 * BLOCK_BYTES_MAX + 128

_NUMBER = re.compile(rb"-?(?:0[xX][0-9a-fA-F]+|[0-9]+)")
_MASK_64 = (1 << 64) - 1
_HEX_PAIR = re.compile(rb"[0-9a-fA-F]{2}")


class RequestError(Exception):
    """A request that cannot be served; the text is the reply."""


class LineSplitter:
    """Cuts the stream into lines; what is longer than ``LINE_BYTES_MAX`` is not kept."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._scanned = 0  # bytes of the buffer known to have no newline
        self._dropping = False  # the rest of a line that is too long

    def __len__(self) -> int:
        """Bytes that wait."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def end(self) -> None:
        """The client has gone: what it did not finish does not count."""
        del self._buffer[self._buffer.rfind(b"\n") + 1 :]
        if not self._buffer:
            self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._buffer.clear()
        self._scanned = 0
        self._dropping = False

    def take(self) -> bytes | None:
        """The next whole line without its end; None: there is none yet. Raises RequestError for one that is too
        long."""
        buffer = self._buffer
        end = buffer.find(b"\n", self._scanned)
        if end < 0:
            self._scanned = len(buffer)
            if self._scanned > LINE_BYTES_MAX:
                self._dropping = True
                buffer.clear()
                self._scanned = 0
            return None
        line = bytes(buffer[:end])
        del buffer[: end + 1]
        self._scanned = 0
        too_long, self._dropping = self._dropping or end > LINE_BYTES_MAX, False
        if too_long:
            raise RequestError(f"ERR a request takes at most {LINE_BYTES_MAX} bytes")
        return line


def number(word: bytes, maximum: int = _MASK_64) -> int:
    """An unsigned number of at most ``maximum``; a minus sign wraps around as in C's strtoull. Raises RequestError."""
    value = _parse(word)
    value = value & _MASK_64 if -_MASK_64 <= value <= _MASK_64 else -1
    if not 0 <= value <= maximum:
        raise RequestError(f"ERR {_shown(word)} is not between 0 and {maximum:#x}")
    return value


def signed(word: bytes) -> int:
    """A signed 64-bit number. Raises RequestError."""
    value = _parse(word)
    if not -(1 << 63) <= value < 1 << 63:
        raise RequestError(f"ERR {_shown(word)} does not fit into 64 bits")
    return value


def _parse(word: bytes) -> int:
    if not _NUMBER.fullmatch(word) or len(word) > 66:
        raise RequestError(f"ERR '{_shown(word)}' is not a number")
    digits = word.lstrip(b"-")
    base = 16 if digits[:2] in (b"0x", b"0X") else 8 if digits[0] == ord("0") else 10
    try:
        return int(word, base)
    except ValueError:
        raise RequestError(f"ERR '{_shown(word)}' is not an octal number") from None


def _shown(word: bytes) -> str:
    """A word of a request in a reply: printable and short."""
    text = word[:60].decode("ascii", "replace")
    return "".join(letter if letter.isascii() and letter.isprintable() else "?" for letter in text)


def unknown(command: bytes) -> RequestError:
    # QEMU-COMPAT: the sentence
    return RequestError(f"FAIL Unknown command '{_shown(command)}'")


def from_hex(word: bytes, size: int) -> bytes:
    """The data of ``write``: ``0x`` and hexadecimal digits. What is missing is zero, what is more is left out, and what
    is no digit pair is 0xff, all as with QEMU. Raises RequestError."""
    if len(word) < 3:
        raise RequestError("ERR invalid argument size")
    digits = word[2 : 2 + 2 * size]
    digits = digits[: len(digits) & ~1]
    try:
        data = bytes.fromhex(digits.decode("ascii"))
    except ValueError:
        data = b""
    if len(data) != len(digits) // 2:
        pairs = (digits[at : at + 2] for at in range(0, len(digits), 2))
        data = bytes(int(pair, 16) if _HEX_PAIR.fullmatch(pair) else 0xFF for pair in pairs)
    return data.ljust(size, b"\0")
