# SPDX-License-Identifier: Apache-2.0
"""Requests and replies as trace events show them: short enough, and without secrets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.secrets import hide_in_line, hide_secrets

if TYPE_CHECKING:
    from vmmd.qmp.session import Request

#: of a request or a reply; more of it is left out
_CHARACTERS_MAX = 4096


def request_text(request: Request) -> str:
    """The command as JSON."""
    import json

    shown: dict[str, object] = {"exec-oob" if request.oob else "execute": request.spec.name}
    if request.arguments:
        shown["arguments"] = hide_secrets(request.arguments)
    text = json.dumps(shown)
    return _cut(text, len(text))


def line_text(line: str) -> str:
    """A command line of the monitor for people."""
    return _cut(hide_in_line(line), len(line))


def response_text(data: bytes) -> str:
    """A reply as it is sent."""
    return _cut(data[: _CHARACTERS_MAX + 1].decode("ascii", "replace").rstrip("\r\n"), len(data))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= _CHARACTERS_MAX else f"{text[:_CHARACTERS_MAX]}… ({length} characters)"
