# SPDX-License-Identifier: Apache-2.0
"""device_add, device_del, drive_add and drive_del on a machine that has not started: as QEMU 7.2 answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.differential.same_lines import Row, check, error, run
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]

ARGUMENTS = [
    "-machine", "pc,accel=kvm", "-m", "16", "-nodefaults", "-S",
    "-chardev", "null,id=c0",
    "-drive", "if=none,id=dr0,format=raw,file=@/a", "-drive", "if=none,id=dr1,format=raw,file=@/b",
    "-drive", "if=none,id=dr2,format=raw,file=@/c", "-drive", "if=none,id=empty",
    "-device", "isa-debugcon,iobase=0x402,chardev=c0,id=dbg",
    "-device", "virtio-blk-pci,drive=dr0,id=d0,bootindex=1,addr=5",
]  # fmt: skip
BLK = 'device_add {"driver": "virtio-blk-pci"'
DR1 = f'{BLK}, "drive": "dr1"'
TYPED = "device_add is checked like every command; QEMU turns numbers into names"
NO_ID = "QEMU prints (null) where there is no id"
NO_IDENTIFIER = (
    "Error: Parameter 'id' expects an identifier; letters, digits, '-', '.', '_', starting with a letter\r\n"
)
ROWS = (
    # device_add: arguments
    Row("device_add"),
    Row('device_add {"id": "x"}'),
    Row('device_add {"driver": "bogus"}'),
    Row('device_add {"driver": ""}'),
    Row('device_add {"driver": 5}', error("Invalid parameter type for 'driver', expected: string"), TYPED),
    Row(f'{DR1}, "bus": 5}}', error("Invalid parameter type for 'bus', expected: string"), TYPED),
    Row('device_add {"driver": "i440FX"}'),
    Row('device_add {"driver": "isa-serial"}'),
    Row('device_add {"driver": "isa-debugcon", "chardev": "c0", "id": "x"}'),
    Row('device_add {"driver": "isa-debug-exit", "id": "x"}'),
    Row(f'{DR1}, "id": "9x"}}'),
    Row(f'{DR1}, "id": ""}}'),
    Row(f'{DR1}, "bus": "nobus"}}'),
    Row(f'{DR1}, "bus": "isa.0"}}'),
    # device_add: properties
    Row(f"{BLK}}}"),
    Row(f'{BLK}, "drive": ""}}'),
    Row(f'{BLK}, "drive": "nope"}}'),
    Row(f'{BLK}, "drive": "empty"}}'),
    Row(f'{BLK}, "drive": "dr0"}}'),
    Row(f'{DR1}, "bogus": 1}}'),
    Row(f'{DR1}, "bootindex": "x"}}'),
    Row(f'{DR1}, "num-queues": -1}}'),
    Row(f'{DR1}, "num-queues": "65536"}}'),
    Row(f'{DR1}, "num-queues": "abc"}}'),
    Row(f'{DR1}, "num-queues": true}}'),
    Row(f'{DR1}, "write-cache": "x"}}'),
    Row(f'{DR1}, "share-rw": "x"}}'),
    Row('block_resize {"device": "dr1", "node-name": "nope", "size": 2097152}'),
    Row(f'{DR1}, "addr": "99"}}'),
    Row(f'{DR1}, "num-queues": 0}}'),
    Row(f'{DR1}, "queue-size": 3}}'),
    Row(f'{DR1}, "logical_block_size": 1000}}'),
    Row(f'{DR1}, "bootindex": 1}}'),
    # device_add: places
    Row(f'{DR1}, "addr": "5"}}'),
    Row(f'{DR1}, "addr": "5.1"}}'),
    Row(
        f'{DR1}, "addr": "1.3"}}',
        error("PCI: slot 1 function 3 not available for virtio-blk-pci, in use by PIIX4_PM"),
        NO_ID,
    ),
    Row(f'{DR1}, "id": "d1", "addr": 16, "write-cache": true, "serial": 55, "bus": "pci.0"}}'),
    Row(f'{BLK}, "drive": "dr2", "id": "d1"}}'),
    Row('qom-get {"path": "/machine/peripheral/d1", "property": "addr"}'),
    Row('qom-get {"path": "/machine/peripheral/d1", "property": "serial"}'),
    Row('qom-get {"path": "/machine/peripheral/d1", "property": "hotplugged"}'),
    Row("query-block"),
    Row("query-blockstats"),
    Row('blockdev-del {"node-name": "nope"}'),
    # device_del
    Row("device_del"),
    Row('device_del {"id": "nope"}'),
    Row('device_del {"id": "/machine/peripheral/nope"}'),
    Row('device_del {"id": "/machine/peripheral/d0/virtio-backend"}'),
    Row('device_del {"id": "d0/virtio-backend"}'),
    Row('device_del {"id": "d0/nothing"}'),
    Row('device_del {"id": "dbg"}'),
    Row('device_del {"id": "/machine/peripheral/dbg"}'),
    Row('device_del {"id": "/machine"}'),
    Row('device_del {"id": "/machine/peripheral"}'),
    # the monitor for people
    Row("!device_add"),
    Row("!device_add virtio-blk-pci"),
    Row("!device_add bogus"),
    Row("!device_add virtio-blk-pci,drive=dr1,id=x"),
    Row(
        "!device_add virtio-blk-pci,drive=dr2,id=9",
        {"return": NO_IDENTIFIER},
        "QEMU's parser says «Try help» and not why",
    ),
    Row("!device_del"),
    Row("!device_del nope"),
    Row("!drive_add"),
    Row("!drive_add 0"),
    Row("!drive_add 0 if=none,id=da,file=@/d,format=raw"),
    Row("!drive_add 0 if=none,id=da,file=@/d,format=raw"),
    Row("!drive_add 0 if=none,file=@/e,format=raw,readonly=on"),
    Row("!drive_add 0 if=none,id=db,file=@/none"),
    Row("!drive_add 0 if=none,id=dq"),
    Row("!drive_add -n 0 driver=null-co"),
    Row("!drive_add -n 0 node-name=zz,driver=null-co"),
    Row("!drive_add 0 if=none,id=zz,file=@/f,format=raw"),
    Row('blockdev-add {"driver": "null-co", "node-name": "da"}'),
    Row("!drive_add 0 if=none,id=dn,node-name=nn,file=@/f,format=raw"),
    Row("!info block"),
    Row("!info block -n"),
    Row("query-block"),
    Row("!drive_del"),
    Row("!drive_del nope"),
    Row("!drive_del nn"),
    Row("!drive_del dn"),
    Row("!drive_del da"),
    Row("!drive_del dq"),
    Row("!drive_del zz"),
    Row("!drive_del d0"),
    Row("!drive_del dr0"),  # from under its device
    Row("query-block"),
    Row("query-blockstats"),
    Row("!info block"),
    Row("!block_resize dr1 2M"),
    Row("!block_resize dr0 2M"),
    Row("query-block"),
)


def images(directory: Path) -> Path:
    for image in "abcdef":
        with (directory / image).open("wb") as file:
            file.truncate(1 << 20)
    return directory


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    return {name: run(name, ARGUMENTS, ROWS, images(tmp_path_factory.mktemp(name))) for name in ("vmmd", "qemu")}


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[row.line[:90] for row in ROWS])
def test_it_is_answered_as_by_qemu(number: int, answers: dict[str, list[Any]]) -> None:
    check(ROWS[number], answers["vmmd"][number], answers["qemu"][number])


@pytest.mark.parametrize("device", ["d0", "/machine/peripheral-anon/device[0]"])
def test_a_device_that_goes_is_told_of_as_by_qemu(device: str, tmp_path: Path) -> None:
    """QEMU waits for the guest or a reset before it takes the device out, vmmd does not: nothing has started."""
    told: dict[str, list[Any]] = {}
    for name in ("vmmd", "qemu"):
        directory = tmp_path / name
        directory.mkdir()
        arguments = [each.replace("@/", f"{images(directory)}/") for each in ARGUMENTS]
        with Vm(emulator(name), [*arguments, "-device", "virtio-blk-pci,drive=dr1"], serial=False) as vm:
            assert vm.qmp.cmd("device_del", {"id": device}) == {}
            if name == "qemu":
                vm.qmp.cmd("system_reset")
            told[name] = [vm.qmp.wait_event("DEVICE_DELETED", 20)["data"] for _ in range(2)]
    assert told["vmmd"] == told["qemu"]
