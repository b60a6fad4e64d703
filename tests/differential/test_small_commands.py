# SPDX-License-Identifier: Apache-2.0
"""Commands whose device is not there, and commands that act on the machine as a whole: as QEMU 7.2 answers them.

Left out because QEMU 7.2 dies of them: memsave and pmemsave with a negative size.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.differential.same_lines import Row, check, error, run

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]

RAM_BYTES = 64 << 20
ROWS = (
    Row('balloon {"value": 67108864}'),
    Row("balloon"),
    Row('balloon {"value": "1"}'),
    Row("query-balloon"),
    Row('set_link {"name": "net0", "up": false}'),
    Row('set_link {"name": "net0"}'),
    Row("query-vm-generation-id"),
    Row(
        "system_wakeup",
        error("wake-up from suspend is not supported by this guest"),
        "S3 is not offered; this is QEMU's sentence on a machine without it",
    ),
    Row("inject-nmi"),
    Row('inject-nmi {"cpu-index": 0}'),
    Row("rtc-reset-reinjection"),
    Row("set-action"),
    Row('watchdog-set-action {"action": "inject-nmi"}'),
    Row('watchdog-set-action {"action": "bite"}'),
    Row('set-action {"reboot": "shutdown", "shutdown": "pause", "panic": "exit-failure", "watchdog": "none"}'),
    Row('set-action {"panic": "run"}'),
    Row('set-action {"reboot": true}'),
    Row('set-action {"reset": "shutdown"}'),
    Row('memsave {"val": 4294967280, "size": 16, "filename": "@/mem"}'),
    Row('memsave {"val": 0, "size": 0, "filename": "@/empty"}'),
    Row('memsave {"val": 4294967280, "size": 32, "filename": "@/gone"}'),
    Row('memsave {"val": 0, "size": 16, "filename": "@/mem", "cpu-index": 7}'),
    Row('memsave {"val": 0, "size": 16, "filename": "@/no/such/mem"}'),
    Row('memsave {"val": 0, "size": 16}'),
    Row('pmemsave {"val": 0, "size": 4096, "filename": "@/low"}'),
    Row('pmemsave {"val": 4294965248, "size": 2048, "filename": "@/rom"}'),
    Row('pmemsave {"val": 67106816, "size": 4096, "filename": "@/end"}'),
    Row('pmemsave {"val": 0, "size": 16, "filename": "/"}'),
    Row('pmemsave {"val": 0, "size": 1.5, "filename": "@/x"}'),
    Row(
        'pmemsave {"val": 4294967296, "size": 16, "filename": "@/above"}',
        error("Invalid addr 0x0000000100000000/size 16 specified; memory ends at 0x100000000"),
        "QEMU writes zeroes for any range where nothing is, without limit",
    ),
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    arguments = ["-machine", "pc,accel=kvm", "-m", f"{RAM_BYTES >> 20}", "-nodefaults", "-S"]
    made: dict[str, list[Any]] = {}
    for name in ("vmmd", "qemu"):
        directory = tmp_path_factory.mktemp(name)
        made[name] = run(name, arguments, ROWS, directory)
        made[f"{name} files"] = [
            (path.name, path.stat().st_size) for path in sorted(directory.iterdir()) if path.name != "gone"
        ]
    return made


@pytest.mark.parametrize("row", ROWS, ids=[row.line for row in ROWS])
def test_it_is_answered_as_by_qemu(row: Row, answers: dict[str, list[Any]]) -> None:
    number = ROWS.index(row)
    check(row, answers["vmmd"][number], answers["qemu"][number])


def test_the_files_have_the_same_size(answers: dict[str, list[Any]]) -> None:
    """ "above" is QEMU's only."""
    assert answers["vmmd files"] == [each for each in answers["qemu files"] if each[0] != "above"]
    assert ("end", 4096) in answers["vmmd files"]
