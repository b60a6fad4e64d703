# SPDX-License-Identifier: Apache-2.0
"""A whole machine whose NIC's queues a vhost-user back end serves, driven over the wire. The back end connects or
listens, dies and comes back; the VM stops, goes on, is reset. What is offered and refused is compared with QEMU, whose
queues stand still here: Debian's has no qtest accelerator (tests/integration/test_guests_network.py has it run)."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework import vhost_backend as peer
from tests.framework.qtest import QmpFailure, Qtest
from tests.framework.vhost_backend import LoopbackBackend
from tests.framework.virtqueue_driver import Buffer, Driver
from tests.framework.wire_driver import collect, wire_driver

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

RINGS, FRAME_OUT, BUFFERS, SLOT = 0x20_0000, 0x30_0000, 0x40_0000, 4
HEADER = bytes(12)
FRAME = bytes(range(60))
F_VERSION_1, F_CTRL_GUEST_OFFLOADS, F_CTRL_VQ, F_MQ = 1 << 32, 1 << 2, 1 << 17, 1 << 22
PATIENCE_S = 30.0
EJECT_PORT = 0xAE08  # of ACPI PCI hotplug, where the guest lets go of slots


def arguments(chardev: str, *device: str, netdev: str = "") -> list[str]:
    return [
        "-nodefaults", "-m", "64", "-object", "memory-backend-memfd,id=ram,size=64M,share=on",
        "-machine", "pc,memory-backend=ram", "-chardev", f"socket,id=c0,{chardev}",
        "-netdev", f"vhost-user,id=n0,chardev=c0{netdev}",
        "-device", ",".join((f"virtio-net-pci,netdev=n0,id=nic,addr={SLOT}", *device)),
    ]  # fmt: skip


class Machine:
    """An emulator with its back end, and a driver of the NIC."""

    def __init__(self, vm: Qtest, backend: LoopbackBackend) -> None:
        self.vm, self.backend = vm, backend

    def start(self, features: int = 0) -> Driver:
        """A driver with two queues that is ready, and four receive buffers."""
        driver = self.driver = wire_driver(self.vm, SLOT, modern=True)
        assert driver.negotiate(features | F_VERSION_1) & 8
        self.receive, self.transmit = (
            driver.setup_queue(index, RINGS + 0x10000 * index, size=256) for index in range(2)
        )
        driver.ready()
        for _ in range(4):
            self.post_buffer()
        self.wait(lambda: self.backend.rings_running == 2)
        return driver

    def post_buffer(self) -> None:
        """For one frame; it lies where its descriptor's number says."""
        self.receive.add([], [Buffer(BUFFERS + 0x1000 * self.receive.free[0], 2048)])
        self.receive.kick()

    def wait(self, condition: Callable[[], bool]) -> None:
        """The emulator works in its own time."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, [each[0] for each in self.backend.requests]
            self.vm.qmp("query-status")

    def send(self, frame: bytes) -> None:
        self.driver.memory.write(FRAME_OUT, HEADER + frame)
        self.transmit.add([Buffer(FRAME_OUT, len(HEADER + frame))], [])
        self.transmit.kick()

    def echo(self, frame: bytes) -> None:
        self.send(frame)
        self.got(frame)
        assert len(collect(self.transmit, 1)) == 1

    def got(self, frame: bytes) -> None:
        (found,) = collect(self.receive, 1)
        head, written = found
        assert self.driver.memory.read(BUFFERS + 0x1000 * head, written)[len(HEADER) :] == frame
        self.post_buffer()


@contextmanager
def machine(name: str, directory: Path, *device: str, **given: Any) -> Iterator[Machine]:
    path = directory / "vhost"
    with (
        LoopbackBackend(path, server=True, **given) as backend,
        Qtest(name, *arguments(f"path={path},reconnect=1", *device)) as vm,
    ):
        yield Machine(vm, backend)


def test_frames_there_and_back(tmp_path: Path) -> None:
    with machine("vmmd", tmp_path) as made:
        made.start()
        for number in range(5):
            made.echo(FRAME + bytes([number]))
        assert len(made.backend.frames) == 5


def test_the_emulator_may_be_the_one_that_listens(tmp_path: Path) -> None:
    path = tmp_path / "vhost"
    with (
        LoopbackBackend(path, server=False) as backend,
        Qtest("vmmd", *arguments(f"path={path},server=on,wait=off")) as vm,
    ):
        made = Machine(vm, backend)
        made.start()
        made.echo(FRAME)


def test_stopped_vm_has_its_rings(tmp_path: Path) -> None:
    with machine("vmmd", tmp_path) as made:
        made.start()
        made.echo(FRAME)
        made.vm.qmp("stop")
        assert made.backend.rings_running == 0
        made.send(FRAME[::-1])
        made.vm.qmp("cont")
        made.got(FRAME[::-1])


def test_reset_by_driver_and_by_machine(tmp_path: Path) -> None:
    with machine("vmmd", tmp_path) as made:
        made.start()
        made.echo(FRAME)
        made.start()  # begins with a reset
        made.echo(FRAME[::-1])
        made.vm.qmp("system_reset")
        made.wait(lambda: made.backend.rings_running == 0)
        made.start()
        made.echo(FRAME)


def test_back_end_that_dies_is_missed_by_nobody_but_the_link(tmp_path: Path) -> None:
    with machine("vmmd", tmp_path) as made:
        driver = made.start()
        made.echo(FRAME)
        assert driver.config(6, 2) & 1
        made.backend.drop()
        made.wait(lambda: made.backend.connections == 2 and made.backend.rings_running == 2)
        made.wait(lambda: bool(driver.config(6, 2) & 1))
        made.echo(FRAME[::-1])


def test_state_and_link_are_told_while_nobody_is_there(tmp_path: Path) -> None:
    path = tmp_path / "vhost"
    with LoopbackBackend(path, server=True) as backend, Qtest("vmmd", *arguments(f"path={path},reconnect=1")) as vm:
        made = Machine(vm, backend)
        driver = made.start()
        state = {"netdev": "n0", "type": "vhost-user", "on": True, "reason": "a vhost-user back end is connected"}
        assert vm.qmp("__org.vmmd_query-vhost") == [state]
        backend.close()
        made.wait(lambda: not driver.config(6, 2) & 1)
        (state,) = vm.qmp("__org.vmmd_query-vhost")
        assert (state["on"], state["reason"]) == (False, "the back end has closed the connection")
        made.send(FRAME)  # nobody takes it, nothing breaks
        vm.qmp("system_reset")
        assert vm.qmp("query-status")["status"] == "running"
        with LoopbackBackend(path, server=True) as again:
            made.backend = again
            made.start()
            made.echo(FRAME)


def test_cable_out_and_in(tmp_path: Path) -> None:
    with machine("vmmd", tmp_path) as made:
        driver = made.start()
        made.echo(FRAME)
        made.vm.qmp("set_link", name="nic", up=False)
        made.wait(lambda: made.backend.rings_running == 0)
        assert not driver.config(6, 2) & 1
        made.vm.qmp("set_link", name="nic", up=True)
        made.wait(lambda: made.backend.rings_running == 2)
        made.echo(FRAME[::-1])


def test_nic_and_netdev_go(tmp_path: Path) -> None:
    with machine("vmmd", tmp_path) as made:
        made.start()
        made.echo(FRAME)
        asked = made.backend.count(peer.GET_VRING_BASE)
        made.vm.qmp("netdev_del", id="n0")
        made.wait(lambda: made.backend.rings_running == 0)
        assert made.backend.count(peer.GET_VRING_BASE) == asked + 2  # it had given them back before anybody else served
        made.send(FRAME)
        assert len(collect(made.transmit, 1)) == 1  # lost, as with QEMU
        assert made.vm.qmp("query-status")["status"] == "running"


def test_all_of_it_comes_and_goes_at_run_time(tmp_path: Path) -> None:
    path = tmp_path / "vhost"
    shared = ["-object", "memory-backend-memfd,id=ram,size=64M,share=on", "-machine", "pc,memory-backend=ram"]
    with LoopbackBackend(path, server=True) as backend, Qtest("vmmd", "-nodefaults", "-m", "64", *shared) as vm:
        made = Machine(vm, backend)
        for _ in range(3):
            address = {"type": "unix", "data": {"path": str(path)}}
            vm.qmp("chardev-add", id="c0", backend={"type": "socket", "data": {"addr": address, "server": False}})
            vm.qmp("netdev_add", type="vhost-user", id="n0", chardev="c0")
            vm.qmp("device_add", driver="virtio-net-pci", id="nic", netdev="n0", addr=f"{SLOT}")
            made.start()
            made.echo(FRAME)
            vm.qmp("device_del", id="nic")
            vm.outl(EJECT_PORT, 1 << SLOT)
            vm.wait_event("DEVICE_DELETED")
            vm.qmp("netdev_del", id="n0")
            vm.qmp("chardev-remove", id="c0")
            made.wait(lambda: not backend.rings)


def test_queue_pairs_are_enabled_as_the_driver_asks(tmp_path: Path) -> None:
    path = tmp_path / "vhost"
    features = peer.FEATURES
    with (
        LoopbackBackend(path, server=True, features=features, queue_pairs=4) as backend,
        Qtest("vmmd", *arguments(f"path={path}", "mq=on", netdev=",queues=4")) as vm,
    ):
        driver = wire_driver(vm, SLOT, modern=True)
        driver.negotiate(F_VERSION_1 | F_CTRL_VQ | F_MQ)
        assert driver.config(8, 2) == 4  # max_virtqueue_pairs
        queues = [driver.setup_queue(index, RINGS + 0x10000 * index) for index in range(9)]
        driver.ready()
        made = Machine(vm, backend)
        made.wait(lambda: len(backend.rings) == 8 and backend.rings_running == 2)
        driver.memory.write(FRAME_OUT, bytes((4, 0)) + (3).to_bytes(2, "little") + b"\xee")  # VQ_PAIRS_SET
        queues[8].add([Buffer(FRAME_OUT, 2), Buffer(FRAME_OUT + 2, 2)], [Buffer(FRAME_OUT + 4, 1)])
        queues[8].kick()
        collect(queues[8], 1)
        assert driver.memory.read(FRAME_OUT + 4, 1) == b"\0"
        made.wait(lambda: backend.rings_running == 6)


@pytest.mark.parametrize("queues", [0, 129, 1025])
def test_numbers_of_queues_that_cannot_be(queues: int) -> None:
    with Qtest("vmmd", "-nodefaults", "-chardev", "null,id=c1") as vm, pytest.raises(QmpFailure) as caught:
        vm.qmp("netdev_add", type="vhost-user", id="n1", chardev="c1", queues=queues)
    assert caught.value.desc.startswith("vhost-user number of queues must be in range [1, ")


def offered(name: str, directory: Path, features: int, *device: str) -> int:
    with machine(name, directory, *device, features=features) as made:
        return wire_driver(made.vm, SLOT, modern=True).offered()


@pytest.mark.qemu
@pytest.mark.parametrize(
    "features",
    [
        pytest.param(peer.F_PROTOCOL_FEATURES | peer.VERSION_1, id="hardly any"),
        pytest.param(peer.FEATURES, id="some"),
        pytest.param(peer.F_PROTOCOL_FEATURES | (1 << 33) - 1, id="many"),
    ],
)
def test_what_the_guest_is_offered_depends_on_the_back_end(features: int, tmp_path: Path) -> None:
    """QEMU has one bit more: it lets the driver switch offloads of which no back end is told."""
    ours, theirs = (offered(name, tmp_path, features) for name in ("vmmd", "qemu"))
    assert f"{ours | F_CTRL_GUEST_OFFLOADS:#x}" == f"{theirs:#x}"


@pytest.mark.parametrize(
    ("chardev", "sentence"),
    [
        ("null,id=c1", 'chardev "c1" is not reconnectable'),
        ("socket,id=c1,host=127.0.0.1,port=0,server=on,wait=off", 'chardev "c1" does not support FD passing'),
        (None, 'chardev "c1" not found'),
    ],
)
@pytest.mark.parametrize("name", ["vmmd", pytest.param("qemu", marks=pytest.mark.qemu)])
def test_chardevs_that_will_not_do(name: str, chardev: str | None, sentence: str) -> None:
    extra = [] if chardev is None else ["-chardev", chardev]
    with Qtest(name, "-nodefaults", *extra) as vm, pytest.raises(QmpFailure) as caught:
        vm.qmp("netdev_add", type="vhost-user", id="n1", chardev="c1")
    assert caught.value.desc.startswith(sentence)
