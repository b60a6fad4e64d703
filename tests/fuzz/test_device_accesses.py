# SPDX-License-Identifier: Apache-2.0
"""The random-access suite finds a device that is broken on purpose, and what it saves shows the fault again."""

from __future__ import annotations

import pytest

from tests.framework import device_rig
from tests.framework.access_script import ConfigWrite, Memory, Out, Read, Step, arguments_of, lines, parse
from tests.framework.device_rig import Rig
from tests.fuzz.device_accesses import Accesses, DeviceFault, play
from vmmd.core.registry import DEVICES

BROKEN = "broken-device"
SIGNS = {
    "raises": "IndexError: a bug",
    "lasts": "ms of processor time: out",
    "logs": "it logged: a bug was survived",
    "asks": "internal error: a bug",
    "timer": "ZeroDivisionError: in a timer",
}


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setitem(DEVICES, BROKEN, "tests.fuzz.broken_device:BrokenDevice")
    return monkeypatch


@pytest.mark.parametrize("bug", SIGNS)
def test_a_broken_device_is_found_and_its_script_shows_it_again(bug: str, broken: pytest.MonkeyPatch) -> None:
    broken.setitem(device_rig.NEEDED, BROKEN, {"bug": bug})
    with pytest.raises(DeviceFault, match=SIGNS[bug]) as caught:
        Accesses(BROKEN, "0").run(3_000, sweep=0)
    script = caught.value.script
    assert f"# device: {BROKEN}\n# seed: 0\n# arguments: -machine pc" in script
    with pytest.raises(DeviceFault, match=SIGNS[bug]):
        play(Rig(BROKEN), script)
    with pytest.raises(DeviceFault, match=SIGNS[bug]) as again:
        Accesses(BROKEN, "0").run(3_000, sweep=0)
    assert again.value.script == script or bug == "lasts"  # a seed is a run


def test_a_device_without_a_bug_passes(broken: pytest.MonkeyPatch) -> None:
    report = Accesses(BROKEN, "0").run(3_000)
    assert report.accesses >= 3_000
    assert 0 < report.slowest_s < 0.05


def test_lines_of_a_script_are_what_the_wire_takes() -> None:
    assert lines(Out(0x3F8, 1, 0x41)) == ["outb 0x3f8 0x41"]
    assert lines(Read(0xFEC0_0000, 8)) == ["readq 0xfec00000"]
    assert lines(Memory(0x1000, b"\x01\xff")) == ["write 0x1000 0x2 0x01ff"]
    assert lines(ConfigWrite(0x28, 0x3C, 1, 11)) == ["outl 0xcf8 0x8000283c", "outb 0xcfc 0xb"]
    assert lines(ConfigWrite(0x28, 0x3E, 4, 0xAABBCCDD)) == [
        line
        for at, value in ((0x3E, 0xDD), (0x3F, 0xCC), (0x40, 0xBB), (0x41, 0xAA))
        for line in (f"outl 0xcf8 {0x8000_2800 | at & ~3:#x}", f"outb {0xCFC + (at & 3):#x} {value:#x}")
    ]
    for access in (Out(0x3F8, 1, 0x41), Read(0xFEC0_0000, 8), Memory(0x1000, b"\x01\xff"), Step(1000)):
        assert parse(lines(access)[0]) == access
    assert parse("# a comment") is None
    assert arguments_of("# device: x\n# arguments: -m 16 -device x\noutb 1 2\n") == ["-m", "16", "-device", "x"]
    with pytest.raises(ValueError, match="not a line"):
        parse("jump 0x10")
