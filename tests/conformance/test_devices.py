# SPDX-License-Identifier: Apache-2.0
"""What every device type of the registry must do, tried on each by itself: no KVM, no machine, only its seams.

It constructs with defaults, resets idempotently, survives any access (a bounded number of them here;
``scripts/acceptance-devices`` goes on), and leaves no trace when it is unplugged or when anything that it asks for on
the way is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.framework.device_rig import HIGH_AT_REST, SEAM_METHODS, SEAMS_THAT_NEVER_FAIL, Refused, Rig
from tests.framework.state_dump import differences, dump
from tests.fuzz.device_accesses import Accesses, DeviceFault
from vmmd.core.device import DeviceContext
from vmmd.core.registry import DEVICES, LATER, all_device_classes, device_class
from vmmd.errors import VmmdError

if TYPE_CHECKING:
    from pathlib import Path

SWEPT, RANDOM = 2_000, 3_000


def pounded(type_name: str, seed: str) -> Rig:
    """A device that the guest, its disks and its peers have done anything to."""
    accesses = Accesses(type_name, seed)
    accesses.run(RANDOM // 3, SWEPT // 3)
    accesses.rig.recover()
    accesses.rig.map_bars()
    return accesses.rig


#: names of QEMU's with capitals, from before there was a rule
OLD_NAMES = ("fdtypeA", "fdtypeB", "bootindexA", "bootindexB")

every_type = pytest.mark.parametrize("type_name", sorted(DEVICES))


def test_the_registry_tells_the_truth() -> None:
    for name, cls in all_device_classes().items():
        assert cls.type_name == name
        assert cls.description or not cls.user_creatable, name
    assert not set(LATER) & set(DEVICES)


def test_every_seam_is_refused_or_cannot_fail() -> None:
    known = set(SEAM_METHODS) | SEAMS_THAT_NEVER_FAIL
    assert set(DeviceContext.__slots__) == known, "name the seam in tests/framework/device_rig.py"


@every_type
def test_properties_are_documented_and_have_fitting_defaults(type_name: str) -> None:
    cls = device_class(type_name)
    assert cls is not None
    for declared in cls.Props.each():
        assert declared.doc.strip(), declared.wire_name
        assert declared.kind.accepts, declared.wire_name
        name = declared.wire_name
        assert name == name.lower() or name.startswith("x-") or name in OLD_NAMES, name
        if declared.default is not None:
            value = declared.kind.from_json(declared.kind.to_json(declared.default))
            assert value == declared.default, declared.wire_name


@every_type
def test_values_of_properties_come_back_from_text(type_name: str) -> None:
    cls = device_class(type_name)
    assert cls is not None
    for declared in cls.available():
        for value in (declared.default, *declared.kind.values):
            shown = declared.shown(value)
            if value is None or not isinstance(shown, (str, int)):
                continue
            text = {True: "on", False: "off"}[shown] if isinstance(shown, bool) else str(shown)
            props = cls.Props()
            props.set_text(declared.wire_name, text, type_name)
            assert declared.shown(props.values[declared.name]) == shown, declared.wire_name
            props.set_json(declared.wire_name, shown, type_name)
            assert declared.shown(props.values[declared.name]) == shown, declared.wire_name


@every_type
def test_any_access_is_survived(type_name: str, tmp_path: Path) -> None:
    try:
        Accesses(type_name, "conformance").run(RANDOM, SWEPT)
    except DeviceFault as fault:
        script = tmp_path / f"{type_name}.qtest"
        script.write_text(fault.script)
        pytest.fail(f"{fault}\nreplay: python -m tests.fuzz.replay {script}")


@every_type
def test_unplugged_it_leaves_everything_as_it_was(type_name: str) -> None:
    before = Rig(type_name)
    assert not before.calls  # constructing has no side effects
    rig = pounded(type_name, "unplug")
    rig.unplug()
    assert rig.traces() | {"timer": None} == before.traces()
    rig.unplug()  # once more: nothing
    assert rig.traces() | {"timer": None} == before.traces()


@every_type
def test_after_its_end_time_passes_without_it(type_name: str) -> None:
    """A timer of an unplugged device must not come back to life."""
    rig = pounded(type_name, "end")
    rig.unplug()
    traces, edges, asked = rig.traces(), len(rig.machine.interrupts.edges), len(rig.machine.requests.asked)
    rig.machine.clock.advance(3600 * 1_000_000_000)
    rig.loop.run()
    assert rig.traces() | {"timer": None} == traces | {"timer": None}
    assert len(rig.machine.interrupts.edges) == edges
    assert len(rig.machine.requests.asked) == asked


@every_type
def test_whatever_is_refused_while_it_is_plugged_it_leaves_no_trace(type_name: str) -> None:
    clean = Rig(type_name)
    clean.plug()
    steps = list(clean.calls)
    assert steps or clean.traces() == Rig(type_name).traces()  # port92, and chips that are in the kernel
    for number, step in enumerate(steps):
        rig = Rig(type_name, refuse=number)
        before = rig.traces()
        with pytest.raises(Refused):
            rig.plug()
        assert rig.traces() == before, f"after {step} (call {number}) was refused"


@every_type
def test_plugged_unplugged_and_plugged_again(type_name: str) -> None:
    rig = Rig(type_name)
    rig.plug()
    first = rig.traces()
    rig.unplug()
    rig.device = rig.make()
    rig.plug()
    second = rig.traces()
    ignored = ("resume", "quiesce", "frontend", "netdev", "resize")  # hold the device itself
    assert {key: value for key, value in second.items() if key not in ignored} == {
        key: value for key, value in first.items() if key not in ignored
    }


@every_type
def test_reset_is_idempotent_and_forgets_what_the_guest_did(type_name: str) -> None:
    """Compared with a device that has seen nothing but time: all its registers, and all that it holds."""
    rig = pounded(type_name, "reset")
    fresh = Rig(type_name)
    fresh.plug()
    fresh.machine.clock.advance(rig.machine.clock.now_ns())
    seen = []
    for each in (rig, rig, fresh):
        each.reset()
        seen.append((dump(each.device), each.registers()))
        high = {gsi for gsi, level in each.machine.interrupts.levels.items() if level}
        assert high == HIGH_AT_REST.get(type_name, set())
    (first, registers), (second, again), (clean, unused) = seen
    forgotten = differences(clean, first)
    assert not differences(first, second)
    assert not forgotten, "not reset, nor named by KEPT_AT_RESET:\n" + "\n".join(forgotten)
    assert registers == again
    if not type(rig.device).KEPT_AT_RESET:
        assert registers == unused


@every_type
def test_a_wrong_property_is_refused_by_name(type_name: str) -> None:
    cls = device_class(type_name)
    assert cls is not None
    with pytest.raises(VmmdError, match="no-such-property"):
        cls.Props().set_text("no-such-property", "1", type_name)
