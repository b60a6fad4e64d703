# SPDX-License-Identifier: Apache-2.0
"""Passwords and keys in what clients send: hidden before it is logged or kept (safety.md P14)."""

from __future__ import annotations

import re

_HIDDEN = "(not shown)"
#: members and options whose values are nobody's business: of secret objects, and of set_password and the like
_SECRET = frozenset({"data", "password", "passphrase", "key"})
#: such a word at the end of a name, in a line: "data=", "set_password ", '\"key\": '
_SECRET_WORD = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(sorted(_SECRET))})[\"'\\]*[\s=:]", re.IGNORECASE)


def hide_secrets(value: object) -> object:
    """A JSON value without them. Texts are looked through as lines are: options and command lines are such."""
    if isinstance(value, dict):
        # qom-set has the name beside the value
        hidden = _SECRET | {"value"} if value.get("property") in _SECRET else _SECRET
        return {
            key: _HIDDEN if key in hidden and isinstance(each, str) else hide_secrets(each)
            for key, each in value.items()
        }
    if isinstance(value, list):
        return [hide_secrets(each) for each in value]
    return hide_in_line(value) if isinstance(value, str) else value


def hide_in_line(line: str) -> str:
    """A command line without them. How a value ends depends on quotes and commas, so all that follows is left out."""
    found = _SECRET_WORD.search(line)
    return line if found is None or not line[found.end() :].strip() else line[: found.end()] + _HIDDEN
