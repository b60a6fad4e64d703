# SPDX-License-Identifier: Apache-2.0
"""The QMP wire without any I/O: one message from bytes, and to bytes. ``splitter`` finds the messages in a stream.

In: ``decode`` parses one text; ``decode_simple`` is the short cut for the messages that clients really send.

Out: ``encode`` makes one line of pure ASCII with CRLF, spaced as QEMU spaces it (scripts grep for it).

Grammar (QMP specification §2.1 and black-box comparison with QEMU 7.2): RFC 8259 in UTF-8, and also single-quoted
strings and ``\\'``. Refused: duplicate keys, overlong UTF-8, lone surrogates, non-characters, infinite numbers.
Integers from -2^63 to 2^64-1 are exact, others become doubles.

Nothing heavy is imported here: the greeting goes out before orjson, json and asyncio are loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: most bytes of one message from a client (QEMU: 64 MiB; a message of that size stalls it for half a minute)
MAX_MESSAGE_BYTES = 10 << 20
#: most bytes of one reply: libvirt drops a connection that sends 10 MiB
MAX_REPLY_BYTES = (10 << 20) - 1
#: brackets may be this deep, as in QEMU
MAX_NESTING = 1024
#: as much of a broken token is quoted in an error
MAX_QUOTED = 64

CRLF = b"\r\n"


class ParseFault(Exception):
    """Input that is not a JSON message. ``desc`` is the sentence for the client."""

    def __init__(self, desc: str) -> None:
        super().__init__(desc)
        self.desc = desc


def syntax_fault(what: str) -> ParseFault:
    """A fault in QEMU's words."""
    return ParseFault(f"JSON parse error, {what}")


def stray(token: bytes | bytearray) -> ParseFault:
    """The fault of a token that no JSON text has; names it (cut off, and at NUL as QEMU does)."""
    text = bytes(token[:MAX_QUOTED]).split(b"\0")[0].decode("utf-8", "replace")
    return syntax_fault(f"stray '{text}'")


# -- parsing -----------------------------------------------------------------------------------------------------------

_fast_loads: Callable[[bytes], object] | None = None
_PLAIN_ID = (str, int, type(None))
_PLAIN_ARGUMENT = (str, int, bool)


def decode_simple(text: bytes) -> dict[str, object] | None:
    """The message in ``text`` if it is one flat command of the usual kind, else None (then use the splitter).

    It never accepts what ``decode`` would refuse or read differently: escapes, non-ASCII, floats, nested values and
    anything that could hide a duplicate key (more colons than keys) are left to the exact parser.
    """
    global _fast_loads
    if _fast_loads is None:
        from orjson import loads

        _fast_loads = loads
    if not text.isascii() or b"\\" in text:
        return None
    try:
        message = _fast_loads(text)
    except ValueError:
        return None
    if type(message) is not dict:
        return None
    keys = len(message)
    arguments = message.get("arguments")
    if arguments is not None:
        if type(arguments) is not dict:
            return None
        keys += len(arguments)
        for value in arguments.values():
            if type(value) not in _PLAIN_ARGUMENT:
                return None
    if keys != text.count(b":") or type(message.get("id")) not in _PLAIN_ID:
        return None
    return message


def decode(text: bytes) -> object:
    """The value of one JSON text. Raises ParseFault."""
    message = decode_simple(text)
    if message is not None:
        return message
    from vmmd.qmp.json_reader import read_json

    return read_json(text)


# -- output ------------------------------------------------------------------------------------------------------------

_encoders: list[Callable[[object], str]] = []


def _load_encoders() -> None:
    from json import JSONEncoder
    from json import encoder as parts

    def refuse(value: object) -> object:
        raise TypeError(f"{type(value).__name__} is not a QMP value")

    make = getattr(parts, "c_make_encoder", None)
    if make is None:  # an interpreter without the C accelerator
        _encoders.append(JSONEncoder(allow_nan=False).encode)
    else:
        chunks = make(None, refuse, parts.encode_basestring_ascii, None, ": ", ", ", False, False, False)
        _encoders.append(lambda value: "".join(chunks(value, 0)))
    _encoders.append(JSONEncoder(allow_nan=False, indent=4).encode)


def encode(value: dict[str, object], pretty: bool = False) -> bytes:
    """One message as ASCII ending in CRLF. Raises TypeError or ValueError for what JSON cannot hold."""
    if not _encoders:
        _load_encoders()
    text = _encoders[pretty](value)
    if "\\ud" in text:
        text = _encoders[pretty](_without_lone_surrogates(value))
    if pretty:
        text = text.replace("\n", "\r\n")
    return text.encode("ascii") + CRLF


def _without_lone_surrogates(value: object) -> object:
    """A file name that is not UTF-8 reaches us with lone surrogates, which no client takes: U+FFFD, as in QEMU."""
    if isinstance(value, str):
        return "".join("�" if "\ud800" <= each <= "\udfff" else each for each in value)
    if isinstance(value, dict):
        return {_without_lone_surrogates(key): _without_lone_surrogates(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_lone_surrogates(each) for each in value]
    return value
