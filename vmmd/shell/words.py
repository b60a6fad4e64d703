# SPDX-License-Identifier: Apache-2.0
"""The words of the shell that take options: ``watch [-n SEC] COMMAND`` and ``top [-n SEC] [--once]``. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from vmmd.shell.line import LineError, Token, tokens

if TYPE_CHECKING:
    from vmmd.shell.request import Request

INTERVAL_S = 1.0
INTERVAL_MIN_S = 0.1
INTERVAL_MAX_S = 86400.0
#: words that give no answer
NOT_WATCHED = ("top", "watch", "exit")


class Repeated(NamedTuple):
    """What to show again and again. ``line`` is empty for top."""

    interval_s: float
    once: bool
    line: str


def repeated(line: str) -> Repeated:
    """The meaning of a ``watch`` or ``top`` line; raises LineError."""
    word, *rest = tokens(line)
    interval_s, once = INTERVAL_S, False
    while rest and str(rest[0].value).startswith("-"):
        option = rest.pop(0)
        if option.value == "-n":
            interval_s = _seconds(rest.pop(0) if rest else option)
        elif option.value == "--once" and word.value == "top":
            once = True
        else:
            raise LineError(f"{word.value} has no option '{option.value}'", option.start, option.end)
    if word.value == "top" and rest:
        raise LineError("top takes only -n SEC and --once", rest[0].start, rest[-1].end)
    if word.value == "watch" and not rest:
        raise LineError("what shall be watched?", word.end, word.end + 1, "write watch COMMAND")
    if rest and rest[0].value in NOT_WATCHED:
        raise LineError(f"'{rest[0].value}' cannot be watched", rest[0].start, rest[0].end)
    return Repeated(interval_s, once, line[rest[0].start :] if rest else "")


def _seconds(token: Token) -> float:
    try:
        value = float(token.value)
    except (TypeError, ValueError):
        value = math.nan
    if not INTERVAL_MIN_S <= value <= INTERVAL_MAX_S:
        raise LineError("-n takes seconds, 0.1 or more", token.start, token.end)
    return value


def ends_machine(request: Request) -> bool:
    """Whether a request ends the virtual machine's process."""
    return request.command == "quit" or (
        request.command == "human-monitor-command" and hmp_ends_machine(str(request.arguments.get("command-line", "")))
    )


def hmp_ends_machine(line: str) -> bool:
    """The same for a line of the monitor for people."""
    return line.strip() in ("q", "quit")
