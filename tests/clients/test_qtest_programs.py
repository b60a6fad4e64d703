# SPDX-License-Identifier: Apache-2.0
"""QEMU's own qtest programs, which drive devices by the qtest protocol, with vmmd in QEMU's place.

``scripts/build-qtest-programs`` makes them; VMMD_QTEST_PROGRAMS names another directory. What a program asks for that
this version of vmmd does not have is in ``NOT_YET``, with the reason.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.framework.vm import REPOSITORY

PROGRAMS = Path(os.environ.get("VMMD_QTEST_PROGRAMS", "/var/tmp/vmmd-qtest-programs"))
EMULATOR = REPOSITORY / "scripts" / "qemu-system-x86_64"
TIMEOUT_S = 900
QCOW2 = "its images are qcow2"
SCSI = "needs virtio-scsi"

#: program -> cases (paths below /x86_64) that are skipped -> why
NOT_YET: dict[str, dict[str, str]] = {
    "boot-order-test": {},
    "cdrom-test": {"/cdrom/boot/virtio-scsi": SCSI},
    "device-introspect-test": {},
    "drive_del-test": {
        "/drive_del/drive_del_device_del": SCSI,
        **{f"/device_del/{case}": SCSI for case in ("empty", "blockdev", "drive/cli_device", "drive/device_add")},
        "/device_del/drive/drive_add_device_add": SCSI,
    },
    "endianness-test": {},
    "fdc-test": {"/fdc/fuzz/cve_2021_3507": "needs snapshot=on"},
    "fw_cfg-test": {},
    "hd-geo-test": {
        f"/hd-geo/override/{case}": QCOW2
        for case in ("ide", "virtio_blk", "zero_chs", "scsi_hot_unplug", "virtio_hot_unplug")
    },
    "i440fx-test": {"/i440fx/firmware/pflash": "needs if=pflash"},
    "ide-test": {},
    "machine-none-test": {},
    "pvpanic-pci-test": {},
    "pvpanic-test": {},
    "qmp-cmd-test": {},
    "qmp-test": {},
    "qom-test": {},
    "qos-test": {},
    "readconfig-test": {},
    "rtc-test": {},
    "test-hmp": {},
    "test-x86-cpuid-compat": {},
    "vmgenid-test": {},
    "wdt_ib700-test": {},
}


@pytest.mark.slow
@pytest.mark.skipif(not PROGRAMS.is_dir(), reason="scripts/build-qtest-programs has not been run")
@pytest.mark.parametrize("program", NOT_YET)
def test_program_finds_nothing_wrong(program: str, tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()  # where some of them keep their images
    skipped = [option for case in NOT_YET[program] for option in ("-s", f"/x86_64{case}")]
    environment = {**os.environ, "QTEST_QEMU_BINARY": str(EMULATOR), "QTEST_QEMU_IMG": "/usr/bin/qemu-img"}
    done = subprocess.run(
        [PROGRAMS / program, "--tap", *skipped],
        cwd=tmp_path, env=environment, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, check=False,
    )  # fmt: skip
    results = re.findall(r"^(ok|not ok) \d+ (\S+)(.*)$", done.stdout, re.MULTILINE)
    failed = [case for verdict, case, note in results if verdict != "ok" and "SKIP" not in note]
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    assert not failed
    assert results, "the program ran no case"
