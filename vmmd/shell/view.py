# SPDX-License-Identifier: Apache-2.0
"""A full screen that shows a text again and again: for ``top`` and ``watch``. q, Escape or Ctrl-C leaves."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from prompt_toolkit.application import Application
from prompt_toolkit.formatted_text import ANSI
from prompt_toolkit.key_binding import KeyBindings
from prompt_toolkit.layout import HSplit, Layout, Window
from prompt_toolkit.layout.controls import FormattedTextControl

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from prompt_toolkit.key_binding import KeyPressEvent

#: the wait for the rest of an escape sequence before Escape means itself
ESCAPE_S = 0.1


class View:
    """The screen; ``make`` gives the text for a width, and tells errors as text."""

    def __init__(self, title: str, make: Callable[[int], Awaitable[str]], interval_s: float) -> None:
        self._title = title
        self._make = make
        self._interval_s = interval_s
        self._lines: list[str] = ["…"]
        self._top = 0
        bar = Window(FormattedTextControl(self._foot), height=1, style="reverse")
        body = Window(FormattedTextControl(self._body), wrap_lines=False)
        self._app: Application[None] = Application(
            layout=Layout(HSplit([body, bar])), key_bindings=self._keys(), full_screen=True
        )
        self._app.ttimeoutlen = self._app.timeoutlen = ESCAPE_S

    def _body(self) -> ANSI:
        return ANSI("\n".join(self._lines[self._top :]))

    def _foot(self) -> str:
        return f" {self._title}   every {self._interval_s:g} s   q leaves, ↑ ↓ scroll"

    def _keys(self) -> KeyBindings:
        keys = KeyBindings()
        for name in ("q", "c-c", "escape"):
            keys.add(name)(lambda event: event.app.exit())
        keys.add("up")(lambda _event: self._scroll(-1))
        keys.add("down")(lambda _event: self._scroll(1))
        keys.add("pageup")(lambda event: self._scroll(-_page(event)))
        keys.add("pagedown")(lambda event: self._scroll(_page(event)))
        return keys

    def _scroll(self, lines: int) -> None:
        self._top = max(0, min(self._top + lines, len(self._lines) - 1))

    async def show(self) -> None:
        """Until the user leaves."""
        ticking = asyncio.get_running_loop().create_task(self._tick())
        try:
            await self._app.run_async()
        finally:
            ticking.cancel()

    async def _tick(self) -> None:
        while True:
            text = await self._make(self._app.output.get_size().columns)
            self._lines = text.split("\n")
            self._scroll(0)
            self._app.invalidate()
            await asyncio.sleep(self._interval_s)


def _page(event: KeyPressEvent) -> int:
    return max(1, event.app.output.get_size().rows - 2)
