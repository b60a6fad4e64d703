# SPDX-License-Identifier: Apache-2.0
"""Input: what a person does at keyboard, mouse and tablet, on its way to the devices of the guest.

Sources (QMP, the monitor for people, later VNC) call ``InputRouter.send`` with the events of one moment; each event
goes to the first receiver for its kind, and receivers that got some are told when the moment is complete.
``KeyTyper`` presses keys and lets them go again by the virtual clock. Receivers are bounded themselves; nothing is
queued here but what ``KeyTyper`` still has to do. All methods run on the loop with the DeviceLock held, unless
stated.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple, Protocol

from vmmd.core.trace_events import (
    INPUT_EVENT_ABS,
    INPUT_EVENT_BTN,
    INPUT_EVENT_KEY_QCODE,
    INPUT_EVENT_REL,
)
from vmmd.errors import StateError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from vmmd.core.clock import Clock, Timer

#: positions of absolute pointers go from 0 to this, left to right and top to bottom
ABSOLUTE_MAX = 0x7FFF
#: presses and releases that wait for their moment
STEPS_MAX = 1024
#: how long keys are held that come without a time
HOLD_DEFAULT_MS = 10
HOLD_MAX_MS = 0x7FFF_FFFF
NS_PER_MS = 1_000_000

#: kinds of events, in QAPI's words
KEY, BUTTON, RELATIVE, ABSOLUTE = "key", "btn", "rel", "abs"
_TRACES = {
    KEY: INPUT_EVENT_KEY_QCODE,
    BUTTON: INPUT_EVENT_BTN,
    RELATIVE: INPUT_EVENT_REL,
    ABSOLUTE: INPUT_EVENT_ABS,
}
BUTTONS = ("left", "middle", "right", "wheel-up", "wheel-down", "side", "extra", "wheel-left", "wheel-right")


class KeyEvent(NamedTuple):
    """A key (QKeyCode) goes down or up. Down while it is down: the source's auto-repeat."""

    key: str
    down: bool

    @property
    def kind(self) -> str:
        return KEY


class ButtonEvent(NamedTuple):
    """A button goes down or up; a wheel is turned by pressing its button."""

    button: str
    down: bool

    @property
    def kind(self) -> str:
        return BUTTON


class RelativeEvent(NamedTuple):
    """The pointer is moved: right and down are positive."""

    axis: str
    value: int

    @property
    def kind(self) -> str:
        return RELATIVE


class AbsoluteEvent(NamedTuple):
    """The pointer is at a place, 0 to ABSOLUTE_MAX."""

    axis: str
    value: int

    @property
    def kind(self) -> str:
        return ABSOLUTE


InputEvent = KeyEvent | ButtonEvent | RelativeEvent | AbsoluteEvent


class Receiver(Protocol):
    """A device that takes input."""

    def input_event(self, event: InputEvent) -> None:
        """One event of a kind that it takes."""

    def input_sync(self) -> None:
        """The events since the last call belong together."""


class Leds(NamedTuple):
    """The lamps of the guest's keyboard."""

    scroll_lock: bool = False
    num_lock: bool = False
    caps_lock: bool = False


class Mouse(NamedTuple):
    """A pointing device as query-mice shows it; ``number`` is its index there."""

    number: int
    name: str
    absolute: bool
    current: bool


class _Entry:
    """A receiver with what it takes."""

    __slots__ = ("index", "kinds", "name", "receiver", "touched")

    def __init__(self, index: int, name: str, kinds: frozenset[str], receiver: Receiver) -> None:
        self.index = index
        self.name = name
        self.kinds = kinds
        self.receiver = receiver
        self.touched = False

    @property
    def points(self) -> bool:
        return bool(self.kinds & {RELATIVE, ABSOLUTE})


class InputRouter:
    """Which device gets what. ``running`` tells whether the guest runs: a stopped machine takes no input."""

    def __init__(self, clock: Callable[[], Clock], running: Callable[[], bool]) -> None:
        self._entries: list[_Entry] = []  # the first one that takes an event gets it
        self._next_index = 1
        self._running = running
        self.typer = KeyTyper(self, clock)
        #: that are down, whoever pressed them
        self.buttons: set[str] = set()
        self.leds = Leds()
        #: told when ``leds`` has changed: on the vCPU's thread that changed them, DeviceLock held
        self.on_leds: list[Callable[[Leds], None]] = []

    def add(self, name: str, kinds: Iterable[str], receiver: Receiver) -> Callable[[], None]:
        """A new receiver, behind the others; returns what takes it out again."""
        entry = _Entry(self._next_index, name, frozenset(kinds), receiver)
        self._next_index += 1
        self._entries.append(entry)
        return lambda: self._entries.remove(entry)

    def activate(self, receiver: Receiver) -> None:
        """Put it before the others: it has begun to be used (a tablet once its driver has found it)."""
        self._entries.sort(key=lambda entry: entry.receiver is not receiver)

    def takes(self, kind: str) -> bool:
        """Somebody takes events of this kind."""
        return self._find(kind) is not None

    def _find(self, kind: str) -> _Entry | None:
        return next((entry for entry in self._entries if kind in entry.kinds), None)

    @property
    def running(self) -> bool:
        return self._running()

    def send(self, events: Iterable[InputEvent]) -> None:
        """Deliver what happens at one moment. What nobody takes is dropped, and everything while the guest stands."""
        if not self._running():
            return
        for event in events:
            trace = _TRACES[event.kind]
            if trace.on:
                trace(*event)
            entry = self._find(event.kind)
            if entry is not None:
                if isinstance(event, ButtonEvent):
                    (self.buttons.add if event.down else self.buttons.discard)(event.button)
                entry.receiver.input_event(event)
                entry.touched = True
        for entry in list(self._entries):
            if entry.touched:
                entry.touched = False
                entry.receiver.input_sync()

    def mice(self) -> list[Mouse]:
        """The pointing devices, the current one first."""
        pointing = [entry for entry in self._entries if entry.points]
        return [Mouse(entry.index, entry.name, ABSOLUTE in entry.kinds, entry is pointing[0]) for entry in pointing]

    def select_mouse(self, index: int) -> None:
        """Make a pointing device the current one. Raises UsageError."""
        entry = next((entry for entry in self._entries if entry.index == index), None)
        if entry is None:
            raise UsageError(f"Mouse at index '{index}' not found", "'info mice' shows those that are there")
        if not entry.points:
            raise UsageError(f"Input device '{entry.name}' is not a mouse", "'info mice' shows the mice")
        self.activate(entry.receiver)

    def set_leds(self, leds: Leds) -> None:
        """The guest has switched lamps. Any thread."""
        if leds != self.leds:
            self.leds = leds
            for listener in list(self.on_leds):
                listener(leds)


class KeyTyper:
    """Presses keys one after the other, holds each, and lets them go in reverse order; by the virtual clock."""

    def __init__(self, router: InputRouter, clock: Callable[[], Clock]) -> None:
        self._router = router
        self._clock = clock
        self._timer: Timer | None = None  # armed while a step is being held
        self._steps: deque[tuple[KeyEvent, int]] = deque()  # with the time until the next one, ns

    def type(self, keys: Sequence[str], hold_ms: int = HOLD_DEFAULT_MS) -> None:
        """Add a combination. A guest that stands takes none of it. Raises UsageError, StateError; nothing is pressed
        then."""
        if not 0 < hold_ms <= HOLD_MAX_MS:
            raise UsageError("Parameter 'hold-time' expects a positive number", f"milliseconds, at most {HOLD_MAX_MS}")
        if not self._router.takes(KEY):
            # QEMU-COMPAT: the sentence of input-send-event
            raise UsageError("Input handler not found for event type key", "the machine has no keyboard")
        if not self._router.running:
            return
        if len(self._steps) + 2 * len(keys) > STEPS_MAX:
            raise StateError(
                "too many keys are waiting", f"{len(self._steps) // 2} of at most {STEPS_MAX // 2}; send them later"
            )
        hold_ns = hold_ms * NS_PER_MS
        self._steps.extend((KeyEvent(key, down=True), hold_ns) for key in keys)
        self._steps.extend((KeyEvent(key, down=False), hold_ns) for key in reversed(keys))
        if self._timer is None or self._timer.deadline_ns is None:
            self._step()

    def _step(self) -> None:
        """Do the next one, and come back when its time is over; after the last one as well."""
        if not self._steps:
            return
        event, hold_ns = self._steps.popleft()
        clock = self._clock()
        if self._timer is None:
            self._timer = clock.timer(self._step)
        self._timer.arm(clock.now_ns() + hold_ns)
        self._router.send((event,))
