# SPDX-License-Identifier: Apache-2.0
"""vhost-net without a kernel that has it: the ioctls that would be made, by a stand-in that minds their rules."""

from __future__ import annotations

import errno
import os
import struct
import threading
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.fakes import FakeNetdev, make_context
from tests.unit.net_rig import NetRig, frame
from tests.unit.net_support import NumberedFds, options
from tests.unit.select_loop import SelectLoop
from tests.unit.vhost_rig import RAM_BYTES, RINGS, FakeTransport, SharedRam, TwoQueues
from vmmd.core.fdsets import FdSets
from vmmd.devices.virtio import vhost as virtio_vhost
from vmmd.devices.virtio.device import F_VERSION_1, Status
from vmmd.devices.virtio.vhost import pause_all
from vmmd.errors import BackendError, VmmdError
from vmmd.machine.vm import EventRelay
from vmmd.net.base import Host
from vmmd.net.descriptors import OutsideDescriptors
from vmmd.net.network import no_chardev
from vmmd.net.vhost_net import device as vhost
from vmmd.net.vhost_net import setup as vhost_setup
from vmmd.net.vhost_net.backend import VhostNet
from vmmd.net.vhost_net.device import Call, VhostNetDevice
from vmmd.net.vhost_net.setup import VhostSetup

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

MRG_RXBUF, ANY_LAYOUT, INDIRECT = 1 << 15, 1 << 27, 1 << 28
TAP_FD = 77


class Kernel:
    """What /dev/vhost-net does with its ioctls, as far as the order and the numbers of these go."""

    def __init__(self, features: int = F_VERSION_1 | MRG_RXBUF | INDIRECT | vhost.F_VIRTIO_NET_HDR) -> None:
        self.features = features
        self.calls: list[tuple[int, Call, tuple[int, ...]]] = []
        self.owned: set[int] = set()
        self.set_up: dict[tuple[int, int], set[Call]] = {}
        self.taps: dict[tuple[int, int], int] = {}
        self.positions: dict[tuple[int, int], int] = {}
        self.refuse: dict[Call, int] = {}

    def __call__(self, fd: int, request: int, argument: bytes, /) -> bytes:
        call = Call(request)
        words = struct.unpack(f"<{len(argument) // 4}i", argument)
        self.calls.append((fd, call, words))
        if call in self.refuse:
            raise OSError(self.refuse[call], "")
        if call is Call.GET_FEATURES:
            return struct.pack("<Q", self.features)
        if call is Call.SET_OWNER:
            if fd in self.owned:
                raise OSError(errno.EBUSY, "")
            self.owned.add(fd)
            return b""
        if fd not in self.owned:
            raise OSError(errno.EPERM, "")
        if call in (Call.SET_FEATURES, Call.SET_MEM_TABLE):
            if call is Call.SET_FEATURES and struct.unpack("<Q", argument)[0] & ~self.features:
                raise OSError(errno.EOPNOTSUPP, "")
            return b""
        return self._ring(fd, call, words)

    def _ring(self, fd: int, call: Call, words: tuple[int, ...]) -> bytes:
        ring = fd, words[0]
        done = self.set_up.setdefault(ring, set())
        if call in (Call.SET_VRING_NUM, Call.SET_VRING_BASE) and self.taps.get(ring, -1) >= 0:
            raise OSError(errno.EBUSY, "")
        if call is Call.NET_SET_BACKEND:
            if words[1] >= 0 and not {Call.SET_VRING_NUM, Call.SET_VRING_ADDR} <= done:
                raise OSError(errno.EFAULT, "")
            self.taps[ring] = words[1]
        elif call is Call.GET_VRING_BASE:
            return struct.pack("<II", ring[1], self.positions.get(ring, 0))
        done.add(call)
        return b""

    def names(self, *, skip: frozenset[Call] = frozenset()) -> list[str]:
        """What was called since the last time."""
        calls, self.calls = self.calls, []
        return [call.name for _, call, _ in calls if call not in skip]


def test_numbers_are_those_of_the_kernel_header() -> None:
    """_IOC(direction, 0xAF, number, size): sizes of u64, vring_state, vring_addr, vring_file, vhost_memory's head."""

    def number(direction: int, nr: int, size: int) -> int:
        return direction << 30 | size << 16 | 0xAF << 8 | nr

    none, write, read = 0, 1, 2
    assert {each.name: int(each) for each in Call} == {
        "GET_FEATURES": number(read, 0x00, 8),
        "SET_FEATURES": number(write, 0x00, 8),
        "SET_OWNER": number(none, 0x01, 0),
        "SET_MEM_TABLE": number(write, 0x03, 8),
        "SET_VRING_NUM": number(write, 0x10, 8),
        "SET_VRING_ADDR": number(write, 0x11, 40),
        "SET_VRING_BASE": number(write, 0x12, 8),
        "GET_VRING_BASE": number(read | write, 0x12, 8),
        "SET_VRING_KICK": number(write, 0x20, 8),
        "SET_VRING_CALL": number(write, 0x21, 8),
        "SET_VRING_BUSYLOOP_TIMEOUT": number(write, 0x23, 8),
        "NET_SET_BACKEND": number(write, 0x30, 8),
    }


class Rig:
    """A device of two queues over vhost-net."""

    def __init__(self, kernel: Kernel, *, has_header: bool = True, poll_us: int = 0) -> None:
        self.kernel = kernel
        self.machine = make_context(RAM_BYTES)
        self.loop = self.machine.ctx.loop = SelectLoop()
        self.ram = SharedRam()
        self.lost: list[bool] = []
        self.user = VhostNet(
            "n0",
            [VhostNetDevice(9, kernel)],
            [TAP_FD],
            has_header=has_header,
            poll_us=poll_us,
            lost=lambda: self.lost.append(True),
        )
        self.user.join(self.ram.memory)
        self.transport = FakeTransport(self.ram.memory)
        self.device = TwoQueues(self)  # type: ignore[arg-type]  # what it uses of a rig
        self.device.offered = self.user.mask_features((1 << 64) - 1)
        self.device.transport = self.transport

    def start(self, features: int = F_VERSION_1 | MRG_RXBUF) -> None:
        with self.machine.lock:
            self.device.driver_features = features
            for index, queue in enumerate(self.device.queues):
                base = RINGS + 0x3000 * index
                queue.desc_gpa, queue.avail_gpa, queue.used_gpa = base, base + 0x1000, base + 0x2000
                queue.enabled = True
            self.device.set_status(Status.ACKNOWLEDGE | Status.DRIVER | Status.FEATURES_OK)
            self.device.set_status(self.device.status | Status.DRIVER_OK)
        self.loop.settle(3)

    def close(self) -> None:
        with self.machine.lock:
            self.device.reset_by_machine()
        self.loop.settle(3)
        os.close(self.ram.fd)


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def rig(kernel: Kernel) -> Iterator[Rig]:
    made = Rig(kernel)
    yield made
    made.close()


RING = ["SET_VRING_NUM", "SET_VRING_BASE", "SET_VRING_ADDR", "SET_VRING_KICK", "SET_VRING_CALL", "NET_SET_BACKEND"]


def test_rings_are_set_up_with_memory_and_descriptors(rig: Rig, kernel: Kernel) -> None:
    rig.start()
    calls = kernel.calls[:]
    assert kernel.names() == ["SET_OWNER", "GET_FEATURES", "SET_FEATURES", "SET_MEM_TABLE", *RING, *RING]
    arguments = {(call, words[0]): words for _, call, words in calls if words}
    assert (Call.SET_FEATURES, MRG_RXBUF) in arguments
    assert arguments[Call.SET_FEATURES, MRG_RXBUF][1] == 1  # VERSION_1
    hva = rig.ram.memory.regions[0].hva
    (table,) = (words for _, call, words in calls if call is Call.SET_MEM_TABLE)
    assert struct.unpack("<IIQQQQ", struct.pack("<10i", *table)) == (1, 0, 0, RAM_BYTES, hva, 0)
    addresses = struct.unpack("<IIQQQQ", struct.pack("<10i", *arguments[Call.SET_VRING_ADDR, 1]))
    base = hva + RINGS + 0x3000
    assert addresses == (1, 0, base, base + 0x2000, base + 0x1000, 0)
    worker: Any = rig.device.workers[1]
    assert arguments[Call.SET_VRING_KICK, 1][1] == worker.kick_fd == rig.transport.doorbells[1]
    assert kernel.taps == {(9, 0): TAP_FD, (9, 1): TAP_FD}


def test_tap_without_header_has_the_kernel_make_it(kernel: Kernel) -> None:
    rig = Rig(kernel, has_header=False)
    rig.start(F_VERSION_1)
    (features,) = (words for _, call, words in kernel.calls if call is Call.SET_FEATURES)
    assert features == (vhost.F_VIRTIO_NET_HDR, 1)
    rig.close()


def test_any_layout_of_a_legacy_driver_is_not_mistaken_for_the_header(rig: Rig, kernel: Kernel) -> None:
    """Both are bit 27."""
    rig.start(ANY_LAYOUT | MRG_RXBUF)
    (features,) = (words for _, call, words in kernel.calls if call is Call.SET_FEATURES)
    assert features == (MRG_RXBUF, 0)


def test_features_that_the_kernel_lacks_are_not_offered(rig: Rig) -> None:
    offloads, event_idx = 1 << 0 | 1 << 7 | 1 << 11, 1 << 29
    assert rig.user.mask_features(offloads | event_idx | INDIRECT | F_VERSION_1) == offloads | INDIRECT | F_VERSION_1


def test_polling_is_passed_on(kernel: Kernel) -> None:
    rig = Rig(kernel, poll_us=50)
    rig.start()
    polls = [words for _, call, words in kernel.calls if call is Call.SET_VRING_BUSYLOOP_TIMEOUT]
    assert polls == [(0, 50), (1, 50)]
    rig.close()


def test_stopped_vm_has_its_rings_and_goes_on_where_the_kernel_was(rig: Rig, kernel: Kernel) -> None:
    rig.start()
    kernel.names()
    kernel.positions = {(9, 0): 5, (9, 1): 7}
    for index, position in ((0, 5), (1, 7)):  # all given back, so the driver sees
        memory, base = rig.ram.memory, RINGS + 0x3000 * index
        memory.store_u16(base + 0x1002, position)
        memory.store_u16(base + 0x2002, position)
    back: list[bool] = []
    pause_all(rig.device.workers.values(), lambda: back.append(True))
    assert back
    assert kernel.names() == ["NET_SET_BACKEND", "GET_VRING_BASE"] * 2
    assert set(kernel.taps.values()) == {-1}
    for worker in rig.device.workers.values():
        worker.resume()  # type: ignore[attr-defined]
    bases = [words for _, call, words in kernel.calls if call is Call.SET_VRING_BASE]
    assert bases == [(0, 5), (1, 7)]
    assert set(kernel.taps.values()) == {TAP_FD}


def test_reset_takes_the_tap_away_first(rig: Rig, kernel: Kernel) -> None:
    rig.start()
    kernel.names()
    with rig.machine.lock:
        rig.device.reset_by_machine()
    assert kernel.names() == ["NET_SET_BACKEND", "GET_VRING_BASE"] * 2
    rig.start()
    assert kernel.names()[:2] == ["SET_FEATURES", "SET_MEM_TABLE"]  # another driver, other features


def test_cut_link_and_unused_pairs_have_no_tap(rig: Rig, kernel: Kernel) -> None:
    rig.start()
    rig.user.set_cut(True)
    assert set(kernel.taps.values()) == {-1}
    rig.user.set_cut(False)
    assert set(kernel.taps.values()) == {TAP_FD}
    rig.user.enable_pairs(0)
    assert set(kernel.taps.values()) == {-1}


@pytest.mark.parametrize("call", [Call.SET_MEM_TABLE, Call.SET_VRING_ADDR, Call.NET_SET_BACKEND])
def test_what_the_kernel_refuses_ends_the_link_with_a_reason(rig: Rig, kernel: Kernel, call: Call) -> None:
    kernel.refuse[call] = errno.EFAULT
    rig.start()
    assert rig.lost == [True]
    assert rig.user.state == (False, "vhost-net has failed: Bad address")
    with rig.machine.lock:
        rig.device.reset_by_driver()
    rig.loop.until(lambda: rig.device.status == 0)


def test_rings_that_go_out_are_kicked_each_time(rig: Rig) -> None:
    """Who had them before has taken the driver's notifications."""
    rig.start()
    workers: list[Any] = list(rig.device.workers.values())
    assert [os.eventfd_read(each.kick_fd) for each in workers] == [1, 1]
    pause_all(workers, lambda: None)
    for each in workers:
        each.resume()
    assert [os.eventfd_read(each.kick_fd) for each in workers] == [1, 1]


def test_a_netdev_that_has_gone_is_not_asked_again(rig: Rig, kernel: Kernel) -> None:
    """Its descriptors may be another's by then."""
    rig.start()
    rig.user.stop()
    kernel.names()
    pause_all(rig.device.workers.values(), lambda: None)
    for worker in rig.device.workers.values():
        worker.resume()  # type: ignore[attr-defined]
    rig.user.enable_pairs(1)
    rig.user.set_cut(False)
    assert kernel.names() == []


def test_rings_of_a_netdev_that_goes_are_the_nics_again(kernel: Kernel) -> None:
    """As with QEMU, what is sent then is lost, and the driver has its buffers back."""
    netdev = FakeNetdev()
    user = VhostNet("n0", [VhostNetDevice(9, kernel)], [TAP_FD], has_header=True, lost=lambda: None)
    netdev.vhost = user
    rig = NetRig(netdev=netdev).start(F_VERSION_1 | MRG_RXBUF)
    assert kernel.taps == {(9, 0): TAP_FD, (9, 1): TAP_FD}
    rig.send(frame(), frame())
    assert not rig.rings[1].collect()  # this kernel does nothing
    with rig.machine.lock:
        rig.device.backend_removed()
    rig.device.take_rings_back(user.stop)
    assert set(kernel.taps.values()) == {-1}
    rig.run()
    assert len(rig.rings[1].collect()) == 2
    kernel.names()
    rig.send(frame())
    assert len(rig.rings[1].collect()) == 1
    rig.driver.status = 0
    rig.run()
    assert rig.driver.status == 0
    assert kernel.names() == []


def test_queue_without_an_eventfd_breaks_the_device_only(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left() -> int:
        raise OSError(errno.EMFILE, "")

    monkeypatch.setattr(virtio_vhost, "_eventfd", none_left)
    rig.start()
    assert rig.device.broken
    assert not rig.device.workers


# -- the options of a tap ------------------------------------------------------------------------------------------


@pytest.fixture
def setup(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Callable[..., VhostSetup]:
    monkeypatch.setattr(vhost, "kernel_ioctl", kernel)

    def make(*words: str, descriptors: OutsideDescriptors | None = None) -> VhostSetup:
        fds = descriptors or NumberedFds()
        host = Host(SelectLoop(), threading.Lock(), fds, no_chardev, lambda _: None, lambda _: None, {}, EventRelay())
        return VhostSetup(options("tap", "id=n0", *words), host)  # type: ignore[arg-type]

    return make


def opened(made: VhostSetup, tap_fds: int | None = 1) -> VhostNet | None:
    made.check(tap_fds)
    return made.open([TAP_FD] * (tap_fds or 1), has_header=True, lost=lambda: None)


def test_nobody_asked(setup: Callable[..., VhostSetup]) -> None:
    for words in ((), ("vhost=off",), ("vhostforce=off",), ("vhost=off", "vhostforce=on")):
        made = setup(*words)
        assert opened(made) is None
        assert made.state is None


def test_polling_without_vhost_is_of_no_use(setup: Callable[..., VhostSetup], caplog: pytest.LogCaptureFixture) -> None:
    setup("poll-us=5", "vhost=on").check(None)
    assert not caplog.messages
    setup("poll-us=5").check(None)
    assert caplog.messages == ["netdev n0: poll-us= is of no use without vhost=on"]


@pytest.fixture
def no_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vhost_setup.vhost, "PATH", str(tmp_path / "vhost-net"))


def test_wish_without_the_device_is_a_warning_and_a_reason(
    setup: Callable[..., VhostSetup], no_device: None, caplog: pytest.LogCaptureFixture
) -> None:
    made = setup("vhost=on")
    assert opened(made) is None
    reason = "tap: open vhost char device failed: No such file or directory"
    assert made.state == (False, reason)
    assert caplog.messages == [f"netdev n0: {reason}; frames go through vmmd"]


def test_force_without_the_device_fails(setup: Callable[..., VhostSetup], no_device: None) -> None:
    for words in (("vhost=on", "vhostforce=on"), ("vhostforce=on",)):
        with pytest.raises(BackendError, match="tap: open vhost char device failed: No such file or directory"):
            opened(setup(*words))


def test_passed_descriptor_that_is_none_is_named(setup: Callable[..., VhostSetup], kernel: Kernel) -> None:
    kernel.refuse[Call.GET_FEATURES] = errno.ENOTTY
    fd = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(VmmdError) as caught:
        setup(f"vhostfd={fd}").check(None)
    assert str(caught.value) == (
        f"vhostfd {fd}: vhost_set_owner failed: Inappropriate ioctl for device; "
        f"descriptor {fd} is not an open /dev/vhost-net"
    )
    os.close(fd)


def test_passed_descriptor_of_another_owner_fails(setup: Callable[..., VhostSetup], kernel: Kernel) -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    kernel.owned.add(fd)
    with pytest.raises(BackendError, match="vhost-net requested but could not be initialized: Device or resource busy"):
        opened(setup(f"vhostfd={fd}"))
    assert os.get_inheritable(fd)  # it is its owner's, as it was
    os.close(fd)


def test_descriptor_of_a_set_is_closed_once_when_the_netdev_fails(
    setup: Callable[..., VhostSetup], kernel: Kernel
) -> None:
    kernel.refuse[Call.SET_OWNER] = errno.EBUSY
    sets = FdSets()
    sets.add(7, os.open("/dev/null", os.O_RDWR))
    descriptors = OutsideDescriptors(sets)
    made = setup("vhostfd=/dev/fdset/7", descriptors=descriptors)
    with pytest.raises(BackendError, match="could not be initialized"):
        opened(made)
    made.close()
    other = os.open("/dev/zero", os.O_RDONLY)  # has the lowest number that is free
    descriptors.give_back()
    os.close(other)  # nobody else has closed it
    sets.remove(7)


def test_each_pair_has_a_descriptor(setup: Callable[..., VhostSetup], kernel: Kernel) -> None:
    fds = [os.open("/dev/null", os.O_RDWR) for _ in range(2)]
    text = ":".join(map(str, fds))
    with pytest.raises(VmmdError, match="The number of fds passed does not match the number of vhostfds passed"):
        setup("fds=3:4:5", f"vhostfds={text}").check(3)
    made = setup("fds=3:4", f"vhostfds={text}")
    assert opened(made, 2) is not None
    assert kernel.owned == set(fds)
    made.close()
    made.close()


def test_one_descriptor_is_not_enough_for_the_queues_of_an_interface(setup: Callable[..., VhostSetup]) -> None:
    fd = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(VmmdError, match="vhostfd= is one descriptor, and queues=4 needs as many"):
        setup("ifname=t0", "queues=4", f"vhostfd={fd}").check(None)
    setup("ifname=t0", "queues=1", f"vhostfd={fd}").check(None)
    os.close(fd)


def test_descriptor_that_is_not_there(setup: Callable[..., VhostSetup]) -> None:
    with pytest.raises(VmmdError, match="Can't use file descriptor 999: Bad file descriptor"):
        setup("vhostfd=999").check(None)


def test_ioctl_of_this_kernel_is_refused_for_other_files() -> None:
    """What ``kernel_ioctl`` really does, where there is no vhost-net."""
    fd = os.open("/dev/null", os.O_RDWR)
    with pytest.raises(OSError, match="Inappropriate ioctl") as caught:
        VhostNetDevice(fd).features()
    assert caught.value.errno == errno.ENOTTY
    os.close(fd)
