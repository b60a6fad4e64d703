# SPDX-License-Identifier: Apache-2.0
"""virtio-rng through its registers and rings: what a guest gets, the rate limit, stop and reset with a request open."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.virtqueue_driver import Buffer, Driver, DriverQueue
from tests.unit.fakes import ImmediateLoop, make_context
from tests.unit.virtio_rig import FunctionRig
from vmmd.core.device import ResetKind
from vmmd.devices.virtio.rng.device import VirtioRngPci
from vmmd.devices.virtio.rng.worker import REQUEST_BYTES_MAX, TURN_CHAINS, RngWorker
from vmmd.errors import UsageError
from vmmd.machine.objects.rng import FileEntropy
from vmmd.units import NS_PER_MS

if TYPE_CHECKING:
    from pathlib import Path

RINGS, DATA = 0x1_0000, 0x4_0000
NEEDS_RESET = 0x40


class Bench(FunctionRig):
    """The device, its driver with one queue, and the source of its bytes."""

    def __init__(self, **given: str) -> None:
        machine = make_context()
        self.source = machine.backends.entropy_source
        super().__init__(VirtioRngPci, "rng0", machine, **given)
        self.start()

    def start(self) -> None:
        """A driver begins."""
        self.driver = Driver(self.registers, self.machine.memory, modern=True)
        self.driver.negotiate(1 << 32)
        self.ring: DriverQueue = self.driver.setup_queue(0, RINGS)
        self.driver.ready()
        self.machine.loop.run()

    def restart(self) -> None:
        """The driver is loaded anew."""
        self.driver.status = 0
        self.machine.loop.run()
        self.machine.memory.write(RINGS, bytes(0x4000))
        self.start()

    def ask(self, *lengths: int) -> None:
        """A chain with buffers of these lengths, at DATA and each 64 KiB further on."""
        buffers = [Buffer(DATA + 0x1_0000 * index, length) for index, length in enumerate(lengths)]
        self.ring.add([], buffers)
        self.ring.kick()
        self.machine.loop.run()

    def got(self) -> list[int]:
        """Bytes written of the chains that came back."""
        self.machine.loop.run()
        return [written for _, written in self.ring.collect()]

    def data(self, count: int, at: int = DATA) -> bytes:
        return self.machine.memory.read(at, count)


def test_a_defect_breaks_this_device_only_and_fills_no_log(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_worker: object) -> bool:
        raise ValueError("a defect")

    bench = Bench()
    with monkeypatch.context() as patched:
        patched.setattr(RngWorker, "_serve", fail)
        for _ in range(3):
            bench.ask(16)
            assert bench.driver.status & NEEDS_RESET
            bench.restart()
    bench.restart()
    assert capfd.readouterr().err.count("Traceback") == 1
    bench.ask(16)
    assert bench.got() == [16]


def test_buffers_are_filled_in_order() -> None:
    bench = Bench()
    bench.ask(16, 8)
    assert bench.got() == [24]
    assert bench.data(17) == bytes(range(16)) + b"\0"
    assert bench.data(8, DATA + 0x1_0000) == bytes(range(16, 24))
    assert bench.device.config_read(2, 2) == 0x1005


def test_fewer_bytes_than_asked_for_are_told() -> None:
    bench = Bench()
    bench.source.hold = True
    bench.ask(16)
    bench.source.give(5)
    assert bench.got() == [5]
    assert bench.data(6) == bytes(range(5)) + b"\0"


def test_chain_without_room_comes_back_empty_at_once() -> None:
    bench = Bench()
    bench.ring.add([Buffer(DATA, 8)], [])
    bench.ask(4)
    assert bench.got() == [0, 4]
    assert bench.source.asked == [4]


def test_chains_without_room_do_not_keep_the_loop() -> None:
    bench = Bench()
    for _ in range(2 * TURN_CHAINS):
        bench.ring.add([Buffer(DATA, 8)], [])
    bench.ring.kick()
    assert len(bench.ring.collect()) == TURN_CHAINS
    assert bench.got() == [0] * TURN_CHAINS


def test_a_request_is_bounded_whatever_the_chain_holds() -> None:
    bench = Bench()
    bench.ask(0x8000, 0x8000, 0x8000)
    assert bench.source.asked == [REQUEST_BYTES_MAX]
    assert bench.got() == [REQUEST_BYTES_MAX]


def test_rate_limit_gives_so_many_bytes_a_period() -> None:
    bench = Bench(max_bytes="10", period="100")
    bench.ask(8)
    assert bench.got() == [8]
    bench.ask(8)
    assert bench.got() == [2]
    bench.ask(8)
    assert bench.got() == []
    bench.advance(100 * NS_PER_MS - 1)
    assert bench.got() == []
    bench.advance(1)
    assert bench.got() == [8]


def test_stop_forgets_the_request_and_resume_asks_again() -> None:
    bench = Bench()
    bench.source.hold = True
    bench.ask(16)
    bench.stop_vm()
    assert bench.source.waiting is None
    bench.ask(8)
    assert bench.source.asked == [16]  # nothing while the VM is stopped
    bench.source.hold = False
    bench.resume_vm()
    assert bench.got() == [16, 8]


def test_reset_with_a_request_open_writes_nothing() -> None:
    bench = Bench()
    bench.source.hold = True
    bench.ask(16)
    answer = bench.source.waiting
    with bench.machine.lock:
        bench.device.reset(ResetKind.COLD)
    assert bench.source.waiting is None
    answer[1](b"x" * 16)  # a source that answers all the same
    bench.machine.loop.run()
    assert bench.data(16) == bytes(16)


def test_bus_mastering_off_and_on_loses_no_chain() -> None:
    bench = Bench()
    bench.source.hold = True
    bench.ask(16)
    registers = bench.driver.registers
    command = registers.config_read(4, 2)
    registers.config_write(4, 2, command & ~4)
    bench.machine.loop.run()
    bench.source.hold = False
    registers.config_write(4, 2, command)
    bench.machine.loop.run()
    assert bench.got() == [16]


@pytest.mark.parametrize(
    ("given", "sentence"), [({"period": "0"}, "positive integer"), ({"max_bytes": str(1 << 63)}, r"less than 2\^63")]
)
def test_wrong_limits_are_refused(given: dict[str, str], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Bench(**given)


# -- rng-random ----------------------------------------------------------------------------------------------------


class Asked:
    """One request to a file's source."""

    def __init__(self, fd: int) -> None:
        self.loop: Any = ImmediateLoop()
        self.source = FileEntropy(self.loop, fd, "r0")
        self.answers: list[bytes] = []

    def read(self, count: int) -> None:
        self.source.read(count, self.answers.append)


def test_file_that_has_nothing_yet_is_waited_for() -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    asked = Asked(reading)
    asked.read(4)
    assert asked.answers == []
    (ready,) = asked.loop.readers.values()
    os.write(writing, b"abcdef")
    ready()
    assert asked.answers == [b"abcd"]
    assert asked.loop.readers == {}
    asked.read(4)
    assert asked.answers == [b"abcd", b"ef"]
    asked.read(1)
    asked.source.cancel()
    assert asked.loop.readers == {}
    asked.source.close()
    os.close(reading)
    os.close(writing)


def test_file_at_its_end_is_asked_again_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(b"xy")
    fd = os.open(path, os.O_RDONLY)
    asked = Asked(fd)
    asked.read(2)
    asked.read(2)
    assert asked.answers == [b"xy"]
    with path.open("ab") as file:
        file.write(b"z")
    asked.loop.run_later()
    assert asked.answers == [b"xy", b"z"]
    asked.source.close()
    os.close(fd)
