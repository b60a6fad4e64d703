# SPDX-License-Identifier: Apache-2.0
"""Hubs: frames to everybody else, bounded queues; and names, links and connections in the network."""

from __future__ import annotations

import errno

import pytest

from tests.unit.net_support import FakeNic, Rig, options, views
from vmmd.errors import DeviceNotFoundError, VmmdError
from vmmd.net.base import Netdev
from vmmd.net.hub import _WAITING_MAX, HubPort, Uplink
from vmmd.net.listing import listing


@pytest.fixture
def rig() -> Rig:
    return Rig()


def port_with_nic(rig: Rig, name: str, hub: int = 0) -> FakeNic:
    rig.add("hubport", f"id=h{name}", f"hubid={hub}")
    nic = FakeNic(f"n{name}")
    nic.use(rig.connect(nic, f"h{name}").backend.queues[0])
    return nic


def test_a_hub_sends_to_all_other_ports_of_its_number(rig):
    a, b, c = (port_with_nic(rig, name) for name in "abc")
    elsewhere = port_with_nic(rig, "d", hub=1)
    assert a.queue.write(views(b"fra", b"me"))
    rig.loop.until(lambda: b.frames == c.frames == [b"frame"])
    assert a.frames == elsewhere.frames == []


def test_what_a_nic_does_not_take_is_kept_up_to_a_bound(rig):
    a, b = (port_with_nic(rig, name) for name in "ab")
    b.queue.watch(False)
    for number in range(_WAITING_MAX + 3):
        a.queue.write(views(number.to_bytes(2, "big")))
    rig.loop.turn()
    assert b.frames == []
    assert b.queue.dropped == 3
    b.queue.watch(True)
    rig.loop.until(lambda: len(b.frames) == _WAITING_MAX)
    assert b.frames[-1] == (_WAITING_MAX - 1).to_bytes(2, "big")


def test_a_frame_that_is_too_long_for_the_buffers_is_cut(rig):
    a, b = (port_with_nic(rig, name) for name in "ab")
    b.queue.watch(False)
    a.queue.write(views(b"0123456789"))
    first, second = bytearray(4), bytearray(3)
    assert b.queue.read([memoryview(first), memoryview(second)]) == 7
    assert first + second == b"0123456"
    assert b.queue.read([memoryview(first)]) == 0


def test_links_of_ports_and_nics(rig):
    a, b = (port_with_nic(rig, name) for name in "ab")
    rig.network.set_link("nb", False)
    a.queue.write(views(b"lost"))
    rig.network.set_link("nb", True)
    a.queue.write(views(b"one"))
    rig.network.set_link("ha", False)  # the other end of a's cable
    assert a.links == [False]
    a.queue.write(views(b"lost"))
    rig.network.set_link("na", True)  # the NIC's own end does not help
    a.queue.write(views(b"lost"))
    rig.network.set_link("ha", True)
    a.queue.write(views(b"two"))
    rig.loop.until(lambda: b.frames == [b"one", b"two"])
    assert b.links == [False, True]
    with pytest.raises(DeviceNotFoundError, match="Device 'x' not found"):
        rig.network.set_link("x", True)


class SlowQueue:
    """Of a netdev that has no room until told."""

    dropped = 0

    def __init__(self) -> None:
        self.room = 0
        self.sent: list[bytes] = []

    def attach(self, frontend) -> None:
        self.frontend = frontend

    def detach(self) -> None:
        self.frontend = None

    def watch(self, wanted) -> None:
        self.wanted = wanted

    def set_cut(self, cut) -> None:
        pass

    def write(self, buffers) -> bool:
        if not self.room:
            return False
        self.room -= 1
        self.sent.append(b"".join(buffers))
        return True

    def read(self, buffers) -> int:
        if not self.coming:
            return 0
        frame = self.coming.pop(0)
        buffers[0][: len(frame)] = frame
        return len(frame)

    coming: list[bytes] = []  # noqa: RUF012


def test_a_netdev_at_a_port_has_its_own_bounded_queue(rig):
    nic = port_with_nic(rig, "a")
    other = Netdev(options("hubport", "id=other", "hubid=9"), rig.network.netdevs["ha"].host)
    slow = SlowQueue()
    other.queues = (slow,)
    rig.network.enter(other)
    rig.add("hubport", "id=up", "hubid=0", "netdev=other")
    for number in range(_WAITING_MAX + 2):
        nic.queue.write(views(number.to_bytes(2, "big")))
    assert slow.sent == []
    assert slow.dropped == 2
    slow.room = 2
    slow.frontend.writable()
    assert slow.sent == [b"\0\0", b"\0\1"]
    slow.room = 10_000
    slow.frontend.writable()
    rig.loop.until(lambda: len(slow.sent) == _WAITING_MAX)
    slow.coming = [bytes([number]) for number in range(100)]
    while slow.coming:
        slow.frontend.readable()
    rig.loop.until(lambda: len(nic.frames) == 100)


def test_a_netdev_on_its_way_out_is_closed_when_the_machine_ends(rig, monkeypatch):
    class Never:
        def __await__(self):
            yield

    netdev, nic = rig.add("hubport", "id=a", "hubid=0"), FakeNic()
    rig.connect(nic, "a")
    netdev.vhost = object()
    monkeypatch.setattr(nic, "take_rings_back", lambda done: None)  # it waits for somebody
    monkeypatch.setattr(rig.loop, "create_future", Never, raising=False)
    going = rig.network.remove("a")
    going.send(None)
    assert rig.network.hubs
    rig.network.close()
    assert not rig.network.hubs
    going.close()


def test_a_netdev_at_a_port_is_taken_and_may_go(rig):
    rig.add("hubport", "id=far", "hubid=1")
    up = rig.add("hubport", "id=up", "hubid=0", "netdev=far")
    assert isinstance(up.uplink, Uplink)
    with pytest.raises(VmmdError, match="netdev 'far' is in use"):
        rig.add("hubport", "id=two", "hubid=0", "netdev=far")
    with pytest.raises(VmmdError, match=r"'virtio-net-device.netdev' can't take value 'far', it's in use; up has it"):
        rig.connect(FakeNic(), "far")
    with pytest.raises(VmmdError, match="netdev 'none' not found"):
        rig.add("hubport", "id=two", "hubid=0", "netdev=none")
    with pytest.raises(StopIteration):
        rig.network.remove("far").send(None)
    assert up.uplink is None
    with pytest.raises(StopIteration):
        rig.network.remove("up").send(None)
    assert rig.network.hubs == {}
    assert rig.network.netdevs == {}


def test_a_netdev_that_cannot_start_leaves_nothing(rig, monkeypatch):
    def fail(_port):
        raise OSError(errno.ENOSPC, "no room in an epoll instance")

    with monkeypatch.context() as patched:
        patched.setattr(HubPort, "start", fail)
        with pytest.raises(OSError, match="no room"):
            rig.network.add(options("hubport", "id=h", "hubid=0"), rig.descriptors).send(None)
    assert rig.network.netdevs == rig.network.hubs == {}
    with pytest.raises(StopIteration):
        rig.network.add(options("hubport", "id=h", "hubid=0"), rig.descriptors).send(None)
    assert list(rig.network.netdevs) == ["h"]


def test_hubs_in_a_ring_are_refused(rig):
    for name, hub in (("a", 0), ("b", 0), ("c", 1), ("d", 2)):
        rig.add("hubport", f"id={name}", f"hubid={hub}")
    refused = "netdev '{}' leads to hub {} already"
    with pytest.raises(VmmdError, match=refused.format("a", 0)):
        rig.add("hubport", "id=x", "hubid=0", "netdev=a")
    rig.add("hubport", "id=ac", "hubid=1", "netdev=a")
    with pytest.raises(VmmdError, match=refused.format("b", 1)):
        rig.add("hubport", "id=x", "hubid=1", "netdev=b")
    rig.add("hubport", "id=cd", "hubid=2", "netdev=c")
    for far, hub in (("b", 2), ("d", 0)):
        with pytest.raises(VmmdError, match=refused.format(far, hub)):
            rig.add("hubport", "id=x", f"hubid={hub}", f"netdev={far}")
    with pytest.raises(StopIteration):
        rig.network.remove("ac").send(None)
    rig.add("hubport", "id=x", "hubid=2", "netdev=b")


def test_a_ring_of_planned_hubs_is_refused_when_it_closes(rig):
    planned = [
        rig.network.plan(options("hubport", *words), rig.descriptors)
        for words in (("id=a", "hubid=0"), ("id=b", "hubid=0"), ("id=c", "hubid=1", "netdev=a"),
                      ("id=d", "hubid=1", "netdev=b"))
    ]  # fmt: skip
    for made in planned[:3]:
        made.open()
        rig.network.enter(made)
    with pytest.raises(VmmdError, match="netdev 'b' leads to hub 1 already"):
        planned[3].open()
    assert planned[3] not in rig.network.hubs[1].ports


def test_frames_pass_any_number_of_hubs_both_ways(rig):
    hubs = 400
    a = port_with_nic(rig, "a")
    for number in range(1, hubs):
        rig.add("hubport", f"id=from{number}", f"hubid={number - 1}")
        rig.add("hubport", f"id=to{number}", f"hubid={number}", f"netdev=from{number}")
    b = port_with_nic(rig, "b", hub=hubs - 1)
    frames = [bytes([number]) for number in range(100)]
    for frame in frames:
        a.queue.write(views(frame))
        b.queue.write(views(frame))
    rig.loop.until(lambda: a.frames == b.frames == frames)


def test_frames_on_their_way_to_a_hub_that_goes_are_lost(rig):
    a = port_with_nic(rig, "a")
    rig.add("hubport", "id=far", "hubid=1")
    up = rig.add("hubport", "id=up", "hubid=0", "netdev=far")
    b = port_with_nic(rig, "b", hub=1)
    a.queue.write(views(b"lost"))
    up.lose_uplink()
    rig.loop.turn()
    rig.loop.turn()
    assert b.frames == []


def test_netdev_del_leaves_the_nic_without_a_link(rig):
    nic = port_with_nic(rig, "a")
    port_with_nic(rig, "b")
    port = rig.network.ports["na"]
    with pytest.raises(StopIteration):
        rig.network.remove("ha").send(None)
    assert (nic.removed, port.backend, port.link_up) == (1, None, False)
    # as QEMU 7.2.22
    assert listing(rig.network).splitlines() == [
        "hub 0",
        " \\ hb: nb: index=0,type=nic,model=virtio-net-pci,macaddr=00:00:00:00:00:00",
    ]
    with pytest.raises(DeviceNotFoundError):
        rig.network.remove("ha").send(None)
    rig.add("hubport", "id=ha", "hubid=0")  # the name is free
    with rig.lock:
        rig.network.disconnect(port)
    assert "na" not in rig.network.ports


def test_a_peer_that_comes_does_not_plug_a_cable_in(rig):
    nic = port_with_nic(rig, "a")
    netdev, port = rig.network.netdevs["ha"], rig.network.ports["na"]
    netdev.set_alive(False)
    assert (nic.links, port.link_up) == ([False], False)
    rig.network.set_link("na", True)  # there is nobody at the other end
    assert nic.links == [False, False]
    rig.network.set_link("na", False)
    netdev.set_alive(True)
    assert nic.links == [False] * 4
    rig.network.set_link("na", True)
    assert (nic.links[-1], port.link_up) == (True, True)


def test_a_name_that_a_nic_and_a_netdev_have_means_both(rig):
    first = port_with_nic(rig, "a")
    rig.add("hubport", "id=other", "hubid=0")
    second = FakeNic("ha")
    second.use(rig.connect(second, "other").backend.queues[0])
    rig.network.set_link("ha", False)
    assert first.links == second.links == [False]
    first.queue.write(views(b"lost"))
    second.queue.write(views(b"lost"))
    rig.network.set_link("ha", True)
    first.queue.write(views(b"frame"))
    rig.loop.until(lambda: second.frames == [b"frame"])


def test_a_nic_cannot_have_the_name_of_one_without_id(rig):
    rig.connect(FakeNic(None), None)
    with pytest.raises(VmmdError, match=r"NIC name 'virtio-net-pci\.0' is in use"):
        rig.connect(FakeNic("virtio-net-pci.0"), None)


def test_names_and_addresses_of_nics(rig):
    rig.add("hubport", "id=h", "hubid=0")
    rig.network.netdevs["h"].queues *= 2
    one, two = FakeNic("one"), FakeNic(None)
    ports = [rig.connect(one, "h"), rig.connect(two, None), rig.connect(FakeNic(None), None)]
    # QEMU counts the queues of a model
    assert [port.name for port in ports] == ["one", "virtio-net-pci.2", "virtio-net-pci.3"]
    assert [port.mac[-1] for port in ports] == [0x56, 0x57, 0x58]
    with rig.lock:
        rig.network.disconnect(ports[1])
        given = rig.network.connect(FakeNic("four"), None, bytes.fromhex("525400123458"))
        again = rig.network.connect(FakeNic("five"), None, None)
    assert (given.mac[-1], again.mac[-1]) == (0x58, 0x57)
