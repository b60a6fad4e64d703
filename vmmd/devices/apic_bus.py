# SPDX-License-Identifier: Apache-2.0
"""What connects the local APICs in user space: messages, who hears them, the 8259 pair's INT wire.

Intel SDM vol. 3 §11.6.2 (destinations), §11.11 (format of messages). A message is delivered the moment it is sent.

Threads: a message may come from any thread (devices' data planes hold no lock), so ``lock`` guards the state of all
APICs. It is a leaf: under it only ``LocalApic.wake`` is called. Order: DeviceLock, then this.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from vmmd.devices.apic import LocalApic

BROADCAST = 0xFF

FIXED, LOWEST, SMI, NMI, INIT, STARTUP, EXTINT = 0, 1, 2, 4, 5, 6, 7

# a message: address FEE_dd_00r and its data
_DESTINATION_SHIFT, _ADDRESS_LOGICAL = 12, 1 << 2
_DATA_MODE_SHIFT, _DATA_ASSERT, _DATA_LEVEL = 8, 1 << 14, 1 << 15
_FLAT = 0xF  # model in the destination format register; anything else is a cluster


class Message(NamedTuple):
    """What an APIC is told. ``level``: level triggered; ``asserted`` is of meaning for INIT only."""

    mode: int
    vector: int
    level: bool = False
    asserted: bool = True


class ApicBus:
    """All local APICs of a machine."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.apics: list[LocalApic] = []
        #: level of the 8259 pair's INT, which is wired to LINT0 of every APIC
        self.lint0 = 0
        #: the interrupt acknowledge cycle of the 8259 pair; DeviceLock held
        self.acknowledge: Callable[[], int] = lambda: 0
        #: told of the end of every level-triggered interrupt; DeviceLock held
        self.end_of_interrupt: Callable[[int], None] = lambda vector: None

    def deliver(self, address: int, data: int) -> None:
        """A message-signalled interrupt. Any thread."""
        mode, level = data >> _DATA_MODE_SHIFT & 7, bool(data & _DATA_LEVEL)
        message = Message(mode, data & 0xFF, level, not level or bool(data & _DATA_ASSERT))
        self.send(address >> _DESTINATION_SHIFT & 0xFF, message, logical=bool(address & _ADDRESS_LOGICAL))

    def set_intr(self, level: int) -> None:
        """The 8259 pair's INT pin changed."""
        with self.lock:
            self.lint0 = level
            for each in self.apics:
                each.lint0_changed(level)

    def send(self, destination: int, message: Message, *, logical: bool) -> None:
        """To whom ``destination`` names. Any thread."""
        with self.lock:
            self._send_to(self._matching(destination, logical), message)

    def send_others(self, sender: LocalApic, message: Message, *, itself: bool) -> None:
        """To all, with or without the sender."""
        with self.lock:
            self._send_to([each for each in self.apics if itself or each is not sender], message)

    def _send_to(self, targets: Iterable[LocalApic], message: Message) -> None:
        if message.mode == LOWEST:
            able = [each for each in targets if each.enabled]
            targets = (min(able, key=lambda each: each.processor_priority),) if able else ()
            message = message._replace(mode=FIXED)
        for each in targets:
            each.accept(message)

    def _matching(self, destination: int, logical: bool) -> list[LocalApic]:
        if destination == BROADCAST:
            return self.apics
        if not logical:
            return [each for each in self.apics if each.apic_id == destination]
        return [each for each in self.apics if _hears(each, destination)]


def _hears(apic: LocalApic, destination: int) -> bool:
    """A logical destination: one bit per APIC, or a cluster and one bit in it."""
    own = apic.logical_id
    if apic.model == _FLAT:
        return bool(own & destination)
    return own >> 4 == destination >> 4 and bool(own & destination & 0xF)
