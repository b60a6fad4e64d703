# SPDX-License-Identifier: Apache-2.0
"""prompt_toolkit's view of ``completion``, and the Tab key. Event-loop thread only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, get_common_complete_suffix
from prompt_toolkit.key_binding import KeyBindings

from vmmd.shell import completion
from vmmd.shell.render import one_line

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from prompt_toolkit.buffer import Buffer
    from prompt_toolkit.document import Document
    from prompt_toolkit.key_binding import KeyPressEvent

    from vmmd.shell.live import Item, Key, Live
    from vmmd.shell.schema import Schema

NOTE_CELLS = 60


class Knowledge(Protocol):
    """What is known of the peer at the moment."""

    live: Live | None

    @property
    def schema(self) -> Schema:
        """The schema, an empty one while it is not known."""
        ...


class LineCompleter(Completer):
    """What is known comes at once, what must be asked of the peer comes later.

    Tab is bound here: prompt_toolkit's own ignores it while the completion begun by typing still runs.
    """

    def __init__(self, known: Knowledge, in_hmp: bool = False) -> None:
        self._peer = known
        self._in_hmp = in_hmp

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """What is known now."""
        return self._known(document, [])

    async def get_completions_async(
        self, document: Document, complete_event: CompleteEvent
    ) -> AsyncGenerator[Completion, None]:
        """What is known now, then what the peer answers."""
        asked: list[Key] = []
        first = self._known(document, asked)
        for each in first:
            yield each
        live = self._peer.live
        if asked and live is not None:
            await live.settle(asked)
            shown = {(each.text, each.start_position) for each in first}
            for each in self._known(document, []):
                if (each.text, each.start_position) not in shown:
                    yield each

    def keys(self) -> KeyBindings:
        """Tab: the next candidate of the menu, or as much as all candidates have in common."""
        keys = KeyBindings()

        @keys.add("tab")
        def _tab(event: KeyPressEvent) -> None:
            menu = event.current_buffer.complete_state
            if menu is not None and menu.completions:
                event.current_buffer.complete_next()
            else:
                event.app.create_background_task(self._complete(event.current_buffer))

        return keys

    async def _complete(self, buffer: Buffer) -> None:
        document = buffer.document
        found = [each async for each in self.get_completions_async(document, CompleteEvent(completion_requested=True))]
        if buffer.document != document:
            return  # something was typed meanwhile
        common = get_common_complete_suffix(document, found)
        if len(found) == 1:
            buffer.apply_completion(found[0])
        elif common:
            buffer.insert_text(common)
        else:
            buffer.start_completion()

    def _known(self, document: Document, asked: list[Key]) -> list[Completion]:
        live = self._peer.live

        def lookup(key: Key) -> tuple[Item, ...] | None:
            items = live.get(key) if live is not None else ()
            if live is not None and live.asking(key):
                asked.append(key)
            return items

        before = document.text_before_cursor
        if self._in_hmp:
            found = completion.hmp(before, lookup)
        else:
            found = completion.complete(before, document.text_after_cursor, self._peer.schema, lookup)
        return [
            Completion(each.text, each.start - len(before), display_meta=one_line(each.note, NOTE_CELLS))
            for each in found
        ]
