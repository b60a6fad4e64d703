# SPDX-License-Identifier: Apache-2.0
"""Runs one line: a QMP command, or one of the shell's own words that give an answer (help, hmp, events).

The answer is a value and its kind, for programs or for people. Errors are LineError (nothing was sent) and ShellError.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from vmmd.shell.completion import WORDS
from vmmd.shell.errors import ShellError
from vmmd.shell.help import of_command, overview
from vmmd.shell.line import LineError, tokens
from vmmd.shell.live import Key
from vmmd.shell.render import event_text, hmp_text, pretty
from vmmd.shell.request import Request, parse, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from vmmd.shell.link import Session
    from vmmd.shell.live import Live

EVENTS_QUERY = "__org.vmmd_query-events"
EVENTS_KEPT = 1000
EVENTS_SHOWN = 50


class Numbered(NamedTuple):
    """An event and its number."""

    number: int
    event: dict[str, Any]


class Answer(NamedTuple):
    """What a line gives. ``note`` is for people only."""

    kind: Literal["json", "hmp", "events", "text"]
    value: Any
    note: str = ""

    def text(self, colour: bool) -> str:
        """The answer for people."""
        if self.kind == "json":
            return pretty(self.value, colour) if self.value != {} else "OK"
        if self.kind == "hmp":
            return hmp_text(self.value)
        if self.kind == "events":
            lines = [event_text(each["event"], colour, each["number"]) for each in self.value]
            return "\n".join([*lines, self.note] if self.note else lines)
        return str(self.value)


class EventLog:
    """The events that this shell saw, numbered by it."""

    def __init__(self) -> None:
        self._events: deque[Numbered] = deque(maxlen=EVENTS_KEPT)
        self._next = 1

    def add(self, event: dict[str, Any]) -> None:
        """Keep an event; the oldest one goes when there are too many."""
        self._events.append(Numbered(self._next, event))
        self._next += 1

    def since(self, number: int) -> list[Numbered]:
        """The events with this number and later ones."""
        return [each for each in self._events if each.number >= number]

    def last(self, count: int) -> list[dict[str, Any]]:
        """The newest events, oldest first."""
        start = max(0, len(self._events) - count)
        return [each.event for each in islice(self._events, start, None)]


class Executor:
    """Runs lines over the session of the moment."""

    def __init__(
        self,
        session: Callable[[], Session],
        log: EventLog,
        live: Callable[[], Live | None] = lambda: None,
        width: Callable[[], int] = lambda: 100,
        hasty: bool = False,
    ) -> None:
        self._session = session
        self._log = log
        self._live = live
        self._width = width
        self._hasty = hasty  # a line that is only a command is sent without asking for the schema

    async def run(self, line: str, timeout_s: float | None = None) -> Answer:
        """The answer to a line."""
        word, *rest = line.split(maxsplit=1) or [""]
        after = rest[0].rstrip() if rest else ""
        if word == "help":
            return await self._help(after, line)
        if word == "hmp":
            arguments = {"command-line": after}
            return Answer("hmp", await self._session().execute("human-monitor-command", arguments, timeout_s=timeout_s))
        if word == "events":
            return await self._events(line)
        if word in WORDS:
            raise ShellError(f"'{word}' is for a terminal")
        return await self.send(await self.request(line), timeout_s)

    async def request(self, line: str) -> Request:
        """The request of a line; the schema is asked for only when the line needs it."""
        word = line.strip()
        if self._hasty and word and not set(word) & set(" =\t\n'\"{["):
            return Request(word, {})
        schema = await self._session().load_schema()
        properties = await self._driver_properties(line)
        try:
            return parse(line, schema, lambda driver: properties)
        except LineError as error:
            if error.hint or not error.message.startswith("there is no command"):
                raise
            first = tokens(line)[0]
            raise unknown("command", first.value, (*schema.commands, *WORDS), first.start, first.end) from None

    async def _driver_properties(self, line: str) -> Mapping[str, str]:
        """Types of the properties of the driver that a device_add names."""
        live = self._live()
        driver = next((token.value for token in tokens(line) if token.key == "driver"), None)
        if live is None or not line.lstrip().startswith("device_add") or not isinstance(driver, str):
            return {}
        key = Key("driver-properties", driver)
        if live.get(key) is None:
            await live.settle([key])
        return {item.name: item.type for item in live.get(key) or ()}

    async def send(self, request: Request, timeout_s: float | None = None) -> Answer:
        """Send a request and wait for its return."""
        value = await self._session().execute(
            request.command, request.arguments or None, out_of_band=request.out_of_band, timeout_s=timeout_s
        )
        return Answer("json", value)

    async def _help(self, name: str, line: str) -> Answer:
        schema = await self._session().load_schema()
        if not name:
            return Answer("text", overview(schema, self._width()))
        text = of_command(name, schema)
        if text is None:
            start = line.rindex(name)
            raise unknown(
                "command or event", name, (*schema.commands, *schema.events, *WORDS), start, start + len(name)
            )
        return Answer("text", text)

    async def _events(self, line: str) -> Answer:
        since = _since(line)
        session = self._session()
        await session.load_schema()
        if session.has(EVENTS_QUERY):
            answer = await session.execute(EVENTS_QUERY, {"since": since})
            found, lost = _events_of(answer)
            note = f"{lost} older events are no longer kept" if lost else ""
        else:
            found = [{"number": each.number, "event": each.event} for each in self._log.since(since)]
            note = "(the peer keeps no events; these are those that this shell saw, numbered by it)"
        if not since and len(found) > EVENTS_SHOWN:
            found = found[-EVENTS_SHOWN:]
        return Answer("events", found, note)


def _events_of(answer: Any) -> tuple[list[dict[str, Any]], int]:
    """The numbered events of vmmd's answer, and how many are lost; raises ShellError."""
    try:
        events = [{"number": int(each["number"]), "event": dict(each["event"])} for each in answer["events"]]
        return events, int(answer["lost"])
    except (KeyError, TypeError, ValueError):
        raise ShellError(f"the answer to {EVENTS_QUERY} is of another shape") from None


def _since(line: str) -> int:
    """The N of ``events since N``; 0 for ``events``."""
    words = tokens(line)[1:]
    if not words:
        return 0
    if len(words) != 2 or words[0].value != "since":
        raise LineError("events takes nothing, or 'since' and a number", words[0].start, words[-1].end)
    text = str(words[1].value)
    if not (text.isascii() and text.isdigit()) or len(text) > 18:
        raise LineError("this is no event's number", words[1].start, words[1].end)
    return int(text)
