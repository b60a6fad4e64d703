# SPDX-License-Identifier: Apache-2.0
"""Finds the complete JSON messages in the byte stream of a QMP client; sans-IO.

Lexical errors are found at once: control bytes, stray characters, nesting, size. One error per accident; after it the
splitter is ready again when the broken message's brackets balance, at the next newline, or at the next control byte or
0xFF, whichever comes first (QEMU answers left-over text with further errors; the QMP specification leaves that open).
"""

from __future__ import annotations

import re

from vmmd.qmp.wire import MAX_MESSAGE_BYTES, MAX_NESTING, MAX_QUOTED, ParseFault, stray, syntax_fault

#: most brackets in one message
MAX_BRACKETS = 1 << 17
#: most bytes of one number or keyword
MAX_BARE_BYTES = 4096

_BODY = {
    0x22: rb'(?:[^"\\\x00-\x1f\xff]++|\\[^\x00-\x1f\xff])*+',
    0x27: rb"(?:[^'\\\x00-\x1f\xff]++|\\[^\x00-\x1f\xff])*+",
}
_STRING = b'"' + _BODY[0x22] + b"\"|'" + _BODY[0x27] + b"'"
# complete only when followed by a byte that cannot belong to it
_NUMBER = rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+(?=[^0-9.eE])"
_WORD = rb"[a-z]++(?=[^a-z])"

_skip_space = re.compile(rb"[ \t\r\n]*+").match
_skip_tokens = re.compile(rb"(?:[ \t\r\n,:]++|" + _STRING + b"|" + _NUMBER + b"|" + _WORD + b")*+").match
_whole_token = re.compile(_STRING + b"|" + _NUMBER + b"|" + _WORD).match
_string_body = {quote: re.compile(body).match for quote, body in _BODY.items()}
_number_start = re.compile(rb"-?(?:(?:0|[1-9][0-9]*+)(?:\.(?:[0-9]++(?:[eE][+-]?[0-9]*+)?)?|[eE][+-]?[0-9]*+)?)?").match
_word_start = re.compile(rb"[a-z]++").match
_skip_discarded = re.compile(rb"[^\"'{}\[\]\x00-\x08\x0a-\x0c\x0e-\x1f\xff]*+").match
_skip_to_start = re.compile(rb"[^{\[\x00-\x08\x0a-\x0c\x0e-\x1f\xff]*+").match

_OPENERS = b"{["
_CLOSERS = b"}]"
_QUOTES = b"\"'"
_BACKSLASH = 0x5C


class JsonSplitter:
    """Cuts a byte stream into top-level JSON texts; see the module head. Linear in its input, bounded in memory."""

    __slots__ = ("_brackets", "_buffer", "_depth", "_discarding", "_pos", "_quote", "_start", "_token")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._start = 0  # where the present message begins
        self._pos = 0  # everything before it has been looked at
        self._depth = 0
        self._brackets = 0
        self._quote = 0  # the quote that ends the string we are in the middle of, or 0
        self._token = 0  # where that string begins
        self._discarding = False  # after a fault, until in step again

    @property
    def idle(self) -> bool:
        """True when nothing is half received: the next byte starts a new message."""
        return not self._buffer and not self._discarding

    @property
    def buffered_bytes(self) -> int:
        """How much of an incomplete message is held."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes | ParseFault]:
        """The texts that ``data`` completes and the faults it contains, in order."""
        self._buffer += data
        out: list[bytes | ParseFault] = []
        buffer = self._buffer
        while self._pos < len(buffer) and self._step(out):
            pass
        if self._discarding:
            self._start = self._pos
        if self._start:
            del buffer[: self._start]
            self._pos -= self._start
            self._token -= self._start
            self._start = 0
        if len(buffer) > MAX_MESSAGE_BYTES:
            out.append(ParseFault("JSON token size limit exceeded"))
            self._discarding = True
            buffer.clear()
            self._pos = 0
        return out

    def _step(self, out: list[bytes | ParseFault]) -> bool:
        """Look at some more bytes; False when the rest has to wait for more input."""
        if self._discarding:
            return self._discard_string() if self._quote else self._discard()
        if self._quote:
            return self._inside_string(out)
        if self._depth:
            return self._inside_message(out)
        return self._between_messages(out)

    def _between_messages(self, out: list[bytes | ParseFault]) -> bool:
        buffer = self._buffer
        pos = self._start = self._pos = _skip_space(buffer, self._pos).end()  # type: ignore[union-attr]
        if pos == len(buffer):
            return False
        byte = buffer[pos]
        if byte in _OPENERS:
            self._pos = pos + 1
            self._depth = self._brackets = 1
            return True
        token = _whole_token(buffer, pos)
        if token is not None:
            self._end_scalar(token.group(), out)
            return True
        if byte in b"}],:":
            self._fail(out, syntax_fault("expecting value"), pos + 1)
            return True
        return self._incomplete_token(out, pos)

    def _end_scalar(self, token: bytes, out: list[bytes | ParseFault]) -> None:
        self._start = self._pos = self._pos + len(token)
        if token[0] >= 0x61 and token not in (b"true", b"false", b"null"):
            self._fail(out, _unknown_word(token), self._pos)
        else:
            out.append(bytes(token))

    def _inside_message(self, out: list[bytes | ParseFault]) -> bool:
        buffer = self._buffer
        pos = _skip_tokens(buffer, self._pos).end()  # type: ignore[union-attr]
        if pos == len(buffer):
            self._pos = pos
            return False
        byte = buffer[pos]
        if byte in _OPENERS:
            self._open_bracket(out, pos)
            return True
        if byte in _CLOSERS:
            self._pos = pos + 1
            self._depth -= 1
            if not self._depth:
                out.append(bytes(buffer[self._start : pos + 1]))
                self._start = pos + 1
            return True
        return self._incomplete_token(out, pos)

    def _open_bracket(self, out: list[bytes | ParseFault], pos: int) -> None:
        self._pos = pos + 1
        self._depth += 1
        self._brackets += 1
        if self._depth > MAX_NESTING:
            self._fail(out, ParseFault("JSON nesting depth limit exceeded"), pos + 1)
        elif self._brackets > MAX_BRACKETS:
            self._fail(out, ParseFault("JSON token count limit exceeded"), pos + 1)

    def _incomplete_token(self, out: list[bytes | ParseFault], pos: int) -> bool:
        """A token at ``pos`` that is broken, or not complete yet."""
        buffer = self._buffer
        self._pos = pos
        byte = buffer[pos]
        if byte in _QUOTES:
            self._quote = byte
            self._token = pos
            self._pos = pos + 1
            return self._inside_string(out)
        start = _word_start(buffer, pos) or _number_start(buffer, pos)
        end = start.end() if start is not None else pos
        if end < len(buffer):
            resume = end if buffer[end] in b"{}[]\"'" else end + 1  # a bracket still counts for the balance
            self._fail(out, stray(buffer[pos : end + 1]), resume)
            return True
        if end - pos > MAX_BARE_BYTES:
            self._fail(out, ParseFault("JSON token size limit exceeded"), end)
            return True
        return False

    def _inside_string(self, out: list[bytes | ParseFault]) -> bool:
        buffer = self._buffer
        end = _string_body[self._quote](buffer, self._pos).end()  # type: ignore[union-attr]
        if end < len(buffer) and buffer[end] == self._quote:
            self._pos = end + 1
            self._quote = 0
            if not self._depth:
                self._start = end + 1
                out.append(bytes(buffer[self._token : end + 1]))
            return True
        if end + 1 < len(buffer) or (end < len(buffer) and buffer[end] != _BACKSLASH):
            bad = end + 1 if buffer[end] == _BACKSLASH else end
            self._quote = 0
            self._fail(out, stray(buffer[max(self._token, bad + 1 - MAX_QUOTED) : bad + 1]), bad + 1)
            return True
        self._pos = end
        return False

    # -- recovery --------------------------------------------------------------------------------------------------

    def _fail(self, out: list[bytes | ParseFault], fault: ParseFault, pos: int) -> None:
        """Report ``fault``; go on discarding behind ``pos`` unless the last byte was itself a place to restart."""
        out.append(fault)
        self._pos = self._start = pos
        self._discarding = True
        if _restarts(self._buffer[pos - 1]):
            # the rest of the line is the broken message's: it is dropped up to a newline or a new opening bracket
            self._depth = 0

    def _discard(self) -> bool:
        buffer = self._buffer
        skip = _skip_discarded if self._depth else _skip_to_start
        pos = self._pos = skip(buffer, self._pos).end()  # type: ignore[union-attr]
        if pos == len(buffer):
            return False
        byte = buffer[pos]
        if not self._depth and byte in _OPENERS:
            self._in_step(pos)
        elif byte in _OPENERS:
            self._depth += 1
            self._pos = pos + 1
        elif byte in _CLOSERS:
            self._depth -= 1
            self._pos = pos + 1
            if not self._depth:
                self._in_step(pos + 1)
        elif byte in _QUOTES:
            self._quote = byte
            self._pos = pos + 1
        else:  # newline, control byte, 0xFF
            self._in_step(pos + 1)
        return True

    def _discard_string(self) -> bool:
        buffer = self._buffer
        end = _string_body[self._quote](buffer, self._pos).end()  # type: ignore[union-attr]
        if end == len(buffer) or (end + 1 == len(buffer) and buffer[end] == _BACKSLASH):
            self._pos = end
            return False
        bad = end + 1 if buffer[end] == _BACKSLASH else end
        closed = buffer[end] == self._quote
        self._quote = 0
        if closed or buffer[bad] in b"\t\r":
            self._pos = bad + 1
        else:
            self._in_step(bad + 1)
        return True

    def _in_step(self, pos: int) -> None:
        self._discarding = False
        self._depth = 0
        self._pos = self._start = pos


def _restarts(byte: int) -> bool:
    return byte == 0xFF or (byte < 0x20 and byte not in b"\t\r")


def _unknown_word(token: bytes) -> ParseFault:
    return syntax_fault(f"invalid keyword '{token[:MAX_QUOTED].decode()}'")
