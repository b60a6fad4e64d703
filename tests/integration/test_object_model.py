# SPDX-License-Identifier: Apache-2.0
"""The object model of a machine with a guest: what is changed has its effect, memory is the guest's, nothing stays."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.framework.guests import BOOTSECTOR_CODE
from tests.framework.images import SECTOR_BYTES
from tests.framework.qmp import QmpError
from tests.framework.vm import Vm, emulator

if TYPE_CHECKING:
    from pathlib import Path

    from tests.framework.qmp import Qmp

pytestmark = pytest.mark.kvm

BOOT_TIMEOUT_S = 30
VMMD = emulator("vmmd")


def boot_disk(path: Path, text: str) -> str:
    """A disk whose boot sector prints ``text`` on COM1 and halts."""
    sector = (BOOTSECTOR_CODE + text.encode() + b"\n\0").ljust(SECTOR_BYTES - 2, b"\0") + b"\x55\xaa"
    path.write_bytes(sector.ljust(1 << 20, b"\0"))
    return f"driver=raw,file.driver=file,file.filename={path},node-name={text}"


def test_bootindex_holds_from_the_next_reset_on(tmp_path: Path) -> None:
    arguments = ["-nodefaults", "-machine", "pc,accel=kvm", "-m", "32"]
    for index, text in enumerate(("first", "second")):
        arguments += ["-blockdev", boot_disk(tmp_path / text, text)]
        arguments += ["-device", f"virtio-blk-pci,drive={text},id=d{index},bootindex={index}"]
    with Vm(VMMD, arguments) as vm:
        vm.serial.expect("first", BOOT_TIMEOUT_S)
        with pytest.raises(QmpError, match="The bootindex 1 has already been used"):
            vm.qmp.cmd("qom-set", path="d0", property="bootindex", value=1)
        vm.qmp.cmd("qom-set", path="d0", property="bootindex", value=7)
        assert vm.qmp.cmd("qom-get", path="/machine/peripheral/d0/virtio-backend", property="bootindex") == 7
        vm.qmp.cmd("system_reset")
        vm.serial.expect("second", BOOT_TIMEOUT_S)


def test_objects_of_the_command_line(tmp_path: Path) -> None:
    ram, key = tmp_path / "ram", tmp_path / "key"
    key.write_bytes(b"s3cret")
    arguments = [
        *("-nodefaults", "-S", "-machine", "pc,accel=kvm,memory-backend=ram0", "-m", "32"),
        *("-object", f"memory-backend-file,id=ram0,size=32M,mem-path={ram},share=on"),
        *("-object", f'{{"qom-type":"secret","id":"masterKey0","format":"raw","file":"{key}"}}'),
        *("-object", "iothread,id=io1,poll-max-ns=0"),
    ]
    with Vm(VMMD, arguments, serial=False) as vm:
        qmp = vm.qmp
        assert {each["id"] for each in qmp.cmd("query-memdev")} == {"ram0"}
        assert qmp.cmd("qom-get", path="/machine", property="memory-backend") == "/objects/ram0"
        assert qmp.cmd("qom-get", path="/objects/masterKey0", property="loaded") is True
        thread = qmp.cmd("query-iothreads")[0]["thread-id"]
        assert thread != vm.pid
        assert os.path.exists(f"/proc/{vm.pid}/task/{thread}")
        with pytest.raises(QmpError, match="object 'ram0' is in use, can not be deleted"):
            qmp.cmd("object-del", id="ram0")
        assert os.path.getsize(ram) == 32 << 20
        check_memory_goes_back(vm, qmp)


def check_memory_goes_back(vm: Vm, qmp: Qmp) -> None:
    """Memory that object-add has touched is gone after object-del."""
    small = {"qom-type": "memory-backend-ram", "id": "m", "size": 4096}
    qmp.cmd("object-add", small)  # what the command itself needs is there then
    qmp.cmd("object-del", id="m")
    before = vm.rss_bytes()
    qmp.cmd("object-add", {**small, "size": 64 << 20, "prealloc": True})
    assert vm.rss_bytes() - before > 60 << 20
    qmp.cmd("object-del", id="m")
    assert vm.rss_bytes() - before < 8 << 20


def test_a_manager_reads_every_feature_of_a_cpu_quickly() -> None:
    arguments = ["-nodefaults", "-S", "-machine", "pc,accel=kvm", "-m", "32"]
    with Vm(VMMD, arguments, serial=False) as vm:
        path = vm.qmp.cmd("query-cpus-fast")[0]["qom-path"]
        features = [each["name"] for each in vm.qmp.cmd("qom-list", path=path) if each["type"] == "bool"]
        assert len(features) > 250
        start = time.monotonic()
        values = {name: vm.qmp.cmd("qom-get", path=path, property=name) for name in features}
        elapsed_s = time.monotonic() - start
        assert values["fpu"] is True
        assert values["vmx"] is False
        assert elapsed_s < 1.0  # 0.1 s on an idle host of 2 processors


def test_wrong_objects_end_the_start(tmp_path: Path) -> None:
    for option, sentence in (
        (f"rng-random,id=r,filename={tmp_path}/nix", "Could not open"),
        ("secret,id=s,data=a,keyid=nix,iv=AAAA", "No secret with id 'nix'"),
        ("throttle-group,id=t,x-iops-total=1,x-iops-read=1", "bps/iops/max total values and read/write values"),
    ):
        with Vm(VMMD, ["-nodefaults", "-S", "-object", option], serial=False, qmp=False) as vm:
            assert vm.wait_exit(20) == 1
            line = vm.stderr()
        assert line.startswith(f"vmmd: -object {option.partition(',')[0]},id={option[option.index('id=') + 3]}")
        assert sentence in line
