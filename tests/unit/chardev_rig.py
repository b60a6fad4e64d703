# SPDX-License-Identifier: Apache-2.0
"""Character devices for tests: their options from the real models, by attribute name; and a front end for them."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vmmd.chardev import create
from vmmd.options.backends import CHARDEVS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from vmmd.core.backend import CharEvent
    from vmmd.core.fdsets import FdSets
    from vmmd.core.notify import LoopPort
    from vmmd.options.backends import ChardevOptions


class Frontend:
    """Takes ``room`` bytes and remembers what came."""

    def __init__(self, room: int = 1 << 20) -> None:
        self.room = room
        self.data = b""
        self.events: list[CharEvent] = []
        self.ready = 0

    def can_receive(self) -> int:
        return self.room

    def receive(self, data: bytes) -> None:
        assert len(data) <= self.room
        self.data += data
        self.room -= len(data)

    def handle_event(self, event: CharEvent) -> None:
        self.events.append(event)

    def write_ready(self) -> None:
        self.ready += 1


def chardev_options(backend: str, id_: str = "c0", **given: object) -> Any:
    """The checked options of one ``-chardev``. Raises UsageError."""
    made: ChardevOptions = CHARDEVS[backend]()
    names = {declared.name: declared.wire_name for declared in made.each()}
    for name, value in {"id": id_, **given}.items():
        made.values[name] = value
        made.given.add(names[name])
    made.check(f"-chardev {backend},id={id_}")
    return made


@contextmanager
def chardevs(loop: LoopPort) -> Iterator[Callable[..., Any]]:
    """``make(backend, **options)``: an open character device, which is closed at the end."""
    made = []

    def make(backend: str, *, fdsets: FdSets | None = None, **options: Any) -> Any:
        chardev = create(chardev_options(backend, **options), loop, threading.Lock(), fdsets)
        made.append(chardev)
        chardev.open()
        return chardev

    try:
        yield make
    finally:
        for each in made:
            each.close()
