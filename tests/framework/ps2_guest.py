# SPDX-License-Identifier: Apache-2.0
"""A keyboard controller of a whole emulator, driven by ports 60h and 64h, and by QMP in a person's place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from tests.framework.qtest import Qtest

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

DATA, COMMAND = 0x60, 0x64
FULL, AUX = 0x01, 0x20
#: the status without bit 3 (last write was a command), which QEMU shows as set always
STATUS_COMPARED = 0xFF & ~0x08
KEYBOARD_IRQ, MOUSE_IRQ = 1, 12
BYTES_MAX = 1000
TO_MOUSE = 0xD4
HALT = bytes((0xFA, 0xF4, 0xEB, 0xFD))  # cli; hlt; jmp back
ROM_BYTES = 0x10000
RESET_VECTOR = 0xFFF0


def halted_firmware(directory: Path) -> Path:
    """A ROM that stops its vCPU: QEMU without qtest takes input only while the guest runs."""
    rom = bytearray(ROM_BYTES)
    rom[RESET_VECTOR : RESET_VECTOR + len(HALT)] = HALT
    path = directory / "halt.rom"
    path.write_bytes(rom)
    return path


class Ps2Guest:
    """``with Ps2Guest("qemu", directory) as guest`` starts the emulator and lets it run."""

    def __init__(self, program: str, directory: Path, *arguments: str) -> None:
        self.vm = Qtest(program, "-nodefaults", "-m", "16", "-bios", str(halted_firmware(directory)), *arguments)

    def __enter__(self) -> Self:
        self.vm.start()
        self.vm.irq_intercept_in()
        if not self.vm.has_clock:
            self.vm.qmp("cont")
            self.vm.wait_event("RESUME")
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.vm.__exit__(kind, exc, tb)

    # -- the guest ---------------------------------------------------------------------------------------------

    @property
    def status(self) -> int:
        return self.vm.inb(COMMAND) & STATUS_COMPARED

    def read(self) -> int:
        return self.vm.inb(DATA)

    def command(self, value: int, *data: int) -> None:
        self.vm.outb(COMMAND, value)
        for byte in data:
            self.vm.outb(DATA, byte)

    def drain(self) -> list[tuple[int, int]]:
        """Every byte that there is, as (status, byte)."""
        found: list[tuple[int, int]] = []
        while (status := self.status) & FULL:
            found.append((status, self.read()))
            assert len(found) < BYTES_MAX
        return found

    def text(self) -> str:
        """Every byte that there is, in hexadecimal."""
        return " ".join(f"{byte:02x}" for _, byte in self.drain())

    def keyboard(self, *values: int) -> None:
        for value in values:
            self.vm.outb(DATA, value)

    def mouse(self, *values: int) -> list[list[tuple[int, int]]]:
        """Bytes to the mouse; what is read after each."""
        answers = []
        for value in values:
            self.command(TO_MOUSE, value)
            answers.append(self.drain())
        return answers

    def edges(self) -> list[tuple[int, int]]:
        """Changes of both interrupts since the last call, (interrupt, level)."""
        self.vm.inb(0)  # they come before the next reply
        found = [edge for edge in self.vm.irq_edges if edge[0] in (KEYBOARD_IRQ, MOUSE_IRQ)]
        self.vm.irq_edges.clear()
        return found

    # -- the person --------------------------------------------------------------------------------------------

    def send(self, *events: dict[str, Any]) -> None:
        self.vm.qmp("input-send-event", events=list(events))

    def key(self, name: str, *, down: bool) -> None:
        self.send({"type": "key", "data": {"down": down, "key": {"type": "qcode", "data": name}}})

    def move(self, x: int, y: int) -> None:
        self.send(*({"type": "rel", "data": {"axis": axis, "value": by}} for axis, by in (("x", x), ("y", y))))

    def button(self, name: str, *, down: bool) -> None:
        self.send({"type": "btn", "data": {"button": name, "down": down}})
