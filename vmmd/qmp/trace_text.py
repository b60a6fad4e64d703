# SPDX-License-Identifier: Apache-2.0
"""Requests and replies as trace events show them: short enough, and without secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmmd.qmp.session import Request

#: of a request or a reply; more of it is left out
_CHARACTERS_MAX = 4096
#: members whose values are nobody's business (safety.md P14): of secret objects, and of set_password and the like
_SECRET = frozenset({"data", "password", "passphrase", "key"})
_HIDDEN = "(not shown)"


def request_text(request: Request) -> str:
    """The command as JSON."""
    import json

    shown: dict[str, object] = {"exec-oob" if request.oob else "execute": request.spec.name}
    if request.arguments:
        shown["arguments"] = _without_secrets(request.arguments)
    text = json.dumps(shown)
    return _cut(text, len(text))


def response_text(data: bytes) -> str:
    """A reply as it is sent."""
    return _cut(data[: _CHARACTERS_MAX + 1].decode("ascii", "replace").rstrip("\r\n"), len(data))


def _without_secrets(value: object) -> object:
    if isinstance(value, dict):
        return {
            key: _HIDDEN if key in _SECRET and isinstance(each, str) else _without_secrets(each)
            for key, each in value.items()
        }
    return [_without_secrets(each) for each in value] if isinstance(value, list) else value


def _cut(text: str, length: int) -> str:
    return text if len(text) <= _CHARACTERS_MAX else f"{text[:_CHARACTERS_MAX]}… ({length} characters)"
