# SPDX-License-Identifier: Apache-2.0
"""Texts that somebody else chose, for a terminal: what could steer it is written as ``\\u001b``, JSON's way. Pure."""

from __future__ import annotations

import re

# C0 but tab and line feed, DEL, C1, marks that turn the direction of text, line separators, lone surrogates
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_ASCII = {code: f"\\u{code:04x}" for code in range(128) if _UNSAFE.match(chr(code))}


def safe(text: str) -> str:
    """The text without anything that a terminal obeys, but tabs and line feeds."""
    if text.isascii():
        return text.translate(_UNSAFE_ASCII)  # eight times as fast
    return _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
