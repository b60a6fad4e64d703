# SPDX-License-Identifier: Apache-2.0
"""``top`` over a session: samples, the frame between the last two, or one frame for scripts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from vmmd.safe_text import safe
from vmmd.shell.errors import ShellError
from vmmd.shell.frame import EVENTS_SHOWN, frame
from vmmd.shell.top import Rates, Sample, sample

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.shell.executor import EventLog
    from vmmd.shell.link import Session


class TopScreen:
    """Makes the frames of ``top``."""

    def __init__(self, session: Callable[[], Session], log: EventLog, colour: bool) -> None:
        self._session = session
        self._log = log
        self._colour = colour
        self._before: Sample | None = None

    async def text(self, width: int) -> str:
        """The next frame; why there is none."""
        try:
            return await self._frame(width)
        except ShellError as error:
            self._before = None
            return safe(str(error))

    async def once(self, interval_s: float, width: int) -> str:
        """One frame with rates over an interval; raises ShellError."""
        await self._frame(width)
        await asyncio.sleep(interval_s)
        return await self._frame(width)

    async def _frame(self, width: int) -> str:
        session = self._session()
        await session.load_schema()
        now = await sample(session)
        made = frame(Rates(now, self._before), session.version, self._log.last(EVENTS_SHOWN), width, self._colour)
        self._before = now
        return made
