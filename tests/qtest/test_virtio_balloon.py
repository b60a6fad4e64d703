# SPDX-License-Identifier: Apache-2.0
"""The balloon of a whole machine, vmmd and QEMU: what the guest sees, what the commands say, and what becomes of the
host's memory."""

from __future__ import annotations

import os
import resource
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.framework.qtest import QmpFailure, Qtest
from tests.framework.virtqueue_driver import Buffer
from tests.framework.wire_driver import collect, wire_driver
from vmmd.units import KiB, MiB

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.framework.virtqueue_driver import Driver, DriverQueue

RAM_MIB, SLOT = 128, 4
RINGS, LIST = 0x20_0000, 0x30_0000
FIRST = 0x1000  # page frame at 16 MiB
FRAMES_A_CHAIN = 256
ALL = (1 << 64) - 1
PATH = "/machine/peripheral/balloon0"
UNKNOWN = (1 << 64) - 1
DEADLINE_S = 30
MEMSET_BYTES = 8 * MiB  # in one request

both = pytest.mark.parametrize("name", ["vmmd", pytest.param("qemu", marks=pytest.mark.qemu)])


def machine(name: str, *args: str, device: str = "") -> Qtest:
    return Qtest(
        name, "-nodefaults", "-m", str(RAM_MIB), "-device", f"virtio-balloon-pci,id=balloon0,addr=4{device}", *args
    )


def start(vm: Qtest, *, modern: bool = True) -> tuple[Driver, list[DriverQueue]]:
    driver = wire_driver(vm, SLOT, modern=modern)
    driver.negotiate(ALL)
    rings = [driver.setup_queue(index, RINGS + 0x1_0000 * index) for index in range(driver.queue_count)]
    driver.ready()
    return driver, rings


def send(vm: Qtest, ring: DriverQueue, data: bytes) -> None:
    vm.b64write(LIST, data)
    ring.add([Buffer(LIST, len(data))], [])
    ring.kick()


def pages(vm: Qtest, ring: DriverQueue, *frames: int) -> None:
    send(vm, ring, struct.pack(f"<{len(frames)}I", *frames))
    assert [written for _, written in collect(ring, 1)] == [0]


def refused(vm: Qtest, command: str, **arguments: Any) -> tuple[str, str]:
    """Class and first sentence of the error."""
    with pytest.raises(QmpFailure) as caught:
        vm.qmp(command, **arguments)
    return caught.value.error_class, caught.value.desc.partition("; ")[0]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@both
@pytest.mark.parametrize("modern", [True, False], ids=["modern", "legacy"])
def test_what_a_driver_finds(name: str, modern: bool) -> None:
    with machine(name, device=",free-page-reporting=on,deflate-on-oom=on") as vm:
        function = vm.pci(SLOT)
        assert [function.config_read(at, 4) for at in (0, 8, 0x2C)] == [0x1002_1AF4, 0x00FF_0000, 0x0005_1AF4]
        assert [kind for kind, _ in function.capabilities()] == [9] * 5  # no MSI-X
        driver, rings = start(vm, modern=modern)
        assert driver.offered() & 0xFFFF == 0b11_0110
        assert [ring.size for ring in rings] == [128, 128, 128, 32]
        assert [driver.config(at, 4) for at in (0, 4, 8, 12, 16)] == [0, 0, 0, 0, 0xFFFF_FFFF]


@both
def test_pages_in_the_balloon_read_as_zeroes(name: str) -> None:
    with machine(name, device=",free-page-reporting=on") as vm:
        driver, rings = start(vm)

        def fill() -> None:
            vm.memset(FIRST << 12, 0x8000, 0x5A)

        def seen() -> list[int]:
            return [vm.readb((FIRST + page) << 12) for page in range(8)]

        fill()
        pages(vm, rings[0], FIRST + 1, FIRST, FIRST + 3, 0xFFFF_FFFF, 0xFEE00, RAM_MIB << 8)
        assert driver.isr == 1
        assert seen() == [0, 0, 0x5A, 0] + [0x5A] * 4
        pages(vm, rings[1], FIRST, FIRST + 1)
        fill()
        vm.write(LIST, struct.pack("<IIH", FIRST, FIRST + 6, FIRST))
        rings[0].add([Buffer(LIST, 3), Buffer(LIST + 3, 7)], [Buffer(LIST + 64, 16)])
        rings[0].kick()
        collect(rings[0], 1)
        assert seen() == [0, 0x5A, 0x5A, 0x5A, 0x5A, 0x5A, 0, 0x5A]
        fill()
        for poison, expected in ((9, [0x5A] * 8), (0, [0, 0, 0, 0x5A, 0x5A, 0, 0x5A, 0x5A])):
            driver.write_config(12, 4, poison)
            rings[3].add(
                [Buffer((FIRST + 3) << 12, 0x1000)], [Buffer(FIRST << 12, 0x3000), Buffer(FIRST + 5 << 12, 0x1000)]
            )
            rings[3].kick()
            collect(rings[3], 1)
            assert seen() == expected


@both
def test_target_and_actual(name: str) -> None:
    with machine(name) as vm:
        driver, _ = start(vm)
        ram = RAM_MIB * MiB
        assert vm.qmp("query-balloon") == {"actual": ram}
        for target, wanted in ((100 * MiB, 28 << 8), (100 * MiB, 28 << 8), (1 << 50, 0), (1, (RAM_MIB << 8) - 1)):
            assert vm.qmp("balloon", value=target) == {}
            assert driver.isr & 2
            assert driver.config(0, 4) == wanted
        for wrong in (0, -1):
            assert refused(vm, "balloon", value=wrong) == ("GenericError", "Parameter 'target' expects a size")
        assert refused(vm, "balloon", value=1 << 63)[1] == "Invalid parameter type for 'value', expected: integer"
        assert vm.qmp("query-balloon") == {"actual": ram}
        driver.write_config(4, 4, 0x100)
        assert vm.wait_event("BALLOON_CHANGE")["data"] == {"actual": ram - MiB}
        assert vm.hmp("info balloon").split() == ["balloon:", f"actual={RAM_MIB - 1}"]
        assert vm.hmp("balloon 64") == ""
        assert driver.config(0, 4) == 64 << 8
        # QEMU-COMPAT: a reset changes none of it
        vm.qmp("system_reset")
        vm.wait_event("RESET")
        driver, _ = start(vm)
        assert [driver.config(at, 4) for at in (0, 4)] == [64 << 8, 0x100]
        assert vm.qmp("query-balloon") == {"actual": ram - MiB}


@both
def test_statistics_and_their_interval(name: str) -> None:
    """Timing is in the unit tests, and below on vmmd's clock: Debian's QEMU has none without a guest."""
    with machine(name) as vm:
        stats = vm.qmp("qom-get", path=PATH, property="guest-stats")
        assert stats.pop("last-update") == 0
        assert set(stats["stats"].values()) == {UNKNOWN}
        assert len(stats["stats"]) == 10
        for path in (PATH, f"{PATH}/virtio-backend"):
            assert {"name": "guest-stats", "type": "guest statistics"} in vm.qmp("qom-list", path=path)
            assert {"name": "guest-stats-polling-interval", "type": "int"} in vm.qmp("qom-list", path=path)
        before = int(time.time())
        _, rings = start(vm)
        send(vm, rings[2], struct.pack("<HQHQHQ", 4, 111, 5, 222, 77, 3))
        until(lambda: vm.qmp("qom-get", path=PATH, property="guest-stats")["last-update"] != 0)
        found = vm.qmp("qom-get", path=f"{PATH}/virtio-backend", property="guest-stats")
        assert before <= found["last-update"] <= time.time()
        known = {key: value for key, value in found["stats"].items() if value != UNKNOWN}
        assert known == {"stat-free-memory": 111, "stat-total-memory": 222}
        for value, answer in (
            (-1, "timer value must be greater than zero"),
            (1 << 32, "timer value is too big"),
            ("5", "Invalid parameter type for 'guest-stats-polling-interval', expected: integer"),
        ):
            arguments = {"path": PATH, "property": "guest-stats-polling-interval", "value": value}
            assert refused(vm, "qom-set", **arguments) == ("GenericError", answer)
        for seconds in (5, (1 << 32) - 1, 0):
            assert vm.qmp("qom-set", path=PATH, property="guest-stats-polling-interval", value=seconds) == {}
            assert vm.qmp("qom-get", path=PATH, property="guest-stats-polling-interval") == seconds


@both
def test_the_guest_is_asked_in_virtual_time(name: str) -> None:
    with machine(name) as vm:
        if not vm.has_clock:
            pytest.skip("this QEMU's clock stands still")
        _, rings = start(vm)

        def answer(free: int) -> None:
            send(vm, rings[2], struct.pack("<HQ", 4, free))
            until(lambda: vm.qmp("qom-get", path=PATH, property="guest-stats")["stats"]["stat-free-memory"] == free)

        def still_held() -> bool:
            vm.qmp("query-balloon")  # the loop has had turns
            return not rings[2].collect()

        answer(1)
        vm.qmp("qom-set", path=PATH, property="guest-stats-polling-interval", value=2)
        vm.clock_step(1)
        collect(rings[2], 1)
        vm.clock_step(10_000_000_000)
        assert still_held()  # it is not asked again before it has answered
        answer(2)
        vm.clock_step(1_999_000_000)
        assert still_held()
        vm.clock_step(1_000_000)
        collect(rings[2], 1)


@both
def test_one_balloon_is_enough(name: str) -> None:
    vm = machine(name, "-device", "virtio-balloon-pci,id=other")
    with pytest.raises((AssertionError, OSError)):
        vm.start()
    assert "Only one balloon device is supported" in vm.stderr


def resident_bytes(vm: Qtest) -> int:
    """Memory of the host that the process holds, shared memory included."""
    for line in Path(f"/proc/{vm.process.pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * KiB
    raise AssertionError("no VmRSS")


@pytest.mark.parametrize("backend", ["memory-backend-ram", "memory-backend-ram,share=on", "memory-backend-memfd"])
def test_the_hosts_memory_follows(backend: str) -> None:
    """Memory that the guest gives is the host's, and comes back when the guest uses it."""
    given_mib = 64
    memory = ["-object", f"{backend},id=m0,size={RAM_MIB}M", "-machine", "pc,memory-backend=m0"]
    with machine("vmmd", *memory) as vm:
        _, rings = start(vm)

        def use() -> None:
            for at in range(FIRST << 12, (FIRST << 12) + given_mib * MiB, MEMSET_BYTES):
                vm.memset(at, MEMSET_BYTES, 0x5A)

        use()
        full = resident_bytes(vm)
        frames = range(FIRST, FIRST + (given_mib << 8))
        for at in range(0, len(frames), FRAMES_A_CHAIN):
            pages(vm, rings[0], *frames[at : at + FRAMES_A_CHAIN])
        empty = resident_bytes(vm)
        assert full - empty >= 60 * MiB
        for at in range(0, len(frames), FRAMES_A_CHAIN):
            pages(vm, rings[1], *frames[at : at + FRAMES_A_CHAIN])
        use()
        assert resident_bytes(vm) - empty >= 60 * MiB
        assert vm.readb(FIRST << 12) == 0x5A


@pytest.mark.skipif(
    os.geteuid() != 0 and resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] != resource.RLIM_INFINITY,
    reason="this user may not lock memory",
)
def test_locked_memory_stays() -> None:
    with machine("vmmd", "-overcommit", "mem-lock=on") as vm:
        _, rings = start(vm)
        vm.memset(FIRST << 12, 0x1000, 0x5A)
        pages(vm, rings[0], FIRST)
        assert vm.readb(FIRST << 12) == 0x5A
    assert "its pages stay with the process: all memory is locked (mem-lock=on)" in vm.stderr
