# SPDX-License-Identifier: Apache-2.0
"""Where BARs map: the same random register writes to QEMU's virtio-blk-pci and to a function of ours."""

from __future__ import annotations

import json
import random
import socket
from typing import TYPE_CHECKING

import pytest

from tests.differential.qtest import Qtest
from tests.unit.chipset import Board, Card, add_card

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.qemu

STEPS = 400
COMMAND = 4
REGISTERS = (COMMAND, COMMAND, 0x10, 0x11, 0x14, 0x16, 0x20, 0x24, 0x24)
COMMANDS = (0, 1, 2, 3, 7, 0x407)
#: values at the edges of what a BAR decodes
EDGES = (
    0, 1, 0x7F, 0x80, 0xFF, 0x100, 0x1000, 0x4000, 0xC000, 0xC001, 0xFF80, 0xFFFF, 0x10000, 0x80000000, 0xE0000000,
    0xFEE00000, 0xFFFF8000, 0xFFFFC000, 0xFFFFE000, 0xFFFFEF80, 0xFFFFF000, 0xFFFFFFF0, 0xFFFFFFFF,
)  # fmt: skip


class BlkBars(Card):
    """The BARs of QEMU's virtio-blk-pci."""

    type_name = "blk-bars"

    class Props(Card.Props):
        pass

    def realize(self) -> None:
        super(Card, self).realize()
        self.add_bar(0, 0x80, "io", name="legacy")
        self.add_bar(1, 0x1000, "mem32", name="msix")
        self.add_bar(4, 0x4000, "mem64", name="modern", prefetch=True)


class QemuPci:
    """Configuration ports by qtest, mappings by query-pci."""

    def __init__(self, directory: Path) -> None:
        path = directory / "qmp"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
            listener.listen()
            disk = ("-drive", "if=none,id=d,driver=null-co,read-zeroes=on", "-device", "virtio-blk-pci,drive=d,addr=2")
            self.qtest = Qtest("-machine", "pc", *disk, "-qmp", f"unix:{path}")
            self._connection, _ = listener.accept()
        self._file = self._connection.makefile("rw")
        self._file.readline()
        self._execute("qmp_capabilities")

    def _execute(self, command: str):
        self._file.write(json.dumps({"execute": command}) + "\n")
        self._file.flush()
        return json.loads(self._file.readline())["return"]

    def regions(self) -> list[tuple[int, int]]:
        """(BAR, address). QEMU shows ports above 64 KiB, which no instruction reaches: they count as not mapped."""
        (device,) = (each for each in self._execute("query-pci")[0]["devices"] if each["slot"] == 2)
        return [
            (each["bar"], -1 if each["type"] == "io" and each["address"] > 0xFFFF else each["address"])
            for each in device["regions"]
        ]

    def close(self) -> None:
        self._file.close()
        self._connection.close()
        self.qtest.__exit__(None, None, None)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_writes_map_bars_as_qemu_does(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    board = Board()
    card = add_card(board, BlkBars)
    qemu = QemuPci(tmp_path)
    try:
        for step in range(STEPS):
            register = rng.choice(REGISTERS)
            size = 2 if register == COMMAND else rng.choice((1, 2, 4, 4, 4)) if register & 3 == 0 else 1
            edge = rng.choice(EDGES) if rng.random() < 0.8 else rng.getrandbits(32)
            value = (rng.choice(COMMANDS) if register == COMMAND else edge) & ((1 << (8 * size)) - 1)
            for ports in (board.machine.pio, qemu.qtest):
                ports.write(0xCF8, 4, 0x8000_1000 | register & ~3)
                ports.write(0xCFC + (register & 3), size, value)
            (info,) = (each for each in board.bus.query() if each.slot == 2)
            ours = [(region.bar, region.address) for region in info.regions]
            assert ours == qemu.regions(), (
                f"step {step}: {size} bytes {value:#x} to {register:#x} of {card.config.data[:0x28]}"
            )
    finally:
        qemu.close()
