# SPDX-License-Identifier: Apache-2.0
"""Texts for a terminal: JSON in colours, errors with a caret, events in one line.

Strings of the peer reach the terminal only through ``safe``: a control character in them is shown, not obeyed. Pure.
"""

from __future__ import annotations

import json
import time
import unicodedata
from typing import TYPE_CHECKING, Any

from vmmd.safe_text import safe

if TYPE_CHECKING:
    from vmmd.shell.line import LineError

#: longer texts are not coloured: it takes a second for a megabyte
COLOUR_MAX_CHARACTERS = 200_000
US_PER_S = 1_000_000


def one_line(text: str, width: int = 0) -> str:
    """The text safe, without line breaks, and cut to ``width`` characters when it is given."""
    line = safe(text).replace("\n", "\\n").replace("\t", " ")
    return line if not width or len(line) <= width else line[: width - 1] + "…"


def machine_json(value: Any) -> str:
    """JSON for programs: one line of ASCII."""
    return json.dumps(value, separators=(", ", ": "))


def pretty(value: Any, colour: bool, indent: int | None = 2) -> str:
    """JSON for people."""
    return coloured(safe(json.dumps(value, indent=indent, ensure_ascii=False)), colour)


def coloured(text: str, colour: bool) -> str:
    """A safe text of JSON with rich's colours."""
    if not colour or len(text) > COLOUR_MAX_CHARACTERS:
        return text
    from rich.highlighter import JSONHighlighter
    from rich.text import Text

    highlighted = Text(text)
    JSONHighlighter().highlight(highlighted)
    return ansi(highlighted)


def ansi(renderable: Any, width: int | None = None, colour: bool = True) -> str:
    """What rich makes of something, as text with colour codes; lines are not wrapped unless ``width`` is given."""
    from io import StringIO

    from rich.console import Console

    console = Console(
        file=StringIO(),
        force_terminal=colour,
        color_system="standard" if colour else None,
        width=width,
        legacy_windows=False,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(renderable, soft_wrap=width is None, end="")
    made: str = console.file.getvalue()  # type: ignore[attr-defined]
    return made


def styled(text: str, style: str, colour: bool) -> str:
    """A safe text in one of a few styles: red, yellow, dim, bold."""
    codes = {"red": "31", "yellow": "33", "dim": "2", "bold": "1", "cyan": "36"}
    return f"\x1b[{codes[style]}m{text}\x1b[0m" if colour else text


def with_caret(line: str, error: LineError, colour: bool = False) -> str:
    """The line, a caret under what is wrong, and what it is."""
    shown = one_line(line[: error.start]).replace("\\n", " ")
    marked = one_line(line[error.start : error.end]).replace("\\n", " ")
    pad = " " * cells(shown)
    caret = styled("^" * max(1, cells(marked)), "red", colour)
    return f"{one_line(line)}\n{pad}{caret}\n{safe(str(error))}"


def cells(text: str) -> int:
    """How many columns a text takes."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def error_text(error: dict[str, Any], colour: bool) -> str:
    """QMP's error in one line: class and sentence."""
    name, desc = str(error.get("class", "GenericError")), str(error.get("desc", ""))
    lead = f"{safe(name)}: " if name != "GenericError" else ""
    return styled(f"error: {lead}{safe(desc)}", "red", colour)


def event_text(event: dict[str, Any], colour: bool, number: int | None = None) -> str:
    """An event in one line: time, name, data."""
    lead = f"{number} " if number is not None else ""
    data = event.get("data")
    tail = " " + coloured(one_line(json.dumps(data, ensure_ascii=False)), colour) if data else ""
    name = styled(one_line(str(event.get("event", "?"))), "yellow", colour)
    return styled(f"{lead}{_clock(event.get('timestamp'))} ", "dim", colour) + name + tail


def _clock(timestamp: Any) -> str:
    """Local time of an event with milliseconds."""
    try:
        seconds, microseconds = int(timestamp["seconds"]), int(timestamp["microseconds"])
        return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{microseconds * 1000 // US_PER_S:03d}"
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        return "--:--:--"


def hmp_text(text: Any) -> str:
    """What the monitor for people answers, without its carriage returns."""
    return safe(str(text).replace("\r\n", "\n")).rstrip("\n")
