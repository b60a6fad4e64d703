# SPDX-License-Identifier: Apache-2.0
"""device_add and device_del while the guest runs: nothing is left behind by what fails, an unplug is a tracked state,
and nobody waits for a disk. The guest's part is played by the test, on a machine without vCPUs."""

from __future__ import annotations

import asyncio
import struct
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.virtio_function import Registers
from tests.framework.virtqueue_driver import Buffer, Driver, DriverQueue
from tests.integration.test_hotplug_at_start import NODE, Bug, Refused, Refusing, disk, run, traces
from tests.unit.test_block_lock import locked_bytes
from vmmd.core import background
from vmmd.core.events import DeviceDeletedEvent, DeviceUnplugGuestErrorEvent, ResetEvent
from vmmd.errors import DeviceNotFoundError, UsageError, VmmdError
from vmmd.machine import unplug
from vmmd.machine import vm as machine
from vmmd.options.models import DeviceOptions
from vmmd.runstate import RunState
from vmmd.units import NS_PER_MS, NS_PER_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vmmd.machine.hotplug import Plugger
    from vmmd.machine.vm import Vm

RUNNING = ("-accel", "qtest", *NODE)
SLOT = 4
PLUGGED, REQUESTED, EJECT, REMOVABLE = 0xAE00, 0xAE04, 0xAE08, 0xAE0C
GPE0 = 0xAFE0
CONFIG_ADDRESS, CONFIG_DATA = 0xCF8, 0xCFC
OST_BUSY = 0x82
POLL_S = 0.005
GONE = [
    DeviceDeletedEvent(None, "/machine/peripheral/d0/virtio-backend"),
    DeviceDeletedEvent("d0", "/machine/peripheral/d0"),
]


class Guest:
    """What a guest does with the registers."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm

    def read(self, port: int) -> int:
        with self.vm.lock:
            return self.vm.pio.read(port, 4)

    def write(self, port: int, value: int) -> None:
        with self.vm.lock:
            self.vm.pio.write(port, 4, value)

    def eject(self, slot: int = SLOT) -> None:
        self.write(EJECT, 1 << slot)

    def vendor(self, slot: int = SLOT, function: int = 0) -> int:
        self.write(CONFIG_ADDRESS, 1 << 31 | slot << 11 | function << 8)
        return self.read(CONFIG_DATA) & 0xFFFF


def plugger_of(vm: Vm) -> Plugger:
    assert vm.plugger is not None
    return vm.plugger


def said(events: list[Any], event: tuple[object, ...]) -> int:
    """How often; events of two kinds with the same members are equal as tuples."""
    return sum(type(each) is type(event) and each == event for each in events)


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  # nobody would set an event
        await asyncio.sleep(POLL_S)


def state(vm: Vm) -> list[str]:
    return [each.state for each in plugger_of(vm).unplugger.reports()]


def story(*options: str) -> Callable[[Callable[..., Any]], None]:
    """Run a coroutine on a machine that runs."""

    def decorate(function: Callable[..., Any]) -> None:
        async def main(vm: Vm, events: list[Any]) -> None:
            await vm.cont()
            await function(vm, events, Guest(vm))

        run((*RUNNING, *options), main)

    return decorate


@pytest.mark.parametrize("kind", [Refused, Bug])
def test_whatever_is_refused_on_the_way_nothing_is_left(monkeypatch: pytest.MonkeyPatch, kind: type[Exception]) -> None:
    device = disk("d0", "n0", bootindex=1, addr=SLOT)

    @story()
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        plugger = plugger_of(vm)
        await plugger.add(disk("warm", "n1", bootindex=7))  # what is imported and made once
        refusing = Refusing(vm, monkeypatch, kind)
        before = traces(vm)
        refusing.refuse = 10_000
        await plugger.add(device)
        steps, refusing.refuse = list(refusing.calls), None
        assert len(steps) >= 5, steps
        await plugger.remove("d0")
        guest.eject()
        await until(lambda: said(events, GONE[1]))
        assert traces(vm) == before
        guest.read(PLUGGED)
        for number, step in enumerate(steps):
            refusing.calls.clear()
            refusing.refuse = number
            with pytest.raises(kind):
                await plugger.add(device)
            refusing.refuse = None
            assert traces(vm) == before, f"after {step} (call {number}) was refused"
            assert guest.read(PLUGGED) == 0
            assert guest.vendor() == 0xFFFF
        await plugger.add(device)
        assert traces(vm) != before


def test_a_guest_is_told_and_asked_and_lets_go() -> None:
    @story()
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        plugger = plugger_of(vm)
        before = traces(vm)
        await plugger.add(disk("d0", "n0", addr=SLOT))
        assert guest.vendor() == 0x1AF4
        assert guest.read(GPE0) & 0xFFFF == 2
        assert (guest.read(PLUGGED), guest.read(PLUGGED)) == (1 << SLOT, 0)
        await plugger.remove("d0")
        assert state(vm) == ["requested"]
        assert guest.read(REQUESTED) == 1 << SLOT
        await until(lambda: state(vm) == ["seen"])
        assert events[-1:] != GONE[1:]
        guest.eject()
        assert guest.vendor() == 0xFFFF  # at once, whatever is still to be done
        assert "d0" in vm.qom.peripheral.children
        await until(lambda: said(events, GONE[1]))
        assert events[-2:] == GONE
        assert state(vm) == ["ejected"]
        assert traces(vm) == before
        await plugger.add(disk("d0", "n0", addr=SLOT))


def test_the_id_is_free_when_the_event_is_queued_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    @story("-device", f"virtio-blk-pci,drive=n0,id=d0,addr={SLOT}")
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        plugger, block = plugger_of(vm), vm.block
        assert block is not None
        unlocking, unlocked = asyncio.Event(), asyncio.Event()
        unlock = block.unlock_later

        async def slow() -> None:
            unlocking.set()
            await unlocked.wait()
            await unlock()

        monkeypatch.setattr(block, "unlock_later", slow)
        guest.eject()  # unasked
        await unlocking.wait()
        monkeypatch.undo()
        assert events[-2:] != GONE
        with pytest.raises(UsageError, match="Duplicate device ID 'd0'"):
            await plugger.add(disk("d0", "n1"))
        unlocked.set()
        await until(lambda: said(events, GONE[1]))
        await plugger.add(disk("d0", "n1"))


def test_a_request_may_be_repeated_is_timed_out_and_reported_when_somebody_wants_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unplug, "ANSWER_LIMIT_NS", 20 * NS_PER_MS)

    @story("-device", f"virtio-blk-pci,drive=n0,id=d0,addr={SLOT}")
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        plugger = plugger_of(vm)
        await plugger.remove("d0")
        guest.write(GPE0, 0xFFFF)
        guest.read(REQUESTED)
        await until(lambda: state(vm) == ["timed-out"])
        plugger.unplugger.report_after_ns = NS_PER_MS
        await plugger.remove("d0")
        assert state(vm) == ["requested"]
        assert (guest.read(REQUESTED), guest.read(GPE0) & 2) == (1 << SLOT, 2)
        error = DeviceUnplugGuestErrorEvent("d0", "/machine/peripheral/d0")
        await until(lambda: said(events, error))
        assert said(events, error) == 1
        guest.eject()  # late
        await until(lambda: said(events, GONE[1]))
        with pytest.raises(DeviceNotFoundError):
            await plugger.remove("d0")


def test_a_guest_that_refuses_keeps_the_device() -> None:
    @story("-device", f"virtio-blk-pci,drive=n0,id=d0,addr={SLOT}")
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        plugger = plugger_of(vm)
        await plugger.remove("d0")
        guest.write(REMOVABLE, OST_BUSY << 8 | SLOT)
        await until(lambda: said(events, DeviceUnplugGuestErrorEvent("d0", "/machine/peripheral/d0")))
        assert (state(vm), guest.read(REQUESTED)) == (["refused"], 0)
        await plugger.remove("d0")
        guest.eject()
        await until(lambda: said(events, GONE[1]))
        assert state(vm) == ["refused", "ejected"]


@pytest.mark.parametrize("stopped", [False, True])
def test_a_reset_completes_what_is_pending_before_it_returns(stopped: bool) -> None:
    both = ("-device", f"virtio-blk-pci,drive=n0,id=d0,addr={SLOT}", "-device", "virtio-blk-pci,drive=n1,id=d1,addr=3")

    @story(*both)
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        for id_ in ("d0", "d1"):
            await plugger_of(vm).remove(id_)
        if stopped:
            await vm.stop()
            assert [type(each).__name__ for each in events[-1:]] == ["StopEvent"]
        await vm.system_reset()
        assert [each.device for each in events if isinstance(each, DeviceDeletedEvent)] == [None, "d1", None, "d0"]
        assert isinstance(events[-1], ResetEvent)
        assert guest.read(REQUESTED) == 0
        assert guest.vendor() == 0xFFFF


def test_a_reset_right_after_the_guest_has_let_go_finds_nothing_to_do_twice() -> None:
    @story("-device", f"virtio-blk-pci,drive=n0,id=d0,addr={SLOT}")
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        guest.eject()
        await vm.system_reset()
        assert [each for each in events if isinstance(each, DeviceDeletedEvent)] == GONE
        await asyncio.sleep(POLL_S)
        assert [each for each in events if isinstance(each, DeviceDeletedEvent)] == GONE


def test_a_reset_gets_rid_of_a_disk_that_hangs_when_it_is_to_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unplug, "DRAIN_LIMIT_NS", 20 * NS_PER_MS)
    monkeypatch.setattr(machine, "RESET_PATIENCE_NS", 20 * NS_PER_MS)

    @story(*HUNG_DISK)
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        await plug_a_hung_disk(vm)
        await plugger_of(vm).remove("d0")
        await vm.system_reset()
        assert events[-3:-1] == GONE
        assert isinstance(events[-1], ResetEvent)


def test_a_reset_that_hangs_is_helped_by_a_device_del_that_comes_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unplug, "DRAIN_LIMIT_NS", 20 * NS_PER_MS)
    monkeypatch.setattr(machine, "RESET_PATIENCE_NS", 20 * NS_PER_MS)

    @story(*HUNG_DISK)
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        await plug_a_hung_disk(vm)
        quiet: list[None] = []
        vm.requests.on_quiesce(lambda done: quiet.append(done()))
        reset = asyncio.create_task(vm.system_reset())
        await until(lambda: quiet)
        await plugger_of(vm).remove("d0")
        await reset
        assert events[-3:-1] == GONE
        assert isinstance(events[-1], ResetEvent)


def test_functions_above_0_wait_for_it_and_the_slot_goes_as_one() -> None:
    @story()
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        plugger = plugger_of(vm)

        async def add(function: int, **more: object) -> None:
            items = [("addr", f"{SLOT}.{function}"), *((key, str(value)) for key, value in more.items())]
            await plugger.add(DeviceOptions("virtio-rng-pci", f"f{function}", None, items))

        await add(1)
        await add(2, multifunction="on")
        assert [guest.vendor(SLOT, number) for number in (1, 2)] == [0xFFFF, 0xFFFF]
        with pytest.raises(VmmdError, match=r"4\.0 indicates single function, but 4\.1 is already populated"):
            await add(0)
        await add(0, multifunction="on")
        assert [guest.vendor(SLOT, number) for number in range(4)] == [0x1AF4, 0x1AF4, 0x1AF4, 0xFFFF]
        with pytest.raises(VmmdError, match="slot 4 function 0 already occupied by virtio-rng-pci, new func"):
            await add(3)
        await plugger.remove("f1")
        guest.eject()
        deleted = ["f0", "f2", "f1"]
        await until(lambda: sum(isinstance(each, DeviceDeletedEvent) for each in events) == 6)
        assert [each.device for each in events if isinstance(each, DeviceDeletedEvent) and each.device] == deleted


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (("-global", "PIIX4_PM.acpi-root-pci-hotplug=off"), True),
        (("-machine", "acpi=off"), True),
        (("-global", "PIIX4_PM.acpi-pci-hotplug-with-bridge-support=off"), False),
    ],
)
def test_it_can_be_switched_off(options: tuple[str, ...], refused: bool) -> None:
    @story("-device", f"virtio-blk-pci,drive=n0,id=d0,addr={SLOT}", *options)
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        plugger = plugger_of(vm)
        if not refused:
            await plugger.add(disk("d1", "n1", addr=5))
            assert [guest.read(PLUGGED) for _ in range(2)] == [1 << 5, 1 << 5]
            return
        for call in (plugger.add(disk("d1", "n1")), plugger.remove("d0")):
            with pytest.raises(UsageError, match=r"Bus 'pci\.0' does not support hotplugging"):
                await call
        guest.eject()
        assert guest.vendor() == 0x1AF4


@pytest.mark.parametrize("state", [RunState.PAUSED, RunState.IO_ERROR, RunState.INTERNAL_ERROR])
def test_it_works_in_every_state_and_the_guest_finds_out_when_it_runs(state: RunState) -> None:
    @story()
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        await vm.stop(state)
        await plugger_of(vm).add(disk("d0", "n0", addr=SLOT))
        await plugger_of(vm).remove("d0")
        await asyncio.sleep(POLL_S)
        assert "d0" in vm.qom.peripheral.children
        assert (guest.read(PLUGGED), guest.read(REQUESTED)) == (1 << SLOT, 1 << SLOT)


def test_a_stop_does_not_wait_for_a_device_that_is_unplugged_meanwhile() -> None:
    """Its requests do not end; the stop waits for them until it is gone."""

    @story("-device", f"virtio-blk-pci,drive=n0,id=d0,addr={SLOT}")
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        hung: list[Callable[[], None]] = []
        device = next(each for each in vm.devices if each.id == "d0")
        device.on_undo(vm.requests.on_quiesce(hung.append))
        stop = asyncio.ensure_future(vm.stop())
        await until(lambda: bool(hung))
        assert not stop.done()
        guest.eject()
        await asyncio.wait_for(stop, 30)
        assert vm.runstate.state is RunState.PAUSED


def test_requests_that_do_not_end_hold_up_an_unplug_for_a_while_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unplug, "DRAIN_LIMIT_NS", 50 * NS_PER_MS)

    @story("-device", f"virtio-blk-pci,drive=n0,id=d0,addr={SLOT}")
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        device = next(each for each in vm.devices if each.id == "d0")
        monkeypatch.setattr(device, "wind_down", lambda done: None)
        guest.eject()
        await until(lambda: said(events, GONE[1]))
        assert unplug.ANSWER_LIMIT_NS >= NS_PER_S


SLOW_NS = 1800 * NS_PER_S
SLOW_DISKS = (
    "-blockdev", f"driver=null-co,node-name=slow,latency-ns={SLOW_NS}",
    "-drive", f"if=none,id=slowdrive,file=null-co://,file.latency-ns={SLOW_NS},format=raw",
)  # fmt: skip


def hold_slow_disks(vm: Vm) -> Callable[[], None]:
    """From now on they answer when the function that is returned is called, and not before."""
    call_later = vm.loop.call_later
    held: list[Callable[[], None]] = []

    def later(delay_ns: int, callback: Callable[..., None], *args: object) -> object:
        if delay_ns != SLOW_NS:
            return call_later(delay_ns, callback, *args)
        held.append(partial(callback, *args))
        return None

    vm.loop.call_later = later  # type: ignore[method-assign,assignment]

    def answer() -> None:
        while held:
            held.pop(0)()

    return answer


HUNG_DISK = ("-blockdev", f"driver=null-co,node-name=hung,latency-ns={3600 * NS_PER_S}")
RINGS, HEADER, DATA, STATUS = 0x20_0000, 0x40_0000, 0x41_0000, 0x42_0000
UNANSWERED = b"\xee"


class NoDoorbells:
    def ring(self, space: str, address: int, value: int) -> bool:
        return False


def start_reads(vm: Vm, count: int) -> tuple[Driver, DriverQueue]:
    """Bring up the disk in SLOT as a driver does, and have some requests in flight."""
    assert vm.pci is not None
    registers = Registers(vm.pci.devices[SLOT, 0], vm.pio, vm.mmio, NoDoorbells(), vm.lock)
    registers.map_bars()
    driver = Driver(registers, vm.memory, modern=True)
    driver.negotiate(0)
    ring = driver.setup_queue(0, RINGS)
    driver.ready()
    for number in range(count):
        vm.memory.write(HEADER + 16 * number, struct.pack("<IIQ", 0, 0, number))
        vm.memory.write(STATUS + number, UNANSWERED)
        ring.add([Buffer(HEADER + 16 * number, 16)], [Buffer(DATA, 512), Buffer(STATUS + number, 1)])
    ring.kick()
    return driver, ring


def in_flight(vm: Vm) -> int:
    """Of the disk in SLOT."""
    assert vm.pci is not None
    return sum(worker.in_flight for worker in vm.pci.devices[SLOT, 0].virtio.live)  # type: ignore[attr-defined]


async def plug_a_hung_disk(vm: Vm) -> None:
    """The disk in SLOT, of HUNG_DISK, has a request in flight."""
    await plugger_of(vm).add(disk("d0", "hung", addr=SLOT))
    start_reads(vm, 1)
    await until(lambda: in_flight(vm))


def test_a_disk_is_unplugged_when_what_was_in_flight_has_ended() -> None:
    @story(*SLOW_DISKS)
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        answer = hold_slow_disks(vm)
        await plugger_of(vm).add(disk("d0", "slow", addr=SLOT))
        _, ring = start_reads(vm, 8)
        await until(lambda: in_flight(vm))
        guest.eject()
        await asyncio.sleep(POLL_S)
        assert not said(events, GONE[1])
        answer()
        await until(lambda: said(events, GONE[1]))
        assert len(ring.collect()) == 8
        assert vm.memory.read(STATUS, 8) == bytes(8)
        await plugger_of(vm).add(disk("d0", "slow", addr=SLOT))


def test_a_disk_that_hangs_goes_and_its_image_stays_open_until_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unplug, "DRAIN_LIMIT_NS", 20 * NS_PER_MS)

    @story(*SLOW_DISKS)
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        plugger, block = plugger_of(vm), vm.block
        assert block is not None
        answer = hold_slow_disks(vm)
        await plugger.add(disk("d0", "slow", addr=SLOT))
        start_reads(vm, 8)
        await until(lambda: in_flight(vm))
        guest.eject()
        await until(lambda: said(events, GONE[1]))
        left = "slow is in use; an unplugged device has left requests in flight"
        with pytest.raises(VmmdError, match=left):
            await block.remove("slow")
        with pytest.raises(VmmdError, match=left):
            await plugger.add(disk("d0", "slow"))
        await plugger.add(disk("d0", "n0"))  # the id is free all the same
        answer()
        await until(lambda: not block.nodes["slow"].is_pinned)
        assert vm.memory.read(STATUS, 8) == UNANSWERED * 8  # nothing is written for a device that is not there
        await asyncio.sleep(POLL_S)
        await until(lambda: not block.nodes["slow"].is_locking)  # the locks of a disk without device, on a thread
        await block.remove("slow")


def test_a_drive_goes_with_its_device_and_is_closed_when_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unplug, "DRAIN_LIMIT_NS", 20 * NS_PER_MS)

    @story(*SLOW_DISKS)
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        plugger, block = plugger_of(vm), vm.block
        assert block is not None
        answer = hold_slow_disks(vm)
        nodes = set(block.nodes)
        await plugger.add(disk("d0", "slowdrive", addr=SLOT))
        start_reads(vm, 1)
        await until(lambda: in_flight(vm))
        guest.eject()
        await until(lambda: said(events, GONE[1]))
        assert [each.name for each in block.query()] == []
        assert set(block.nodes) == nodes
        answer()
        await until(lambda: set(block.nodes) == {"n0", "n1", "slow"})


def test_a_hung_disk_uses_up_the_time_for_closing_its_image(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []

    async def within(loop: object, limit_ns: int, work: Any, what: str) -> bool:
        limits.append(limit_ns)
        return await background.within(loop, limit_ns, work, what)  # type: ignore[arg-type]

    monkeypatch.setattr(unplug, "within", within)
    monkeypatch.setattr(unplug, "DRAIN_LIMIT_NS", 20 * NS_PER_MS)

    @story(*HUNG_DISK)
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        await plug_a_hung_disk(vm)
        guest.eject()
        await until(lambda: said(events, GONE[1]))
        assert max(limits) < 10 * NS_PER_MS


def test_a_hung_disk_holds_up_no_other_device() -> None:
    @story(*HUNG_DISK)
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        plugger = plugger_of(vm)
        await plugger.add(disk("hung", "hung", addr=SLOT))
        start_reads(vm, 1)
        await until(lambda: in_flight(vm))
        await plugger.add(disk("d0", "n0", addr=SLOT + 1))
        await plugger.remove("d0")
        guest.eject(SLOT + 1)
        await until(lambda: said(events, GONE[1]))


def fail_in_the_end(vm: Vm, id_: str) -> None:
    """The device of that id cannot give something back."""

    def fail() -> None:
        raise Bug("a backend that is dead")

    next(each for each in vm.devices if each.id == id_).on_undo(fail)


def test_what_cannot_be_given_back_keeps_nothing_else(capfd: pytest.CaptureFixture[str]) -> None:
    @story(
        "-drive",
        "if=none,file=null-co://,format=raw,id=gone",
        "-device",
        f"virtio-blk-pci,drive=gone,id=d0,addr={SLOT}",
    )
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        fail_in_the_end(vm, "d0")
        guest.eject()
        await until(lambda: said(events, GONE[1]))
        assert vm.block is not None
        assert not vm.block.query()
        await plugger_of(vm).add(disk("d0", "n0", addr=SLOT))

    assert "a backend that is dead" in capfd.readouterr().err


def test_a_port_that_cannot_be_given_back_does_not_keep_its_bus(capfd: pytest.CaptureFixture[str]) -> None:
    ports = [part for id_ in ("p0", "p1") for part in ("-device", f"virtserialport,id={id_}")]

    @story("-device", f"virtio-serial-pci,id=d0,addr={SLOT}", *ports)
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        fail_in_the_end(vm, "p1")
        guest.eject()
        await until(lambda: said(events, GONE[1]))
        deleted = [each.device for each in events if isinstance(each, DeviceDeletedEvent)]
        assert deleted == ["p1", "p0", None, "d0"]
        assert not vm.qom.peripheral.children

    assert "a backend that is dead" in capfd.readouterr().err


def test_of_two_clients_who_want_the_same_image_or_id_one_gets_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(512))

    @story("-blockdev", f"driver=file,node-name=f,filename={image}")
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        plugger = plugger_of(vm)
        two = plugger.add(disk("d0", "f")), plugger.add(disk("d1", "f"))
        first, second = await asyncio.gather(*two, return_exceptions=True)
        assert first is None
        assert str(second) == "Node f is in use; its locks are being changed"
        assert locked_bytes(image) == {100, 101, 201}
        two = plugger.add(disk("d2", "n0")), plugger.add(disk("d2", "n1"))
        first, second = await asyncio.gather(*two, return_exceptions=True)
        assert first is None
        assert str(second) == "Duplicate device ID 'd2'"
        assert {"d0", "d2"} == set(vm.qom.peripheral.children)


def test_a_driver_that_waits_for_its_reset_does_not_keep_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """One vCPU has written status 0 and waits for the disk when another lets go of the slot."""
    monkeypatch.setattr(unplug, "DRAIN_LIMIT_NS", 50 * NS_PER_MS)
    monkeypatch.setattr("vmmd.devices.virtio.device.DRAIN_TIMEOUT_S", 600)

    @story(*SLOW_DISKS)
    async def _(vm: Vm, events: list[Any], guest: Guest) -> None:
        await plugger_of(vm).add(disk("d0", "slow", addr=SLOT))
        driver, _ = start_reads(vm, 1)
        await until(lambda: in_flight(vm))
        vcpu = threading.Thread(target=setattr, args=(driver, "status", 0), daemon=True)
        vcpu.start()
        await until(lambda: vm.pci is not None and vm.pci.devices[SLOT, 0].virtio.busy)  # type: ignore[attr-defined]
        guest.eject()
        await until(lambda: said(events, GONE[1]))
        vcpu.join(30)
        assert not vcpu.is_alive()
