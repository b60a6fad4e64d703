# SPDX-License-Identifier: Apache-2.0
"""Trace events and log items: what vmmd tells of its insides when asked to.

An event is declared once, in ``trace_events``, and used where it happens:

    VIRTIO_SET_STATUS = TraceEvent("virtio_set_status", "vdev {dev} val {val}")
    …
    if VIRTIO_SET_STATUS.on:
        VIRTIO_SET_STATUS(self.name, value)

Switched off, that costs one look at an attribute. Loops that cannot afford even that have a second version of their
code, which ``watch`` puts in place while the event is on. The fields of the text are the arguments, in their order;
values are numbers and strings, which the writer's thread (``trace_output``) turns into a line: no vCPU waits for a
terminal or a disk. An event with a field ``{dev}`` can be switched on for single devices, one that is declared
``per_vcpu`` for single vCPUs.

Names are QEMU's where QEMU has the same event. State is changed on the loop, or before it runs; it is read anywhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.core.trace_output import as_is, output
from vmmd.errors import BackendError, UsageError
from vmmd.messages import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    #: a vCPU's number, or a device's name
    Subject = int | str

#: every event by name, in order of declaration; complete when ``trace_events`` is imported
EVENTS: dict[str, TraceEvent] = {}

#: characters of a file of names that are read
_FILE_MAX = 1 << 20
#: characters of a wrong word that errors show
_SHOWN_MAX = 80


class _Switch:
    """Something that is reported or not. ``on`` is read wherever it happens."""

    __slots__ = ("_watchers", "name", "on")

    def __init__(self, name: str) -> None:
        self.name = name
        self.on = False
        self._watchers: list[Callable[[], None]] = []

    def watch(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call ``callback`` whenever this is switched; returns the undo function. The caller looks first itself."""
        self._watchers.append(callback)
        return lambda: self._watchers.remove(callback)

    def _switched(self) -> None:
        if self.on:
            output.needed()
        for callback in list(self._watchers):
            callback()


class TraceEvent(_Switch):
    """A thing that happens. Call it with the values of its fields when it is ``on``."""

    __slots__ = ("_filter_at", "_line", "fields", "only", "per_vcpu")

    def __init__(self, name: str, text: str = "", *, per_vcpu: bool = False) -> None:
        super().__init__(name)
        self.fields = tuple(part.partition("}")[0].partition(":")[0] for part in text.split("{")[1:])
        self.per_vcpu = per_vcpu  # its field {cpu} says of which vCPU it is
        #: on for these alone; None: for all
        self.only: frozenset[Subject] | None = None
        key = "cpu" if per_vcpu else "dev"
        self._filter_at = self.fields.index(key) if key in self.fields else None
        self._line = f"{name} {text}"
        EVENTS[name] = self

    def __call__(self, *values: object) -> None:
        """Write it. Any thread, never blocks."""
        if self.only is None or (self._filter_at is not None and values[self._filter_at] in self.only):
            output.put(self._render, values)

    def _render(self, values: tuple[object, ...]) -> str:
        return self._line.format(**dict(zip(self.fields, values, strict=True)))

    @property
    def per_device(self) -> bool:
        """Whether it can be switched for single devices."""
        return not self.per_vcpu and self._filter_at is not None

    def is_on(self, subject: Subject) -> bool:
        """Whether it is on for this vCPU or device."""
        return self.on and (self.only is None or subject in self.only)

    def switch(self, *, on: bool, subject: Subject | None = None, everyone: Iterable[Subject] = ()) -> None:
        """On or off, for all or for one. ``everyone``: who is left when an event that was on for all is off for one."""
        only: frozenset[Subject] | None = None
        if subject is not None:
            before = frozenset(everyone) if self.only is None else self.only
            if on:
                only = None if self.on and self.only is None else (before if self.on else frozenset()) | {subject}
            else:
                only = before - {subject} if self.on else None
                on = bool(only)
        self.only = only if on else None
        self.on = on
        self._switched()


class LogItem(_Switch):
    """A kind of message that is written when asked for (-d). Call it, when it is ``on``, with the text."""

    __slots__ = ("help",)

    def __init__(self, name: str, help_text: str) -> None:
        super().__init__(name)
        self.help = help_text

    def __call__(self, text: str) -> None:
        """Write it. Any thread, never blocks."""
        for line in text.split("\n"):
            output.put(as_is, (line,))

    def switch(self, *, on: bool) -> None:
        if on != self.on:
            self.on = on
            self._switched()


GUEST_ERRORS = LogItem("guest_errors", "what the guest does wrong, such as an access to no device")
UNIMP = LogItem("unimp", "what the guest asks for and this version does not have")
CPU_RESET = LogItem("cpu_reset", "registers of the vCPUs before a reset")
LOG_ITEMS = {item.name: item for item in (GUEST_ERRORS, UNIMP, CPU_RESET)}


def find(pattern: str) -> list[TraceEvent]:
    """The events of this name, or of a pattern with ``*``, which may match none. Raises UsageError."""
    import vmmd.core.trace_events  # noqa: F401  # declares them

    if "*" not in pattern:
        if pattern not in EVENTS:
            # QEMU-COMPAT: the phrase
            raise UsageError(f'unknown event "{pattern}"', "* lists all events")
        return [EVENTS[pattern]]
    head, *middle, tail = pattern.split("*")
    middle = [part for part in middle if part]
    return [event for name, event in EVENTS.items() if _matches(name, head, middle, tail)]


def _matches(name: str, head: str, middle: list[str], tail: str) -> bool:
    """Whether the name begins with ``head``, ends with ``tail``, and has the parts of ``middle`` between them."""
    if not (name.startswith(head) and name.endswith(tail)) or len(name) < len(head) + len(tail):
        return False
    at, end = len(head), len(name) - len(tail)
    for part in middle:
        at = name.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


class LogRequest:
    """``-d`` or ``log``: checked when made. Raises UsageError."""

    __slots__ = ("items", "patterns")

    def __init__(self, text: str) -> None:
        self.items: list[LogItem] = []
        self.patterns: list[str] = []
        for word in text.split(","):
            if word.startswith("trace:"):
                self.patterns.append(word.removeprefix("trace:"))
            elif word in LOG_ITEMS:
                self.items.append(LOG_ITEMS[word])
            else:
                known = ", ".join((*LOG_ITEMS, "trace:PATTERN"))
                raise UsageError(
                    f"'{printable(word[:_SHOWN_MAX])}' is no log item of this version", f"there are: {known}"
                )

    def apply(self) -> list[str]:
        """These items are on, others off; these events on. Returns warnings."""
        for item in LOG_ITEMS.values():
            item.switch(on=item in self.items)
        return [warning for pattern in self.patterns for warning in enable(pattern)]


def log_nothing() -> None:
    """``log none``. QEMU-COMPAT: trace events stay as they are."""
    for item in LOG_ITEMS.values():
        item.switch(on=False)


def enable(pattern: str, *, on: bool = True) -> list[str]:
    """Switch events at the start, or by ``-d``. A name that there is not is a warning, which is returned."""
    try:
        events = find(pattern)
    except UsageError:
        return [f"trace event '{pattern}' does not exist"]  # QEMU-COMPAT: the phrase
    for event in events:
        event.switch(on=on)
    return []


def enable_from_file(path: str) -> list[str]:
    """Switch the events that a file lists, one on a line: ``#`` begins a comment, ``-`` switches off. Returns warnings.
    Raises BackendError."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read(_FILE_MAX).splitlines()
    except OSError as cause:
        raise BackendError.from_os(f"-trace events={path}", cause) from cause
    warnings = []
    for number, line in enumerate(lines, 1):
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            found = enable(pattern.removeprefix("-"), on=not pattern.startswith("-"))
            warnings += [f"{path}:{number}: {warning}" for warning in found]
    return warnings


def log_items_text(first: str = "") -> str:
    """``-d help``; ``first`` comes before the items."""
    lines = [f"{item.name:<15} {item.help}\n" for item in LOG_ITEMS.values()]
    return (
        "Log items (comma separated):\n"
        + first
        + "".join(lines)
        + f"{'trace:PATTERN':<15} trace events (-trace help)\n"
    )


def events_text() -> str:
    """``-trace help``: the names, one on a line."""
    return "".join(f"{event.name}\n" for event in find("*"))
