# SPDX-License-Identifier: Apache-2.0
"""Trays and media by the monitors, on a machine that has not started: answers and events as QEMU 7.2's."""

from __future__ import annotations

from typing import Any

import pytest

from tests.differential.same_lines import Row, check, run

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]

LINE = (
    "-machine pc,accel=kvm -m 16 -nodefaults -S"
    " -drive if=none,id=d0,media=cdrom -device ide-cd,drive=d0,id=cd0,bus=ide.1,unit=0"
    " -device ide-cd,id=cd1,bus=ide.1,unit=1"
    " -drive if=none,id=v0,file=@/a,format=raw -device virtio-blk-pci,drive=v0,id=vd"
    " -drive if=none,id=un,file=@/b,format=raw,readonly=on"
)
RAW = '"driver": "raw", "node-name"'
ROWS = (
    Row("query-block"),
    Row("!info block"),
    # who is meant
    *(
        Row(f"{command}{rest}")
        for command in ("blockdev-open-tray", "blockdev-close-tray", "eject")
        for rest in ("", ' {"id": "cd0", "device": "d0"}', ' {"id": "nope"}', ' {"device": "nope"}', ' {"id": "vd"}')
    ),
    Row('eject {"device": "v0"}'),
    Row('eject {"id": "/machine/peripheral/vd/virtio-backend"}'),
    Row('blockdev-open-tray {"id": "/machine/peripheral/nope"}'),
    Row('blockdev-remove-medium {"id": "vd"}'),
    Row('blockdev-insert-medium {"id": "vd", "node-name": "n1"}'),
    Row('blockdev-change-medium {"id": "vd", "filename": "@/b"}'),
    Row('blockdev-change-medium {"filename": "@/b"}'),
    Row('blockdev-change-medium {"device": "v0", "filename": "@/b", "format": "raw"}'),
    Row('blockdev-change-medium {"id": "cd0"}'),
    # step by step
    Row('blockdev-open-tray {"device": "d0"}'),
    Row('blockdev-open-tray {"id": "cd0"}'),
    Row('blockdev-open-tray {"id": "/machine/peripheral/cd0"}'),
    Row("query-block"),
    Row('blockdev-remove-medium {"id": "cd0"}'),
    Row('blockdev-insert-medium {"id": "cd0", "node-name": "nope"}'),
    Row(
        f'blockdev-add {{{RAW}: "n1", "read-only": true,'
        ' "file": {"driver": "file", "filename": "@/b", "read-only": true}}'
    ),
    Row(f'blockdev-add {{{RAW}: "n2", "file": {{"driver": "file", "filename": "@/c"}}}}'),
    Row('blockdev-insert-medium {"id": "cd0", "node-name": "n1"}'),
    Row('blockdev-insert-medium {"id": "cd0", "node-name": "n1"}'),
    Row('blockdev-insert-medium {"id": "cd0", "node-name": "n2"}'),
    Row("query-block"),
    Row('blockdev-del {"node-name": "n1"}'),
    Row('blockdev-close-tray {"id": "cd0"}'),
    Row('blockdev-close-tray {"id": "cd0"}'),
    Row('blockdev-remove-medium {"id": "cd0"}'),
    Row('blockdev-insert-medium {"id": "cd0", "node-name": "n2"}'),
    Row('blockdev-open-tray {"id": "cd0"}'),
    Row('blockdev-remove-medium {"id": "cd0"}'),
    Row('blockdev-insert-medium {"id": "cd0", "node-name": "n2"}'),
    Row('blockdev-close-tray {"id": "cd0"}'),
    Row('eject {"device": "d0"}'),
    Row('eject {"id": "cd0"}'),
    Row("query-block"),
    Row('blockdev-del {"node-name": "n1"}'),
    Row('blockdev-del {"node-name": "n2"}'),
    # at once
    Row('blockdev-change-medium {"id": "cd0", "filename": "@/b", "format": "raw"}'),
    Row("query-block"),
    Row('blockdev-change-medium {"device": "d0", "filename": "@/c", "format": "raw"}'),
    Row('blockdev-change-medium {"id": "cd0", "filename": "@/none", "format": "raw"}'),
    Row('blockdev-change-medium {"id": "cd0", "filename": "@/b", "format": "bogus"}'),
    Row('blockdev-change-medium {"id": "cd0", "filename": "@/b", "format": "raw", "read-only-mode": "bogus"}'),
    Row('blockdev-change-medium {"id": "cd0", "filename": "@/b", "format": "raw", "read-only-mode": "read-only"}'),
    Row("query-block"),
    Row('blockdev-change-medium {"id": "cd0", "filename": "@/c", "format": "raw"}'),
    Row('blockdev-change-medium {"id": "cd0", "filename": "@/b", "format": "raw", "read-only-mode": "read-write"}'),
    Row("query-block"),
    Row("query-named-block-nodes"),
    # a drive that only the device knows
    Row('blockdev-change-medium {"id": "cd1", "filename": "@/c", "format": "raw"}'),
    Row("query-block"),
    Row("!info block"),
    Row('eject {"id": "cd1"}'),
    Row('blockdev-close-tray {"id": "cd1"}'),
    # a drive without device
    Row('blockdev-open-tray {"device": "un"}'),
    Row('eject {"device": "un"}'),
    Row("query-block"),
    Row('blockdev-change-medium {"device": "un", "filename": "@/b", "format": "raw"}'),
    Row('blockdev-close-tray {"device": "un"}'),
    Row('blockdev-open-tray {"device": "un", "force": true}'),
    # for people
    Row("!eject"),
    Row("!eject nope"),
    Row("!eject cd0"),
    Row("!eject v0"),
    Row("!eject d0"),
    Row("!eject -f d0"),
    Row("!change"),
    Row("!change d0"),
    Row("!change nope @/b"),
    Row("!change d0 @/b raw"),
    Row("!change d0 @/b raw read-only"),
    Row("!change d0 @/b raw bogus"),
    Row("!change d0 -f @/c raw read-write"),
    Row("!change d0 @/none raw"),
    Row("!change d0 @/b raw retain more"),
    Row("!help eject"),
    Row("!help change"),
    Row("!info block"),
    Row("!drive_del d0"),
    Row("query-block"),
    Row('eject {"id": "cd0"}'),
)


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    made = {}
    for name in ("vmmd", "qemu"):
        directory = tmp_path_factory.mktemp(name)
        for image in ("a", "b", "c"):
            with (directory / image).open("wb") as file:
                file.truncate(1 << 20)
        made[name] = run(name, LINE.split(), ROWS, directory)
    return made


@pytest.mark.parametrize("number", range(len(ROWS)), ids=[row.line[:90] for row in ROWS])
def test_it_is_answered_as_by_qemu(number: int, answers: dict[str, list[Any]]) -> None:
    check(ROWS[number], answers["vmmd"][number], answers["qemu"][number])
