# SPDX-License-Identifier: Apache-2.0
"""Editing of one line over a byte stream, as the readline monitor offers it (ADR 0010 says why not by a library).

Pure: bytes come in by ``feed``, what the peer's terminal is to show goes out by ``take_output``. The peer may as well
be a script: nothing is asked of a terminal, a character typed at the end of the line is echoed as it is, and the prompt
is sent as it reads. Editing uses four control sequences that every terminal since the VT100 has.

LIMIT: a line that is wider than the terminal can be typed, but looks wrong when it is edited in its first rows; every
character is taken to be one column wide.
"""

from __future__ import annotations

import codecs
import re
from time import monotonic_ns
from typing import TYPE_CHECKING

from vmmd.core.background import TURN_NS
from vmmd.qmp.secrets import hide_in_line

if TYPE_CHECKING:
    from collections.abc import Callable

#: longer lines are not run
MAX_LINE_CHARACTERS = 16384
TOO_LONG = f"the line is longer than {MAX_LINE_CHARACTERS} characters and is not run\r\n"
MAX_HISTORY_LINES = 256
#: a step ends when the terminal is to show this much
STEP_CHARACTERS = 16384
#: completions that are listed
MAX_LISTED = 200
#: columns that a list of completions fills
_LIST_COLUMNS = 80

#: a run of characters to insert, a control sequence, Meta and a character, or one control character
_TOKEN = re.compile(
    r"(?P<text>[^\x00-\x1f\x7f]+)|\x1b(?:\[[0-9;]{0,16}[A-Za-z~]|O[A-Za-z]|[^\[O])|[\x00-\x1a\x1c-\x1f\x7f]"
)
#: the beginning of a control sequence: more of it is to come
_UNFINISHED = re.compile(r"\x1b(?:\[[0-9;]{0,16}|O)?\Z")
_WORD = re.compile(r"\w+")


class LineEditor:
    """A line, a cursor in it, and the lines before it. ``complete`` gives the words that the text may end with."""

    def __init__(self, prompt: str, complete: Callable[[str], list[str]]) -> None:
        self._prompt = prompt
        self._complete = complete
        #: lines that were entered, the oldest first; without those that hold secrets
        self.history: list[str] = []
        self._output: list[str] = []
        self._output_characters = 0
        #: the last step ended early: another one goes on
        self.more = False
        self.reset()

    def reset(self) -> None:
        """Another peer: forget what the last one had typed, but not the history."""
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode
        self._typed = ""
        self.more = False
        self.take_output()
        self._new_line()

    def _new_line(self) -> None:
        self._line = ""
        self._cursor = 0
        self._too_long = False
        self._recalled = len(self.history)  # which line of the history is shown; its length: none
        self._draft = ""  # the new line, while one of the history is shown
        self._sought: str | None = None  # what Ctrl-R looks for in the history, while it does

    @property
    def pending(self) -> int:
        """How many characters wait for ``step``, or for the rest of their control sequence."""
        return len(self._typed)

    def feed(self, data: bytes) -> None:
        """Take what was typed; ``step`` acts on it."""
        self._typed += self._decode(data)

    def show_prompt(self) -> None:
        self._show(self._prompt)

    def _show(self, text: str) -> None:
        self._output.append(text)
        self._output_characters += len(text)

    def take_output(self) -> str:
        """What the terminal is to show now."""
        text = "".join(self._output)
        self._output.clear()
        self._output_characters = 0
        return text

    def step(self) -> str | None:
        """Act on what was typed, to the end of the first line, which is returned; or until all was used; or, with
        ``more``, as far as one turn of the loop goes."""
        typed, position = self._typed, 0
        line = None
        self.more = False
        ends = monotonic_ns() + TURN_NS
        while line is None and not self.more and position < len(typed):
            found = _TOKEN.match(typed, position)
            if found is None:
                if _UNFINISHED.match(typed, position):
                    break
                position += 1  # a control sequence that nobody knows
                continue
            position = found.end()
            line = self._act(_plain(found.group()) if found.lastgroup == "text" else found.group())
            self.more = self._output_characters >= STEP_CHARACTERS or monotonic_ns() >= ends
        self._typed = typed[position:]
        return line

    def _act(self, token: str) -> str | None:
        if self._sought is not None and self._seek(token):
            return None
        if token in ("\r", "\n"):
            return self._enter()
        action = _KEYS.get(token)
        if action is not None:
            action(self)
        elif token.isprintable():
            self._insert(token)
        return None

    # -- output ----------------------------------------------------------------------------------------------------

    def _move(self, position: int) -> None:
        steps = position - self._cursor
        if steps:
            self._show(f"\x1b[{abs(steps)}{'C' if steps > 0 else 'D'}")
        self._cursor = position

    def _replace(self, start: int, end: int, text: str) -> None:
        """Put ``text`` in the place of a part of the line, and the cursor behind it."""
        if start == end and not text:
            return
        self._move(start)
        rest = self._line[end:]
        self._line = self._line[:start] + text + rest
        self._show(text + rest)
        if len(text) < end - start:
            self._show("\x1b[K")
        self._cursor = len(self._line)
        self._move(start + len(text))

    def _redraw(self) -> None:
        self._show(self._prompt + self._line)
        cursor, self._cursor = self._cursor, len(self._line)
        self._move(cursor)

    # -- keys ------------------------------------------------------------------------------------------------------

    def _insert(self, text: str) -> None:
        room = MAX_LINE_CHARACTERS - len(self._line)
        self._too_long |= len(text) > room
        self._replace(self._cursor, self._cursor, text[:room])

    def _enter(self) -> str:
        line, too_long = self._line, self._too_long
        self._show("\r\n")
        if line.strip() and not too_long and hide_in_line(line) == line:  # the next peer sees the history too
            if line in self.history:
                self.history.remove(line)
            self.history.append(line)
            del self.history[:-MAX_HISTORY_LINES]
        self._new_line()
        if too_long:
            self._show(TOO_LONG)
            return ""
        return line

    def _discard(self) -> None:
        self._show("^C\r\n")
        self._new_line()
        self.show_prompt()

    def _clear_screen(self) -> None:
        self._show("\x1b[2J\x1b[1;1H")
        self._redraw()

    def _to_start(self) -> None:
        self._move(0)

    def _to_end(self) -> None:
        self._move(len(self._line))

    def _left(self) -> None:
        self._move(max(0, self._cursor - 1))

    def _right(self) -> None:
        self._move(min(len(self._line), self._cursor + 1))

    def _word_start(self) -> int:
        """Where the word before the cursor begins."""
        found = _WORD.search(self._line[: self._cursor][::-1])
        return 0 if found is None else self._cursor - found.end()

    def _word_end(self) -> int:
        found = _WORD.search(self._line, self._cursor)
        return len(self._line) if found is None else found.end()

    def _word_left(self) -> None:
        self._move(self._word_start())

    def _word_right(self) -> None:
        self._move(self._word_end())

    def _erase_left(self) -> None:
        self._replace(max(0, self._cursor - 1), self._cursor, "")

    def _erase_right(self) -> None:
        self._replace(self._cursor, min(len(self._line), self._cursor + 1), "")

    def _erase_word_left(self) -> None:
        blank = self._line[: self._cursor].rstrip().rfind(" ")
        self._replace(blank + 1, self._cursor, "")

    def _erase_word_right(self) -> None:
        self._replace(self._cursor, self._word_end(), "")

    def _erase_to_start(self) -> None:
        self._replace(0, self._cursor, "")

    def _erase_to_end(self) -> None:
        self._replace(self._cursor, len(self._line), "")

    def _earlier(self) -> None:
        self._recall(self._recalled - 1)

    def _later(self) -> None:
        self._recall(self._recalled + 1)

    def _recall(self, index: int) -> None:
        """Show a line of the history; behind the last one is the new line as it was left."""
        if not 0 <= index <= len(self.history):
            return
        if self._recalled == len(self.history):
            self._draft = self._line
        self._recalled = index
        self._replace(0, len(self._line), self._draft if index == len(self.history) else self.history[index])

    # -- Ctrl-R ----------------------------------------------------------------------------------------------------

    def _search(self) -> None:
        """Look back for what is typed next; Ctrl-R again goes on, any other key takes the line that is shown."""
        self._sought = ""
        self._show_search()

    def _seek(self, token: str) -> bool:
        """One key of the search; False: the search is over, and the key means what it always does."""
        sought = self._sought or ""
        if token == "\x12":
            self._find(sought, self._recalled - 1)
        elif token in ("\x08", "\x7f"):
            self._sought = sought[:-1]
        elif token.isprintable():
            self._sought = (sought + token)[:MAX_LINE_CHARACTERS]
            self._find_further(len(sought))
        else:
            self._sought = None
            self._show("\r\x1b[K")
            self._redraw()
            return False
        self._show_search()
        return True

    def _find_further(self, known: int) -> None:
        """Look for what is sought, of which ``known`` characters were looked for before: character by character, as if
        each came alone."""
        sought = self._sought or ""
        for end in range(known + 1, len(sought) + 1):
            if not self._find(sought[:end], self._recalled):
                return  # nor is there a line with more of it

    def _find(self, sought: str, start: int) -> bool:
        """Take the latest line with ``sought`` in it, from index ``start`` back; without one the line stays."""
        for index in range(min(start, len(self.history) - 1), -1, -1):
            if sought in self.history[index]:
                self._recalled = index
                self._line = self.history[index]
                self._cursor = len(self._line)
                return True
        return False

    def _show_search(self) -> None:
        self._show(f"\r\x1b[K(search) {self._sought}: {self._line}")

    # -- Tab -------------------------------------------------------------------------------------------------------

    def _tab(self) -> None:
        before = self._line[: self._cursor]
        word = before[before.rfind(" ") + 1 :]
        words = sorted({each for each in self._complete(before) if each.startswith(word)})
        if not words:
            return
        more = _common_start(words)[len(word) :]
        if len(words) == 1 and not words[0].endswith(("=", ",")):
            more += " "
        if more:
            self._insert(more)
        else:
            self._list(words)

    def _list(self, words: list[str]) -> None:
        shown = words[:MAX_LISTED]
        width = max(len(word) for word in shown) + 2
        in_row = max(1, _LIST_COLUMNS // width)
        for first in range(0, len(shown), in_row):
            self._show("\r\n" + "".join(f"{word:{width}}" for word in shown[first : first + in_row]).rstrip())
        if len(words) > len(shown):
            self._show(f"\r\n({len(words) - len(shown)} more)")
        self._show("\r\n")
        self._redraw()


def _plain(text: str) -> str:
    """What of a text a line can have: characters that can be shown, and any blank as a blank."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else " " if each.isspace() else "" for each in text)


def _common_start(words: list[str]) -> str:
    """What all words begin with; ``words`` is sorted."""
    first, last = words[0], words[-1]
    length = 0
    while length < min(len(first), len(last)) and first[length] == last[length]:
        length += 1
    return first[:length]


_KEYS: dict[str, Callable[[LineEditor], None]] = {
    key: action
    for keys, action in (
        (("\x01", "\x1b[H", "\x1bOH", "\x1b[1~", "\x1b[7~"), LineEditor._to_start),  # Ctrl-A, Home
        (("\x05", "\x1b[F", "\x1bOF", "\x1b[4~", "\x1b[8~"), LineEditor._to_end),  # Ctrl-E, End
        (("\x02", "\x1b[D", "\x1bOD"), LineEditor._left),  # Ctrl-B, left
        (("\x06", "\x1b[C", "\x1bOC"), LineEditor._right),
        (("\x1bb", "\x1b[1;5D", "\x1b[1;3D"), LineEditor._word_left),  # Meta-B, Ctrl-left, Alt-left
        (("\x1bf", "\x1b[1;5C", "\x1b[1;3C"), LineEditor._word_right),
        (("\x08", "\x7f"), LineEditor._erase_left),  # backspace
        (("\x04", "\x1b[3~"), LineEditor._erase_right),  # Ctrl-D, Delete
        (("\x17", "\x1b\x7f", "\x1b\x08"), LineEditor._erase_word_left),  # Ctrl-W, Meta-backspace
        (("\x1bd",), LineEditor._erase_word_right),
        (("\x15",), LineEditor._erase_to_start),  # Ctrl-U
        (("\x0b",), LineEditor._erase_to_end),  # Ctrl-K
        (("\x10", "\x1b[A", "\x1bOA"), LineEditor._earlier),  # Ctrl-P, up
        (("\x0e", "\x1b[B", "\x1bOB"), LineEditor._later),
        (("\x12",), LineEditor._search),  # Ctrl-R
        (("\x09",), LineEditor._tab),
        (("\x0c",), LineEditor._clear_screen),  # Ctrl-L
        (("\x03",), LineEditor._discard),  # Ctrl-C
    )
    for key in keys
}
