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
OPTIONS_LATER = "an option of a later version"
HOTPLUG = "plugging a PCI device into a running machine"

#: program -> cases (paths below /x86_64) that are skipped -> why
NOT_YET: dict[str, dict[str, str]] = {
    "boot-order-test": {},
    "cdrom-test": {},
    "device-introspect-test": {},
    "endianness-test": {},
    "fdc-test": {},
    "fw_cfg-test": {},
    "hd-geo-test": {},
    "i440fx-test": {"/i440fx/firmware/pflash": OPTIONS_LATER},
    "ide-test": {},
    "machine-none-test": {},
    "pvpanic-pci-test": {},
    "pvpanic-test": {},
    "qmp-cmd-test": {},
    "qmp-test": {"/qmp/oob": "block driver blkdebug, whose configuration is a FIFO there", "/qmp/preconfig": ""},
    "qom-test": {},
    "qos-test": {},
    "rtc-test": {},
    "test-hmp": {},
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
