# SPDX-License-Identifier: Apache-2.0
"""ACPI PCI hot plug beside QEMU: registers, what may be plugged where, who is told and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.qtest import QmpFailure, Qtest

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.qemu

BASE, GPE0 = 0xAE00, 0xAFE0
EJECT, REMOVABLE, BUS, ACPI_INDEX = BASE + 0x08, BASE + 0x0C, BASE + 0x10, BASE + 0x14
MACHINE = (
    "-nodefaults", "-M", "pc", "-blockdev", "null-co,node-name=n0", "-blockdev", "null-co,node-name=n1",
    "-drive", "if=none,id=dr0,file=null-co://,format=raw",
    "-device", "virtio-rng-pci,id=cold,addr=1e", "-device", "isa-debug-exit,id=dbg",
)  # fmt: skip


class Story:
    """What one emulator answered, in order."""

    def __init__(self, vm: Qtest) -> None:
        self.vm = vm
        self.answers: list[Any] = []

    def look(self) -> None:
        """All registers, some of which forget what is read, and the event."""
        vm = self.vm
        longs = [vm.inl(BASE + offset) for offset in range(0, 0x18, 4)]
        bytes_ = [vm.inb(BASE + offset) for offset in range(0x18)]
        self.answers.append(("registers", [hex(each) for each in longs], any(bytes_), vm.inb(GPE0)))

    def qmp(self, command: str, **arguments: object) -> None:
        try:
            answer: object = self.vm.qmp(command, **arguments)
        except QmpFailure as error:
            # vmmd's hints follow a semicolon; QEMU prints the id of a device that has none
            answer = error.error_class, error.desc.split("; ")[0].replace(",id=(null)", "")
        self.answers.append((command, arguments, answer))

    def add(self, driver: str, id_: str, addr: str, **more: object) -> None:
        self.qmp("device_add", driver=driver, id=id_, addr=addr, **more)

    def port(self, port: int, value: int) -> None:
        self.vm.outl(port, value)

    def gone(self, count: int) -> None:
        """So many events say that a device is gone: QEMU sends them a while later."""
        events = [self.vm.wait_event("DEVICE_DELETED")["data"] for _ in range(count)]
        self.answers.append(("gone", events))

    def identity(self, slot: int, function: int = 0) -> None:
        self.answers.append(("identity", slot, function, hex(self.vm.pci(slot, function).config_read(0, 4))))


def plugged_and_let_go(story: Story) -> None:
    story.look()
    story.add("virtio-rng-pci", "r0", "4")
    story.look()
    story.look()
    story.vm.outb(GPE0, 0xFF)
    story.qmp("device_del", id="r0")
    story.look()
    for port in (BASE, BASE + 4, REMOVABLE):
        story.port(port, 0xFFFF_FFFF)
    story.vm.outb(EJECT, 1 << 4)  # too narrow
    story.vm.outw(EJECT, 1 << 4)
    story.look()
    story.identity(4)
    story.port(EJECT, 1 << 4 | 1 << 0x1E)  # the lowest
    story.identity(4)
    story.gone(2)
    story.look()
    story.identity(0x1E)
    story.port(EJECT, 1 << 0x1E)  # unasked, and of the command line
    story.gone(2)
    story.port(EJECT, 0xF)  # parts of the board
    story.identity(1)
    story.look()


def buses(story: Story) -> None:
    story.add("virtio-rng-pci", "r0", "4")
    for bus in (1, 255, 256, 0xFFFF_FFFF):
        story.port(BUS, bus)
        story.look()
        story.port(EJECT, 1 << 4)
    story.port(BUS, 5)
    story.qmp("system_reset")
    story.look()
    story.port(BUS, 0)
    story.look()
    story.identity(4)


def a_reset_serves_requests(story: Story) -> None:
    for slot in (9, 4, 7):
        story.add("virtio-rng-pci", f"r{slot}", str(slot))
        story.qmp("device_del", id=f"r{slot}")
    story.look()
    story.qmp("system_reset")
    story.gone(6)
    story.look()


def functions(story: Story) -> None:
    story.add("virtio-rng-pci", "m1", "a.1")
    story.look()
    story.add("virtio-rng-pci", "m2", "a.2", multifunction=True)
    story.identity(10, 1)
    story.add("virtio-rng-pci", "m0", "a.0")
    story.add("virtio-rng-pci", "m0", "a.0", multifunction=True)
    story.look()
    story.add("virtio-rng-pci", "m3", "a.3")
    story.identity(10, 1)
    story.qmp("device_del", id="m1")
    story.look()
    story.port(EJECT, 1 << 10)
    story.gone(6)
    story.add("virtio-rng-pci", "f1", "b.1")
    story.qmp("device_del", id="f1")
    story.look()


def acpi_indices(story: Story) -> None:
    story.add("virtio-rng-pci", "i5", "5", **{"acpi-index": 55})
    story.add("virtio-rng-pci", "i6", "6", **{"acpi-index": 66})
    story.add("virtio-rng-pci", "i7", "7", **{"acpi-index": 66})
    story.add("virtio-rng-pci", "i7", "7", **{"acpi-index": 16384})
    for slots in (0, 1 << 5, 1 << 6, 3 << 5, 1 << 7, 0):
        story.port(ACPI_INDEX, slots)
        story.answers.append([story.vm.inl(ACPI_INDEX) for _ in range(2)])
    story.port(BUS, 1)
    story.port(ACPI_INDEX, 1 << 5)
    story.port(BUS, 0)
    story.look()
    story.qmp("device_del", id="i5")
    story.port(EJECT, 1 << 5)
    story.gone(2)
    story.add("virtio-rng-pci", "i7", "7", **{"acpi-index": 55})


def drives(story: Story) -> None:
    story.add("virtio-blk-pci", "b0", "5", drive="dr0")
    story.add("virtio-blk-pci", "b1", "6", drive="n0")
    for id_ in ("b0", "b1"):
        story.qmp("device_del", id=id_)
    story.qmp("blockdev-del", **{"node-name": "n0"})
    story.port(EJECT, 1 << 5)
    story.gone(2)
    story.port(EJECT, 1 << 6)
    story.gone(2)
    story.qmp("query-block")
    story.add("virtio-blk-pci", "b0", "5", drive="dr0")
    story.add("virtio-blk-pci", "b1", "6", drive="n0")
    story.qmp("qom-get", path="/machine/peripheral/b1", property="hotplugged")


def refusals(story: Story) -> None:
    story.add("virtio-blk-pci", "b", "5")
    story.add("virtio-blk-pci", "b", "5", drive="nope")
    story.add("virtio-blk-pci", "b", "5", drive="n0", nosuch=1)
    story.add("virtio-blk-pci", "b", "20", drive="n0")
    story.add("virtio-blk-pci", "b", "0", drive="n0")
    story.add("virtio-blk-pci", "cold", "5", drive="n0")
    story.look()
    for driver in (
        "isa-serial", "isa-debug-exit", "ide-hd", "floppy", "piix3-ide", "PIIX4_PM", "hpet", "vmgenid",
        "virtserialport",
    ):  # fmt: skip
        story.qmp("device_add", driver=driver, id="x")
    for id_ in ("nope", "dbg", "cold/virtio-backend", "/machine", "/machine/peripheral/cold/virtio-backend"):
        story.qmp("device_del", id=id_)
    story.look()


@pytest.mark.parametrize(
    "tell", [plugged_and_let_go, buses, a_reset_serves_requests, functions, acpi_indices, drives, refusals]
)
def test_it_is_as_with_qemu(tell: Callable[[Story], None]) -> None:
    assert _answers("vmmd", tell) == _answers("qemu", tell)


@pytest.mark.parametrize(
    "options",
    [
        ("PIIX4_PM.acpi-root-pci-hotplug=off",),
        ("PIIX4_PM.acpi-pci-hotplug-with-bridge-support=off",),
        ("PIIX4_PM.acpi-root-pci-hotplug=off", "PIIX4_PM.acpi-pci-hotplug-with-bridge-support=off"),
    ],
)
def test_it_is_switched_off_as_with_qemu(options: tuple[str, ...]) -> None:
    def tell(story: Story) -> None:
        story.look()
        story.add("virtio-rng-pci", "r0", "4")
        story.look()
        story.add("virtio-rng-pci", "r1", "5")
        story.look()
        story.qmp("device_del", id="cold")
        story.look()

    settings = tuple(word for each in options for word in ("-global", each))
    assert _answers("vmmd", tell, *settings) == _answers("qemu", tell, *settings)


def _answers(name: str, tell: Callable[[Story], None], *more: str) -> list[Any]:
    with Qtest(name, *MACHINE, *more) as vm:
        story = Story(vm)
        tell(story)
        return story.answers
