# SPDX-License-Identifier: Apache-2.0
"""Ports of virtio-serial plugged and unplugged, and their buses, as QEMU 7.2 has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.differential.same_lines import Row, check, run
from tests.framework.qmp import QmpError
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]

ARGUMENTS = [
    "-machine", "pc,accel=kvm", "-m", "16", "-nodefaults", "-S",
    "-chardev", "null,id=c0", "-chardev", "null,id=c1",
    "-device", "virtio-serial-pci,id=a,max_ports=3", "-device", "virtio-serial-pci,id=b,addr=9",
    "-device", "virtio-serial-pci,addr=0xa",
    "-device", "virtconsole,bus=a.0,chardev=c0,id=con",
    "-device", "virtserialport,bus=virtio-serial-bus.0,name=anonymous",
]  # fmt: skip
PORT = 'device_add {"driver": "virtserialport"'
CONSOLE = 'device_add {"driver": "virtconsole"'
ROWS = (
    Row(f'{PORT}, "bus": "a.0", "nr": 0}}'),
    Row(f'{PORT}, "bus": "a.0", "nr": 3}}'),
    Row(f'{PORT}, "bus": "a.0", "nr": -2}}'),
    Row(f'{PORT}, "bus": "a.0", "id": "p1", "name": "one"}}'),
    Row(f'{PORT}, "bus": "a.0", "id": "p1"}}'),
    Row(f'{PORT}, "bus": "a.0", "nr": 1}}'),
    Row(f'{CONSOLE}, "bus": "a.0", "nr": 0}}'),
    Row(f'{PORT}, "bus": "a.0", "name": "one"}}'),
    Row(f'{PORT}, "bus": "a.0", "id": "p2"}}'),
    Row(f'{PORT}, "bus": "a.0"}}'),
    Row(f'{PORT}, "bus": "nope.0"}}'),
    Row(f'{PORT}, "bus": "pci.0"}}'),
    Row(f'{PORT}, "id": "p3"}}'),  # where it goes by itself
    Row('qom-get {"path": "/machine/peripheral/p3", "property": "parent_bus"}'),
    Row('qom-get {"path": "/machine/peripheral/p3", "property": "nr"}'),
    Row('qom-get {"path": "/machine/peripheral/p3", "property": "hotplugged"}'),
    Row('device_add {"driver": "virtio-rng-pci", "bus": "a.0"}'),
    Row('device_add {"driver": "virtio-serial-pci", "id": "big", "max_ports": 512}'),
    Row('device_add {"driver": "virtio-serial-pci", "id": "none", "max_ports": 0}'),
)


def test_the_same_answers(tmp_path: Path) -> None:
    ours, qemus = (run(name, ARGUMENTS, ROWS, tmp_path) for name in ("vmmd", "qemu"))
    for each in zip(ROWS, ours, qemus, strict=True):
        check(*each)


def test_a_bus_goes_with_its_ports(tmp_path: Path) -> None:
    """DEVICE_DELETED of all of them, in QEMU's order. A number is free again when its port has gone."""
    gone = {}
    for name in ("qemu", "vmmd"):
        with Vm(emulator(name), ARGUMENTS, serial=False) as vm:
            for number in (1, 2):
                vm.qmp.cmd("device_add", driver="virtserialport", bus="a.0", id=f"p{number}")
            vm.qmp.cmd("device_del", id="p1")
            assert vm.qmp.wait_event("DEVICE_DELETED")["data"]["device"] == "p1"
            with pytest.raises(QmpError, match="Device 'p1' not found"):
                vm.qmp.cmd("device_del", id="p1")
            vm.qmp.cmd("device_add", driver="virtserialport", bus="a.0", id="p1")
            assert vm.qmp.cmd("qom-get", path="/machine/peripheral/p1", property="nr") == 1
            vm.qmp.cmd("device_del", id="a")
            vm.qmp.cmd("system_reset")
            seen = []
            while not seen or seen[-1].get("device") != "a":
                seen.append(vm.qmp.wait_event("DEVICE_DELETED")["data"])
            gone[name] = seen
    assert gone["vmmd"] == gone["qemu"]
