# SPDX-License-Identifier: Apache-2.0
"""Keyboard controller, keyboard and mouse on a machine of fakes, driven as a guest and a person drive them."""

from __future__ import annotations

from tests.unit.fakes import FakeMachine, make_context, props
from vmmd.core.input import ButtonEvent, InputEvent, KeyEvent, RelativeEvent
from vmmd.devices.isa.i8042 import I8042

DATA, COMMAND = 0x60, 0x64
FULL, SYSTEM, AUX = 0x01, 0x04, 0x20
TO_MOUSE = 0xD4
#: more bytes than anything here queues
BYTES_MAX = 1000


class Ps2Rig:
    """The controller with both devices; the mouse is silent until the guest enables it."""

    def __init__(self, **properties: str) -> None:
        self.machine: FakeMachine = make_context()
        self.controller = I8042(props(I8042, **properties), self.machine.ctx)
        for device in (self.controller, self.controller.keyboard, self.controller.mouse):
            device.plug()

    @property
    def status(self) -> int:
        return self.machine.pio.read(COMMAND, 1)

    def command(self, value: int, *data: int) -> None:
        self.machine.pio.write(COMMAND, 1, value)
        for byte in data:
            self.machine.pio.write(DATA, 1, byte)

    def read(self) -> int:
        return self.machine.pio.read(DATA, 1)

    def drain(self) -> str:
        """Every byte that there is, in hexadecimal; a byte of the mouse is marked by "m"."""
        found = []
        while (status := self.status) & FULL:
            found.append(("m" if status & AUX else "") + f"{self.read():02x}")
            assert len(found) < BYTES_MAX
        return " ".join(found)

    def keyboard(self, *values: int) -> str:
        """Bytes to the keyboard, and all that is read then."""
        for value in values:
            self.machine.pio.write(DATA, 1, value)
        return self.drain()

    def mouse(self, *values: int) -> str:
        """Bytes to the mouse, each followed by reading all that there is."""
        answers = []
        for value in values:
            self.command(TO_MOUSE, value)
            answers.append(self.drain().replace("m", ""))
        return " ".join(answers)

    def send(self, *events: InputEvent) -> None:
        self.machine.inputs.send(events)

    def keys(self, words: str) -> str:
        """Keys go down, or up with a "-" in front; all that is read then."""
        for word in words.split():
            self.send(KeyEvent(word.removeprefix("-"), down=not word.startswith("-")))
        return self.drain()

    def move(self, x: int, y: int = 0) -> None:
        self.send(RelativeEvent("x", x), RelativeEvent("y", y))

    def button(self, name: str, *, down: bool) -> None:
        self.send(ButtonEvent(name, down))

    def reports(self) -> str:
        return self.drain().replace("m", "")
