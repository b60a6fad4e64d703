# SPDX-License-Identifier: Apache-2.0
"""device_add and device_del before the guest has started: as good as the command line, and nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import struct
import threading
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework import guests
from tests.framework.qmp import QmpError
from tests.framework.scenarios import FIRMWARE_TIMEOUT_S, machine_args
from tests.framework.traces import open_files
from tests.framework.vm import Vm as Emulated
from tests.framework.vm import emulator
from tests.unit.test_block_lock import locked_bytes
from vmmd.block import syscalls
from vmmd.core.events import DeviceDeletedEvent
from vmmd.daemon import find_accelerator
from vmmd.errors import BackendError, DeviceNotFoundError, VmmdError
from vmmd.eventloop import EventLoopPort
from vmmd.machine.build import Builder
from vmmd.machine.plan import MachinePlan
from vmmd.machine.vm import Vm
from vmmd.options import availability, cmdline
from vmmd.options.models import DeviceOptions

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

pytestmark = pytest.mark.kvm

LOAD_GPA = 0x10_0000
KERNEL = (
    struct.pack("<IIi", 0x1BADB002, 1 << 16, -(0x1BADB002 + (1 << 16)))
    + struct.pack("<5I", LOAD_GPA, LOAD_GPA, 0, 0, LOAD_GPA + 32)
    + b"\xf4" * 64
)
#: threads for one call; they may not have ended yet when its result is there
PASSING = ("import", "block")
NODE = ("-blockdev", "driver=null-co,node-name=n0", "-blockdev", "driver=null-co,node-name=n1")


def disk(id_: str | None, drive: str, **more: object) -> DeviceOptions:
    items = [("drive", drive), *((key, str(value)) for key, value in more.items())]
    return DeviceOptions("virtio-blk-pci", id_, None, items)


def run(options: tuple[str, ...], story: Callable[[Vm, list[Any]], Awaitable[None]]) -> None:
    """A machine of a command line, built in this process, and a story on its loop."""
    gc.collect()  # what earlier tests have left open must not disappear in between
    config = cmdline.parse(["-nodefaults", "-display", "none", "-m", "16", "-S", *options])
    availability.check(config)
    plan = MachinePlan(config)
    plan.check()
    port = EventLoopPort()
    vm = Vm(config, port)
    events: list[Any] = []

    class Sink:
        def emit(self, instance: Any) -> None:
            events.append(instance)

    vm.events.sink = Sink()

    async def main() -> None:
        port.bind(asyncio.get_running_loop())
        await asyncio.wait_for(story(vm, events), 20)

    try:
        builder = Builder(vm, plan, find_accelerator)
        builder.open_accelerator()
        builder.build()
        asyncio.run(main())
    finally:
        vm.close()


def traces(vm: Vm) -> dict[str, Any]:
    """Everything that outlives a device if it forgets to give it back."""
    plugger: Any = vm.plugger
    board = plugger._board
    assert vm.block is not None
    return {
        "fds": open_files(),
        "threads": sorted(thread.name for thread in threading.enumerate() if thread.name not in PASSING),
        "ports": [(entry.base, entry.name) for entry in vm.pio.ranges],
        "memory": [(entry.base, entry.name) for entry in vm.mmio.ranges],
        "functions": sorted(board.bus.devices),
        "devices": [each.qom_path for each in vm.devices],
        "tree": sorted(node.path for node in vm.qom.walk()),
        "bus": [node.path for node in vm.qom.buses["pci.0"].devices],
        "quiesce": len(vm.requests.quiesce_callbacks),
        "resume": len(vm.requests.resume_callbacks),
        "drives": [(each.name, each.user, each.qdev, each.io_status) for each in vm.block.query()],
        "nodes": [(each.node_name, each.user, len(each._resized)) for each in vm.block.all_nodes()],
        "bootorder": boot_order(vm),
    }


def boot_order(vm: Vm) -> bytes:
    fw_cfg = next(each for each in vm.devices if each.type_name == "fw_cfg_io")
    names = fw_cfg.file_names()  # type: ignore[attr-defined]  # FwCfg
    fw_cfg.item(0x19)  # type: ignore[attr-defined]  # the directory
    return bytes(fw_cfg.item(0x20 + names.index("bootorder")))  # type: ignore[attr-defined]


class Refused(BackendError):
    """What the fault injection raises."""


class Bug(Exception):
    """What it raises that nobody knows."""


class Refusing:
    """Counts and refuses calls of what a device asks for on its way."""

    def __init__(self, vm: Vm, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
        self.kind = kind
        self.calls: list[str] = []
        self.refuse: int | None = None
        plugger: Any = vm.plugger
        board = plugger._board
        ctx = board.ctx
        assert vm.block is not None
        node = vm.block.nodes["n0"]
        seams: list[tuple[object, str]] = [
            (vm.pio, "add"), (vm.pio, "update"), (vm.mmio, "add"), (vm.mmio, "update"), (ctx.irqs, "line"),
            (ctx.doorbells, "attach"), (ctx.backends, "drive"), (vm.requests, "on_resume"), (vm.requests, "on_quiesce"),
            (board.bus, "attach"), (node, "on_resize"), (node, "set_lock"), (board.fw_cfg, "add_file"),
        ]  # fmt: skip
        for owner, name in seams:
            monkeypatch.setattr(type(owner), name, self._counted(f"{type(owner).__name__}.{name}", owner, name))

    def _counted(self, label: str, owner: object, name: str) -> Callable[..., Any]:
        original = getattr(type(owner), name)

        def call(this: object, *args: Any, **kwargs: Any) -> Any:
            if self.refuse is not None:
                self.calls.append(label)
                if len(self.calls) - 1 == self.refuse:
                    raise self.kind(f"{label} is refused")
            return original(this, *args, **kwargs)

        return call


@pytest.mark.parametrize("kind", [Refused, Bug])
def test_whatever_is_refused_on_the_way_nothing_is_left(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    async def story(vm: Vm, events: list[Any]) -> None:
        plugger = vm.plugger
        assert plugger is not None
        await plugger.add(disk("warm", "n1", bootindex=7))  # what is imported and made once
        refusing = Refusing(vm, monkeypatch, kind)
        before = traces(vm)
        refusing.refuse = 10_000
        await plugger.add(disk("d0", "n0", bootindex=1))
        steps, refusing.refuse = list(refusing.calls), None
        assert len(steps) >= 5, steps
        await plugger.remove("d0")
        assert traces(vm) == before
        for number, step in enumerate(steps):
            refusing.calls.clear()
            refusing.refuse = number
            with pytest.raises(kind):
                await plugger.add(disk("d0", "n0", bootindex=1))
            refusing.refuse = None
            assert traces(vm) == before, f"after {step} (call {number}) was refused"
        await plugger.add(disk("d0", "n0", bootindex=1))
        assert traces(vm) != before

    run(NODE, story)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (disk("d1", "n1", bootindex=1), "The bootindex 1 has already been used"),
        (disk("d0", "n1"), "Duplicate device ID 'd0'"),
        (disk("d1", "n0"), "Drive 'n0' is already in use by another device; /machine/peripheral/d0/"),
        (
            disk("d1", "n1", addr="4"),
            "PCI: slot 4 function 0 not available for virtio-blk-pci, in use by virtio-blk-pci",
        ),
        (disk("d1", "n1", serial="x", bogus=1), "Property 'virtio-blk-pci.bogus' not found"),
        (disk("d1", "n1", **{"queue-size": 3}), "invalid queue-size property"),
        (disk("d1", "nope"), "Property 'virtio-blk-device.drive' can't find value 'nope'; no drive or node"),
        (disk("d1", "n11"), "Property 'virtio-blk-device.drive' can't find value 'n11'; did you mean 'n1'"),
        (DeviceOptions("virtio-blk-pci", "d1", None, []), "drive property not set"),
        (disk("d1", "n1")._replace(bus="nobus"), "Bus 'nobus' not found"),
        (disk("d1", "n1")._replace(driver="isa-debug-exit"), "Bus 'isa.0' does not support hotplugging"),
        (disk("d1", "n1")._replace(driver="bogus"), "'bogus' is not a valid device model name"),
    ],
)
def test_a_device_that_does_not_fit_is_refused_in_qemus_words(options: DeviceOptions, sentence: str) -> None:
    async def story(vm: Vm, events: list[Any]) -> None:
        assert vm.plugger is not None
        before = traces(vm)
        with pytest.raises(VmmdError, match=f"^{sentence}"):
            await vm.plugger.add(options)
        assert traces(vm) == before

    run((*NODE, "-device", "virtio-blk-pci,drive=n0,id=d0,bootindex=1,addr=4"), story)


def state(vm: Vm) -> dict[str, Any]:
    """What guest and managers see of the devices."""
    assert vm.pci is not None
    assert vm.block is not None
    return {
        "pci": vm.pci.query(),
        "config": {key: bytes(each.config_read(at, 1) for at in range(256)) for key, each in vm.pci.devices.items()},
        "paths": [each.qom_path for each in vm.devices],
        "qdev": [drive.qdev for drive in vm.block.query()],
        "bootorder": boot_order(vm),
    }


@pytest.mark.parametrize("kernel", [False, True], ids=["firmware", "-kernel"])
def test_it_is_as_if_it_had_been_on_the_command_line(kernel: bool, tmp_path: Path) -> None:
    image = tmp_path / "kernel"
    image.write_bytes(KERNEL)
    base = (*NODE, *(("-kernel", str(image)) if kernel else ()))
    states: list[dict[str, Any]] = []

    async def look(vm: Vm, events: list[Any]) -> None:
        states.append(state(vm))

    async def plug(vm: Vm, events: list[Any]) -> None:
        assert vm.plugger is not None
        await vm.plugger.add(disk("gone", "n0", bootindex=1))
        await vm.plugger.remove("gone")
        await vm.plugger.add(disk("d0", "n0", bootindex=2))
        await vm.plugger.add(disk(None, "n1", bootindex=1))
        states.append(state(vm))

    device = "virtio-blk-pci,drive="
    run((*base, "-device", f"{device}n0,id=d0,bootindex=2", "-device", f"{device}n1,bootindex=1"), look)
    run(base, plug)
    assert states[1] == states[0]
    assert states[0]["bootorder"].startswith(b"/pci@i0cf8/scsi@3/disk@0,0\n/pci@i0cf8/scsi@2/")
    mapped = [region.address for info in states[1]["pci"] for region in info.regions]
    assert mapped
    assert all(address >= 0 for address in mapped) is kernel


def test_a_device_of_the_command_line_is_unplugged_and_its_drive_is_free() -> None:
    async def story(vm: Vm, events: list[Any]) -> None:
        assert vm.plugger is not None
        await vm.plugger.remove("d0")
        assert events == [
            DeviceDeletedEvent(None, "/machine/peripheral/d0/virtio-backend"),
            DeviceDeletedEvent("d0", "/machine/peripheral/d0"),
        ]
        assert boot_order(vm) == b""
        with pytest.raises(DeviceNotFoundError, match="Device 'd0' not found"):
            await vm.plugger.remove("d0")
        await vm.plugger.add(disk("d0", "n0"))
        events.clear()
        await vm.plugger.add(disk(None, "n1"))
        path = vm.devices[-1].qom_path
        await vm.plugger.remove(path)
        assert events == [DeviceDeletedEvent(None, f"{path}/virtio-backend"), DeviceDeletedEvent(None, path)]

    run((*NODE, "-device", "virtio-blk-pci,drive=n0,id=d0,bootindex=1"), story)


@pytest.mark.parametrize("fails", [False, True])
def test_that_a_device_is_gone_is_told_when_all_the_rest_is_done(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Also when the rest has failed: it is gone."""

    async def story(vm: Vm, events: list[Any]) -> None:
        plugger: Any = vm.plugger
        tell_firmware, told_before = plugger._tell_firmware, []

        def tell() -> None:
            told_before.extend(events)
            tell_firmware()
            if fails:
                raise Bug

        monkeypatch.setattr(plugger, "_tell_firmware", tell)
        with pytest.raises(Bug) if fails else nullcontext():
            await plugger.remove("d0")
        assert told_before == []
        assert [event.device for event in events] == [None, "d0"]

    run((*NODE, "-device", "virtio-blk-pci,drive=n0,id=d0"), story)


@pytest.mark.parametrize("drive", [True, False])
def test_locks_of_an_image_are_changed_on_a_thread_and_without_the_lock_of_the_devices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, drive: bool
) -> None:
    """Where the image is on a server, the server is asked."""
    image = tmp_path / "image"
    image.write_bytes(bytes(512))
    form = "-drive", f"if=none,id=d,format=raw,file={image}"
    if not drive:
        form = "-blockdev", f"driver=file,node-name=d,filename={image}"
    idle = {100} if drive else set()

    async def story(vm: Vm, events: list[Any]) -> None:
        plugger: Any = vm.plugger
        calls: list[tuple[bool, bool]] = []
        original = syscalls.set_ofd_lock

        def spy(*args: Any) -> None:
            calls.append((threading.current_thread() is threading.main_thread(), vm.lock.locked()))
            original(*args)

        monkeypatch.setattr(syscalls, "set_ofd_lock", spy)
        with pytest.raises(VmmdError, match="invalid queue-size property"):
            await plugger.add(disk("d0", "d", **{"queue-size": 3}))
        assert locked_bytes(image) == idle
        await plugger.add(disk("d0", "d"))
        assert locked_bytes(image) == {100, 101, 201}
        await plugger.remove("d0")
        assert locked_bytes(image) == set()  # a -drive goes with its device
        if not drive:
            await plugger.add(disk("d0", "d", **{"share-rw": "on"}))
            assert locked_bytes(image) == {100, 101}
        assert calls
        assert set(calls) == {(False, False)}

    run(form, story)


@pytest.mark.parametrize(
    ("id_", "sentence"),
    [
        ("s0", "Bus 'isa.0' does not support hotplugging"),
        ("/machine", "/machine is not a hotpluggable device"),
        ("/machine/unattached/device[0]", "is not a hotpluggable device"),
        ("/machine/unattached/device[1]", "Device 'i440FX' does not support hotplugging"),
        ("/machine/fw_cfg", "Bus 'main-system-bus' does not support hotplugging"),
        ("/nowhere", "Device '/nowhere' not found"),
        ("", "Device '' not found"),
    ],
)
def test_parts_of_the_board_stay(id_: str, sentence: str) -> None:
    async def story(vm: Vm, events: list[Any]) -> None:
        assert vm.plugger is not None
        devices = list(vm.devices)
        with pytest.raises(VmmdError, match=sentence.replace("[", r"\[")):
            await vm.plugger.remove(id_)
        assert (vm.devices, events) == (devices, [])

    run(("-device", "isa-debug-exit,id=s0"), story)


def test_firmware_boots_from_a_disk_that_came_before_the_start(emulator_name: str) -> None:
    vm = Emulated(emulator(emulator_name), [*machine_args(64), "-S"])
    image = guests.bootsector_disk().copy_to(vm.directory)
    with vm:
        qmp = vm.qmp
        qmp.cmd(
            "blockdev-add", {"driver": "raw", "node-name": "b0", "file": {"driver": "file", "filename": str(image)}}
        )
        qmp.cmd("device_add", {"driver": "virtio-blk-pci", "id": "vd0", "drive": "b0", "bootindex": 1})
        with pytest.raises(QmpError, match="Node b0 is in use"):
            qmp.cmd("blockdev-del", {"node-name": "b0"})
        qmp.cmd("cont")
        vm.serial.expect(guests.BOOTSECTOR_TEXT, FIRMWARE_TIMEOUT_S)
