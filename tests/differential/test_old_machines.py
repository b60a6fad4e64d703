# SPDX-License-Identifier: Apache-2.0
"""Devices of older machine versions have the defaults that QEMU 7.2 gives them there."""

from __future__ import annotations

from typing import Any

import pytest

from tests.framework.vm import Vm, emulator

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]

DEVICES = (
    "virtio-serial-pci", "virtio-rng-pci", "virtio-balloon-pci", "virtio-blk-pci,drive=n0",
    "virtio-net-pci,mac=02:00:00:00:00:01", "virtio-net-pci-transitional,mac=02:00:00:00:00:02",
    "virtio-rng-pci-transitional",
)  # fmt: skip
BOARD = ("isa-fdc", "i8042")
#: values that vmmd lacks
DIFFERENT = {("2.5", "page-per-vq"), ("2.7", "page-per-vq")}


def settings(name: str, version: str) -> dict[str, dict[str, Any]]:
    """By device, the values of its properties."""
    arguments = ["-machine", f"pc-i440fx-{version},accel=kvm", "-m", "16", "-nodefaults", "-S"]
    arguments += ["-blockdev", "null-co,node-name=n0,size=1048576,read-zeroes=on"]
    for number, device in enumerate(DEVICES):
        arguments += ["-device", f"{device},id=d{number}"]
    found = {}
    with Vm(emulator(name), arguments, serial=False) as vm:
        paths = {device: f"/machine/peripheral/d{number}" for number, device in enumerate(DEVICES)}
        for entry in vm.qmp.cmd("qom-list", path="/machine/unattached"):
            paths |= {
                kind: f"/machine/unattached/{entry['name']}" for kind in BOARD if entry["type"] == f"child<{kind}>"
            }
        for device, path in paths.items():
            names = [
                each["name"]
                for each in vm.qmp.cmd("qom-list", path=path)
                if each["type"] in ("bool", "uint16", "uint32", "str", "OnOffAuto", "FdcDriveType")
            ]
            found[device] = {each: vm.qmp.cmd("qom-get", path=path, property=each) for each in names}
    return found


@pytest.mark.parametrize("version", ["2.5", "2.7", "4.0", "7.1"])
def test_defaults_are_qemus(version: str) -> None:
    ours, theirs = (settings(name, version) for name in ("vmmd", "qemu"))
    different = [
        (device, key, value, theirs[device].get(key))
        for device, values in ours.items()
        for key, value in values.items()
        if theirs[device].get(key, value) != value
    ]
    assert [each for each in different if (version, each[1]) not in DIFFERENT] == []
    assert {(version, key) for _, key, _, _ in different} == {each for each in DIFFERENT if each[0] == version}
