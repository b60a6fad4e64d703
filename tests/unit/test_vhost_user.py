# SPDX-License-Identifier: Apache-2.0
"""vhost-user: rings served by another process, which may die, come back, or lie."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework import vhost_backend as peer
from tests.framework.vhost_backend import Faults, LoopbackBackend
from tests.unit.vhost_rig import PATIENCE_S, RAM_BYTES, Rig
from vmmd.core.memory import GuestMemory, make_region
from vmmd.devices.virtio.vhost import pause_all
from vmmd.errors import UsageError
from vmmd.net.vhost_user import messages
from vmmd.net.vhost_user.backend import VhostUser
from vmmd.net.vhost_user.messages import Request
from vmmd.net.vhost_user.session import ProtocolError, Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

FRAME = bytes(range(64))
F_PROTOCOL = messages.F_PROTOCOL_FEATURES


@pytest.fixture(autouse=True)
def _ended() -> Iterator[None]:
    yield
    Rig.close_all()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vhost"


@pytest.fixture
def backend(path: Path) -> Iterator[LoopbackBackend]:
    with LoopbackBackend(path, server=True) as made:
        yield made


@pytest.fixture
def rig(path: Path, backend: LoopbackBackend) -> Rig:
    made = Rig(path)
    made.connect()
    return made


# -- one connection, without I/O ---------------------------------------------------------------------------------


class Sent:
    """What a session has sent, and a back end's answers for it."""

    def __init__(self) -> None:
        self.messages: list[tuple[Request, int, bytes, list[int]]] = []
        self.session = Session(self)

    def __call__(self, data: bytes, fds: Sequence[int]) -> None:
        request, flags, size = messages.HEADER.unpack_from(data)
        assert len(data) == messages.HEADER.size + size
        self.messages.append((Request(request), flags, data[messages.HEADER.size :], list(fds)))

    def answer(self, request: Request, payload: bytes) -> None:
        self.session.receive(reply(request, payload))

    def begin(self, features: int = F_PROTOCOL | 1 << 32, protocol: int = 0x1_001D, pairs: int = 1) -> list[str]:
        """Shake hands; the names of what was asked."""
        ready: list[bool] = []
        self.session.begin(lambda: ready.append(True))
        self.answer(Request.GET_FEATURES, struct.pack("<Q", features))
        if features & F_PROTOCOL:
            self.answer(Request.GET_PROTOCOL_FEATURES, struct.pack("<Q", protocol))
            if protocol & messages.Feature.MQ:
                self.answer(Request.GET_QUEUE_NUM, struct.pack("<Q", pairs))
        assert ready
        return self.names()

    def names(self) -> list[str]:
        taken, self.messages = self.messages, []
        return [each[0].name for each in taken]


def reply(request: int, payload: bytes, flags: int = messages.VERSION | messages.FLAG_REPLY) -> bytes:
    return messages.HEADER.pack(request, flags, len(payload)) + payload


def test_the_beginning_asks_for_what_the_back_end_can() -> None:
    sent = Sent()
    assert sent.begin(pairs=4) == [
        "GET_FEATURES", "GET_PROTOCOL_FEATURES", "SET_PROTOCOL_FEATURES", "GET_QUEUE_NUM", "SET_OWNER",
    ]  # fmt: skip
    assert (sent.session.features, sent.session.queue_pairs) == (1 << 32, 4)


def test_a_back_end_without_protocol_features_gets_none_of_their_messages() -> None:
    sent = Sent()
    assert sent.begin(features=1 << 32) == ["GET_FEATURES", "SET_OWNER"]
    sent.session.set_status(15)
    sent.session.configure(1 << 32, [], mtu=1500)
    sent.session.enable_ring(0, on=True)
    assert not sent.session.send_rarp(bytes(6))
    assert sent.names() == ["SET_FEATURES", "SET_MEM_TABLE"]


def test_answers_may_come_byte_by_byte() -> None:
    sent = Sent()
    sent.session.begin(lambda: None)
    for each in reply(Request.GET_FEATURES, struct.pack("<Q", F_PROTOCOL)):
        sent.session.receive(bytes([each]))
    assert sent.names()[-1] == "GET_PROTOCOL_FEATURES"


@pytest.mark.parametrize(
    "said",
    [
        pytest.param(reply(Request.SET_OWNER, bytes(8)), id="another request's"),
        pytest.param(reply(Request.GET_FEATURES, bytes(4)), id="short"),
        pytest.param(messages.HEADER.pack(1, 5, 0xFFFF_FFFF), id="huge"),
        pytest.param(reply(Request.GET_FEATURES, bytes(8), flags=1), id="no reply"),
        pytest.param(reply(Request.GET_FEATURES, bytes(8), flags=6), id="another version"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n", id="something else"),
    ],
)
def test_answer_that_is_none_is_an_error(said: bytes) -> None:
    sent = Sent()
    sent.session.begin(lambda: None)
    with pytest.raises(ProtocolError, match="it answers GET_FEATURES with"):
        sent.session.receive(said)


def test_answer_to_nothing_is_an_error() -> None:
    sent = Sent()
    sent.begin()
    with pytest.raises(ProtocolError, match="was not made"):
        sent.answer(Request.GET_FEATURES, bytes(8))


@pytest.mark.parametrize(("number", "position"), [(1, 0), (0, 0x1_0000)])
def test_stop_of_another_ring_or_at_an_impossible_position_is_an_error(number: int, position: int) -> None:
    sent = Sent()
    sent.begin()
    sent.session.stop_ring(0, lambda _: None)
    with pytest.raises(ProtocolError, match="it says that ring"):
        sent.answer(Request.GET_VRING_BASE, struct.pack("<II", number, position))


def test_memory_table_that_is_refused_is_an_error() -> None:
    sent = Sent()
    sent.begin()
    sent.session.configure(0, [messages.Region(0, 4096, 4096, 7, 0)], mtu=None)
    request, flags, payload, fds = sent.messages[-1]
    assert (request, flags & messages.FLAG_NEED_REPLY, fds) == (Request.SET_MEM_TABLE, messages.FLAG_NEED_REPLY, [7])
    assert payload == struct.pack("<IIQQQQ", 1, 0, 0, 4096, 4096, 0)
    with pytest.raises(ProtocolError, match="refuses SET_MEM_TABLE"):
        sent.answer(Request.SET_MEM_TABLE, struct.pack("<Q", 1))


# -- a device and a back end that does what it should --------------------------------------------------------------


def test_frames_go_through_the_back_end_and_interrupt(rig: Rig, backend: LoopbackBackend) -> None:
    rig.start()
    rig.offer()
    for number in range(20):  # the ring of 8 wraps
        rig.echo(FRAME + bytes([number]))
        rig.offer(1)
    assert len(backend.frames) == 20
    rig.loop.until(lambda: {0, 1} <= set(rig.transport.interrupts), PATIENCE_S)
    assert backend.accepted_features == peer.VERSION_1 | F_PROTOCOL
    backend.wait_for(lambda: backend.statuses == [3, 11, 15])


def test_chains_that_wait_already_are_found(rig: Rig, backend: LoopbackBackend) -> None:
    """Nobody rings for them."""
    rig.start()
    rig.queues[0].notify = rig.queues[1].notify = lambda: None
    rig.offer()
    rig.send(FRAME)
    rig.loop.until(lambda: backend.rings_running == 2, PATIENCE_S)
    assert rig.receive() == FRAME


def test_offered_features_are_what_both_can(path: Path) -> None:
    ours = 1 << 5 | 1 << 17  # MAC, CTRL_VQ: the device's own
    with LoopbackBackend(path, server=True, features=F_PROTOCOL | 1 << 32 | 1 << 15):
        rig = Rig(path)
        rig.connect()
        assert rig.user.mask_features(ours | 1 << 32 | 1 << 15 | 1 << 0 | 1 << 28) == ours | 1 << 32 | 1 << 15


def test_stopped_vm_has_its_rings_and_goes_on_where_it_was(rig: Rig, backend: LoopbackBackend) -> None:
    rig.start()
    rig.offer()
    rig.echo(FRAME)
    paused: list[bool] = []
    pause_all(rig.device.workers.values(), lambda: paused.append(True))
    rig.loop.until(lambda: paused, PATIENCE_S)
    backend.wait_for(lambda: backend.rings_running == 0)
    positions = [(each.ring.last_avail, each.ring.used_index) for each in rig.device.workers.values()]
    assert positions == [(1, 1), (1, 1)]  # the back end takes a receive buffer when a frame comes
    backend.wait_for(lambda: backend.statuses[-1] == 0)
    rig.send(FRAME[::-1])
    for each in rig.device.workers.values():
        each.resume()  # type: ignore[attr-defined]
    assert rig.receive() == FRAME[::-1]


def test_reset_gives_the_rings_back_before_status_reads_zero(rig: Rig, backend: LoopbackBackend) -> None:
    rig.start()
    rig.offer()
    rig.echo(FRAME)
    with rig.machine.lock:
        rig.device.reset_by_driver()
    rig.loop.until(lambda: rig.device.status == 0, PATIENCE_S)
    assert backend.rings_running == 0
    assert not rig.transport.doorbells
    rig.start()
    rig.offer()
    rig.echo(FRAME)


def test_machine_reset_waits_for_nobody_and_leaves_no_ring(rig: Rig, backend: LoopbackBackend) -> None:
    rig.start()
    rig.loop.until(lambda: backend.rings_running == 2, PATIENCE_S)
    with rig.machine.lock:
        rig.device.reset_by_machine()
    assert rig.device.status == 0
    rig.loop.until(lambda: backend.rings_running == 0, PATIENCE_S)
    rig.start()
    rig.offer()
    rig.echo(FRAME)


def test_bus_mastering_off_takes_the_rings_back_and_on_gives_them_away(rig: Rig, backend: LoopbackBackend) -> None:
    rig.start()
    rig.offer()
    rig.echo(FRAME)
    with rig.machine.lock:
        rig.device.suspend()
    rig.loop.until(lambda: not rig.device.busy, PATIENCE_S)
    assert backend.rings_running == 0
    with rig.machine.lock:
        rig.device.activate()
    rig.echo(FRAME + b"again")


def test_no_descriptor_is_left(rig: Rig, backend: LoopbackBackend) -> None:
    rig.start()
    rig.loop.until(lambda: backend.rings_running == 2, PATIENCE_S)
    with rig.machine.lock:
        rig.device.reset_by_machine()
    rig.loop.settle()
    backend.wait_for(lambda: backend.rings_running == 0)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        rig.start()
        rig.loop.until(lambda: backend.rings_running == 2, PATIENCE_S)
        with rig.machine.lock:
            rig.device.reset_by_machine()
        rig.loop.until(lambda: backend.rings_running == 0, PATIENCE_S)
    rig.loop.settle()
    # the back end closes its copies when the next message comes
    rig.link.disconnect()
    rig.loop.until(lambda: not rig.alive[-1], PATIENCE_S)
    backend.wait_for(lambda: not backend.rings)
    assert len(os.listdir("/proc/self/fd")) <= before


def test_mtu_and_announcement_reach_the_back_end(rig: Rig, backend: LoopbackBackend) -> None:
    rig.user.set_mtu(1400)
    rig.start()
    rig.loop.until(lambda: backend.rings_running == 2, PATIENCE_S)
    assert (peer.NET_SET_MTU, struct.pack("<Q", 1400)) in backend.requests
    assert rig.user.send_rarp(bytes.fromhex("525400123456"))
    backend.wait_for(lambda: backend.rarps == [bytes.fromhex("525400123456")])


def test_another_device_has_nothing_of_the_one_before(rig: Rig, backend: LoopbackBackend) -> None:
    rig.user.set_mtu(1400)
    with rig.machine.lock:
        rig.user.join(rig.ram.memory)
    backend.features &= ~(1 << 15)  # MRG_RXBUF, which the other had offered
    backend.drop()
    rig.loop.until(lambda: not rig.alive[-1], PATIENCE_S)
    rig.link.connect()
    rig.loop.until(lambda: rig.alive[-1], PATIENCE_S)
    rig.start()
    rig.loop.until(lambda: backend.rings_running == 2, PATIENCE_S)
    assert not backend.count(peer.NET_SET_MTU)


def test_link_that_is_cut_disables_the_rings(rig: Rig, backend: LoopbackBackend) -> None:
    rig.start()
    rig.offer()
    rig.loop.until(lambda: backend.rings_running == 2, PATIENCE_S)
    rig.user.set_cut(True)
    backend.wait_for(lambda: backend.rings_running == 0)
    rig.send(FRAME)
    rig.loop.until(lambda: rig.queues[1].collect(), PATIENCE_S)  # sent nowhere
    assert not backend.frames
    rig.user.set_cut(False)
    backend.wait_for(lambda: backend.rings_running == 2)
    rig.echo(FRAME)


def test_private_memory_is_refused_with_what_to_do() -> None:
    user = VhostUser("net0", None, None, 1, lambda _: None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"'pc\.ram' is private") as caught:
        user.join(GuestMemory([make_region(0, memoryview(bytearray(4096)), 0, "pc.ram")]))
    assert "share=on" in str(caught.value)


# -- interrupts ----------------------------------------------------------------------------------------------------


def test_interrupts_go_by_the_message_while_it_is_all_there_is_to_it(rig: Rig, backend: LoopbackBackend) -> None:
    interrupts = rig.machine.interrupts
    rig.transport.messages = {0: (0xFEE0_0000, 0x41), 1: None}
    rig.start()
    rig.loop.settle(3)
    assert [each.message for each in interrupts.bound.values()] == [(0xFEE0_0000, 0x41)]
    bound = next(iter(interrupts.bound))
    rig.transport.messages[0] = (0xFEE0_1000, 0x42)
    with rig.machine.lock:
        rig.device.workers[0].interrupt_changed()  # type: ignore[attr-defined]
    assert interrupts.bound[bound].message == (0xFEE0_1000, 0x42)

    rig.transport.messages[0] = None  # masked: what comes now is the loop's
    posts = rig.loop.posts
    with rig.machine.lock:
        for _ in range(5):
            rig.device.workers[0].interrupt_changed()  # type: ignore[attr-defined]
    assert rig.loop.posts == posts + 1
    assert not interrupts.bound
    rig.offer()
    rig.echo(FRAME)
    rig.loop.until(lambda: 0 in rig.transport.interrupts, PATIENCE_S)


# -- back ends that die, or lie ------------------------------------------------------------------------------------


def test_back_end_that_dies_costs_the_link_until_the_next_one_goes_on(rig: Rig, backend: LoopbackBackend) -> None:
    rig.start()
    rig.offer(7)
    rig.echo(FRAME)
    backend.drop()
    rig.loop.until(lambda: rig.alive == [True, False], PATIENCE_S)
    assert rig.user.state == (False, "the back end has closed the connection")
    rig.send(FRAME[::-1])  # waits in the ring
    rig.link.connect()
    assert rig.receive() == FRAME[::-1]
    assert rig.alive == [True, False, True]
    bases = [struct.unpack("<II", payload) for request, payload in backend.requests if request == peer.SET_VRING_BASE]
    assert bases[-2:] == [(0, 1), (1, 1)]  # behind the last that was given back


def test_ring_of_a_dead_back_end_comes_back_at_once(rig: Rig, backend: LoopbackBackend) -> None:
    rig.start()
    rig.offer()
    rig.echo(FRAME)
    backend.drop()
    rig.loop.until(lambda: not rig.alive[-1], PATIENCE_S)
    with rig.machine.lock:
        rig.device.suspend()
    rig.loop.until(lambda: not rig.device.busy, PATIENCE_S)
    assert [each.position for each in rig.device.queues] == [(1, 1), (1, 1)]


def broken(path: Path, faults: Faults, **given: Any) -> tuple[LoopbackBackend, Rig]:
    return LoopbackBackend(path, server=True, faults=faults, **given), Rig(path)


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        (Faults(greeting=b"220 mail.example.org ESMTP\r\n"), "it answers GET_FEATURES with"),
        (Faults(answer={peer.GET_QUEUE_NUM: b"\xff" * 20}), "it answers GET_QUEUE_NUM with"),
        (Faults(close_at=peer.GET_PROTOCOL_FEATURES), "the back end has closed the connection"),
    ],
)
def test_handshake_that_goes_wrong_ends_the_connection(path: Path, faults: Faults, reason: str) -> None:
    backend, rig = broken(path, faults)
    with backend:
        rig.link.connect()
        rig.loop.until(lambda: rig.user.session is None, PATIENCE_S)
    assert reason in rig.user.state.reason
    assert not rig.alive


def test_too_few_queues_are_refused(path: Path) -> None:
    with LoopbackBackend(path, server=True, queue_pairs=2):
        rig = Rig(path, pairs=4)
        rig.link.connect()
        rig.loop.until(lambda: rig.user.refused, PATIENCE_S)
    assert rig.user.state.reason == "you are asking more queues than supported: 2"


def test_the_next_back_end_must_have_what_the_guest_was_offered(
    rig: Rig, backend: LoopbackBackend, caplog: pytest.LogCaptureFixture
) -> None:
    rig.start()
    backend.features &= ~(1 << 15)  # MRG_RXBUF
    backend.drop()
    rig.loop.until(lambda: not rig.alive[-1], PATIENCE_S)
    rig.link.connect()
    rig.loop.until(lambda: rig.user.refused, PATIENCE_S)
    assert "lacks features 0x8000" in rig.user.state.reason
    assert rig.alive == [True, False]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (peer.GET_VRING_BASE, "no answer for 0.2 s"),
        (peer.SET_MEM_TABLE, "it answers SET_MEM_TABLE with request 11, flags 0x5, 8 bytes"),  # the next one's
    ],
)
def test_back_end_that_does_not_answer_is_given_up(
    path: Path, request_: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmmd.net.vhost_user.backend.REPLY_DEADLINE_S", 0.2)
    backend, rig = broken(path, Faults(silent_to={request_}))
    with backend:
        rig.connect()
        rig.start()
        rig.loop.until(lambda: backend.rings_running == 2, PATIENCE_S)
        with rig.machine.lock:
            rig.device.reset_by_driver()
        rig.loop.until(lambda: rig.device.status == 0, PATIENCE_S)
        rig.loop.until(lambda: rig.alive == [True, False], PATIENCE_S)
    assert rig.user.state.reason == reason


def test_time_is_not_won_by_single_bytes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmmd.net.vhost_user.backend.REPLY_DEADLINE_S", 0.3)
    backend, rig = broken(path, Faults(silent_to={peer.GET_VRING_BASE}))
    with backend:
        rig.connect()
        rig.start()
        rig.loop.until(lambda: backend.rings_running == 2, PATIENCE_S)
        with rig.machine.lock:
            rig.device.reset_by_driver()
        rig.loop.until(lambda: rig.user.session is not None and rig.user.session.waiting, PATIENCE_S)
        deadline = rig.user._deadline
        for byte in reply(Request.GET_VRING_BASE, bytes(8))[:8]:
            rig.user.receive(bytes([byte]))
        assert rig.user._deadline is deadline
        rig.loop.until(lambda: rig.device.status == 0, PATIENCE_S)
    assert rig.user.state.reason == "no answer for 0.3 s"


def test_back_end_that_comes_back_to_do_the_same_is_told_of_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend, rig = broken(path, Faults(greeting=b"hello, who is there?"))
    with backend:
        for _ in range(5):
            rig.link.connect()
            rig.loop.until(lambda: rig.user.refused and rig.link.connection is None, PATIENCE_S)
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("position", [0x7FFF, 0xFFFF, 200])
def test_position_that_cannot_be_is_not_believed(path: Path, position: int) -> None:
    answer = {peer.GET_VRING_BASE: reply(peer.GET_VRING_BASE, struct.pack("<II", 1, position))}
    backend, rig = broken(path, Faults(answer=answer))
    with backend:
        rig.connect()
        rig.start()
        rig.offer()
        rig.echo(FRAME)
        with rig.machine.lock:
            rig.device.drain([1], lambda: None)
        rig.loop.until(lambda: not rig.device.busy, PATIENCE_S)
        assert rig.device.queues[1].position == (1, 1)


def test_flood_of_a_back_end_is_one_error(path: Path) -> None:
    backend, rig = broken(path, Faults(greeting=bytes(200_000)))
    with backend:
        rig.link.connect()
        rig.loop.until(lambda: rig.user.refused, PATIENCE_S)
    assert len(rig.ram.memory.read(0, RAM_BYTES)) == RAM_BYTES  # and the guest lives
