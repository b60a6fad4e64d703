# SPDX-License-Identifier: Apache-2.0
"""What README.md shows of vmmd-shell: the steps, driven in a real terminal against a running guest.

`scripts/record-shell` writes the screens into the document; the tests drive the same steps, so what is shown works.
Every step waits for what it shows.
"""

from __future__ import annotations

import os
import re
import sys
from typing import TYPE_CHECKING, NamedTuple

from tests.framework.guests import grub_legacy_disk
from tests.framework.terminal import Terminal
from tests.framework.vm import REPOSITORY, Vm, emulator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DOCUMENT = REPOSITORY / "README.md"
BEGIN = "<!-- recorded by scripts/record-shell -->\n"
END = "<!-- end of the recording -->\n"
COLUMNS = 100
ROWS = 30
#: CPU flags that a KVM which emulates kernel code in software does not know; harmless on an ordinary host
CPU = "qemu64,-cx16,-pni,-xsave"


class Scene(NamedTuple):
    """A screen and what it shows."""

    caption: str
    screen: str


def guest() -> Vm:
    """GRUB Legacy on a virtio disk, running."""
    return Vm(
        emulator("vmmd"),
        ["-name", "demo", "-machine", "pc,accel=kvm", "-cpu", CPU, "-m", "64", "-nodefaults",
         "-drive", f"file={grub_legacy_disk().path},format=raw,if=none,id=disk0,readonly=on",
         "-device", "virtio-blk-pci,drive=disk0,id=vd0,bootindex=0", "-serial", "null"],
        serial=False,
    )  # fmt: skip


def record(vm: Vm, home: Path) -> list[Scene]:
    """Drive the shell on *vm*; its history goes below *home*."""
    environment = {"XDG_STATE_HOME": str(home), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "vmmd.shell", "monitor.sock"]
    with Terminal(command, columns=COLUMNS, rows=ROWS, env=environment, cwd=vm.directory) as terminal:
        terminal.wait_for("vmmd>", "| connected | running | demo |")
        return list(_scenes(terminal))


def _scenes(terminal: Terminal) -> Iterator[Scene]:
    terminal.type("qom-get path=/machine/peripheral/vd0 property=")
    terminal.wait_for("realized", "hotpluggable")
    terminal.type("dis")
    terminal.wait(lambda screen: "disable-modern" in screen and "realized" not in screen, "what begins with dis")
    yield Scene("Completion of what is in this machine, here the properties of a disk", _shown(terminal))
    terminal.press("C-u", "C-l")
    terminal.line("qom-get path=/machine/peripheral/vd0 proprety=addr")
    terminal.wait_for("did you mean 'property'?")
    terminal.line("qom-get path=/machine/peripheral/vd0 property=addr")
    terminal.wait(lambda screen: re.search(r"property=addr\n\d+\nvmmd>$", _body(screen)) is not None, "a number")
    yield Scene("A mistake is told before anything is sent", _shown(terminal))
    terminal.press("C-l")
    terminal.line("stop")
    terminal.wait_for("STOP", "| paused |")
    terminal.line("cont")
    terminal.wait_for("RESUME", "| running |")
    terminal.line("hmp info status")
    terminal.wait_for("VM status: running", "| running |")
    terminal.wait_for_last("vmmd>")
    yield Scene("Events as they come; `hmp` speaks the monitor for people", _shown(terminal))
    terminal.line("top -n 0.5")
    terminal.wait_for("vCPUs", "exits by reason", "virtqueues", "disks", "RESUME")
    yield Scene("`top`", terminal.screen())
    terminal.press("q")
    terminal.wait_for_last("vmmd>")
    terminal.line("exit")
    assert terminal.status() == 0


def _body(screen: str) -> str:
    """The screen above the tool bar."""
    return screen.rpartition("\n")[0].rstrip("\n")


def _shown(terminal: Terminal) -> str:
    """The screen without the empty lines above the tool bar."""
    screen = terminal.screen()
    bar = screen.rpartition("\n")[2]
    return f"{_body(screen)}\n{bar}"


def text(scenes: list[Scene]) -> str:
    """The scenes as Markdown."""
    return "".join(f"{scene.caption}:\n\n```text\n{scene.screen}\n```\n\n" for scene in scenes).rstrip("\n") + "\n"


def recorded() -> str:
    """What the document shows now."""
    return DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]


def constant(shown: str) -> list[str]:
    """Of a recording, what is the same every time: captions, what was typed, what was said to mistakes."""
    return re.findall(r"^(?:.*:|vmmd> .*|.*did you mean.*)$", shown, re.MULTILINE)
