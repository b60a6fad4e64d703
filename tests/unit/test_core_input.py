# SPDX-License-Identifier: Apache-2.0
"""Input: routing, and keys that are pressed by the virtual clock."""

from __future__ import annotations

import typing

import pytest

from vmmd.core.clock import ManualClock
from vmmd.core.input import (
    BUTTONS,
    STEPS_MAX,
    AbsoluteEvent,
    ButtonEvent,
    InputEvent,
    InputRouter,
    KeyEvent,
    Leds,
    Mouse,
    RelativeEvent,
)
from vmmd.core.keycodes import scan_codes
from vmmd.errors import StateError, UsageError

MS = 1_000_000


class Sink:
    def __init__(self) -> None:
        self.seen: list[InputEvent | str] = []

    def input_event(self, event: InputEvent) -> None:
        self.seen.append(event)

    def input_sync(self) -> None:
        self.seen.append("sync")


class Desk:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.running = True
        self.router = InputRouter(lambda: self.clock, lambda: self.running)
        self.keyboard, self.mouse, self.tablet = Sink(), Sink(), Sink()
        self.router.add("keyboard", {"key"}, self.keyboard)
        self.router.add("mouse", {"btn", "rel"}, self.mouse)
        self.remove_tablet = self.router.add("tablet", {"btn", "abs"}, self.tablet)

    def typed(self) -> list[tuple[int, str]]:
        """(milliseconds, key) in order; a release has a "-"."""
        seen = []
        while (due := self.clock.next_deadline()) is not None:
            self._collect(seen)
            self.clock.advance(due - self.clock.now_ns())
        self._collect(seen)
        return seen

    def _collect(self, seen: list[tuple[int, str]]) -> None:
        now_ms = self.clock.now_ns() // MS
        keys = (each for each in self.keyboard.seen if isinstance(each, KeyEvent))
        seen.extend((now_ms, ("" if each.down else "-") + each.key) for each in keys)
        self.keyboard.seen.clear()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_each_event_goes_to_the_first_that_takes_it_and_the_moment_ends_once(desk: Desk) -> None:
    events = [RelativeEvent("x", 1), AbsoluteEvent("y", 2), ButtonEvent("left", down=True), KeyEvent("a", down=True)]
    desk.router.send(events)
    assert desk.mouse.seen == [events[0], events[2], "sync"]
    assert desk.tablet.seen == [events[1], "sync"]
    assert desk.keyboard.seen == [events[3], "sync"]
    assert desk.router.buttons == {"left"}


def test_the_mouse_that_is_selected_comes_first(desk: Desk) -> None:
    assert desk.router.mice() == [Mouse(2, "mouse", False, True), Mouse(3, "tablet", True, False)]
    desk.router.select_mouse(3)
    assert desk.router.mice() == [Mouse(3, "tablet", True, True), Mouse(2, "mouse", False, False)]
    desk.router.send([ButtonEvent("left", down=True)])
    assert desk.mouse.seen == []
    with pytest.raises(UsageError, match="Mouse at index '7' not found"):
        desk.router.select_mouse(7)
    with pytest.raises(UsageError, match="Input device 'keyboard' is not a mouse"):
        desk.router.select_mouse(1)
    desk.remove_tablet()
    assert desk.router.mice() == [Mouse(2, "mouse", False, True)]
    assert not desk.router.takes("abs")
    desk.router.send([AbsoluteEvent("x", 0)])  # nobody


def test_a_stopped_guest_gets_nothing(desk: Desk) -> None:
    desk.running = False
    desk.router.send([KeyEvent("a", down=True)])
    desk.router.typer.type(["a"])
    desk.running = True
    assert desk.typed() == []


def test_keys_are_pressed_in_order_and_released_in_reverse(desk: Desk) -> None:
    desk.router.typer.type(["ctrl", "alt", "delete"], 50)
    desk.router.typer.type(["b"])
    assert desk.typed() == [
        (0, "ctrl"), (50, "alt"), (100, "delete"), (150, "-delete"), (200, "-alt"), (250, "-ctrl"), (300, "b"),
        (310, "-b"),
    ]  # fmt: skip
    desk.clock.advance(1000 * MS)
    start = desk.clock.now_ns() // MS
    desk.router.typer.type(["c"])
    assert desk.typed() == [(start, "c"), (start + 10, "-c")]


def test_waiting_keys_are_bounded_and_refused_whole(desk: Desk) -> None:
    for _ in range(STEPS_MAX // 2):
        desk.router.typer.type(["a"])
    desk.router.typer.type([])
    with pytest.raises(StateError, match="too many keys are waiting; 511 of at most 512"):
        desk.router.typer.type(["b", "c"])
    assert len(desk.typed()) == STEPS_MAX
    desk.router.typer.type(["b", "c"])


@pytest.mark.parametrize("hold_ms", [0, -1, 1 << 31])
def test_how_long_keys_may_be_held(desk: Desk, hold_ms: int) -> None:
    with pytest.raises(UsageError, match="Parameter 'hold-time' expects a positive number"):
        desk.router.typer.type(["a"], hold_ms)
    assert desk.typed() == []


def test_without_a_keyboard_keys_are_refused() -> None:
    router = InputRouter(ManualClock, lambda: True)
    with pytest.raises(UsageError, match="Input handler not found for event type key"):
        router.typer.type(["a"])


def test_lamps_are_told_when_they_change(desk: Desk) -> None:
    seen: list[Leds] = []
    desk.router.on_leds.append(seen.append)
    for leds in (Leds(caps_lock=True), Leds(caps_lock=True), Leds()):
        desk.router.set_leds(leds)
    assert seen == [Leds(caps_lock=True), Leds()]


def test_qmp_knows_the_same_keys_and_buttons() -> None:
    from vmmd.qmp.models import ui

    assert typing.get_args(ui.QKeyCode) == tuple(scan_codes())
    assert typing.get_args(ui.InputButton) == BUTTONS
