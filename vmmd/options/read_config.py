# SPDX-License-Identifier: Apache-2.0
"""``-readconfig FILE``: options from a file, as if they stood in the command line at that place.

    # comment
    [device "disk0"]
      driver = "virtio-blk-pci"
      drive = "d0"

A section is one option; the name in quotes is its ``id=``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from vmmd.errors import BackendError, UsageError, nearest
from vmmd.options.fields import shown

if TYPE_CHECKING:
    from vmmd.options.draft import Draft

#: the largest file that is read
_FILE_BYTES_MAX = 1 << 20
#: sections whose option has another name
_OPTIONS = {"memory": "m", "smp-opts": "smp", "boot-opts": "boot"}
_GROUPS = (
    "accel", "action", "add-fd", "blockdev", "boot-opts", "chardev", "device", "drive", "fsdev", "fw_cfg", "global",
    "machine", "memory", "mon", "msg", "name", "net", "netdev", "nic", "numa", "object", "overcommit", "rtc", "sandbox",
    "smbios", "smp-opts", "trace",
)  # fmt: skip
_SECTION = re.compile(r'\[\s*([\w-]+)(?:\s+"([^"]*)")?\s*\]')
_ENTRY = re.compile(r'([\w.-]+)\s*=\s*"([^"]*)"')


class _Section:
    """One option in the making."""

    def __init__(self, group: str, id_: str | None) -> None:
        self.group = group
        self.items = [] if id_ is None else [("id", id_)]

    def read_into(self, draft: Draft) -> None:
        from vmmd.options.table import BY_NAME

        spec = BY_NAME[_OPTIONS.get(self.group, self.group)]
        text = ",".join(f"{key}={value.replace(',', ',,')}" for key, value in self.items)
        spec.read(draft, f"-{spec.name}", text)
        draft.given.add(spec.name)


def read_config_file(draft: Draft, option: str, path: str) -> None:
    """Raises UsageError with file and line, BackendError for a file that cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read(_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise BackendError.from_os(f"{option} {shown(path)}: Could not open '{shown(path)}'", error) from error
    if len(text) > _FILE_BYTES_MAX:
        raise UsageError(f"{option} {shown(path)}: the file is larger than {_FILE_BYTES_MAX} bytes")
    section: _Section | None = None
    for number, line in enumerate(text.splitlines(), 1):
        where = f"{shown(path)}:{number}"
        content = line.strip()
        if not content or content.startswith("#"):
            continue
        if head := _SECTION.fullmatch(content):
            if section is not None:
                section.read_into(draft)
            section = _Section(_known_group(head[1], where), head[2])
        elif entry := _ENTRY.fullmatch(content):
            if section is None:
                raise UsageError(f"{where}: no group defined", 'a line such as [device "disk0"] has to come first')
            section.items.append((entry[1], entry[2]))
        else:
            raise UsageError(f"{where}: parse error", '[group], [group "id"] and key = "value" are understood')
    if section is not None:
        section.read_into(draft)


def _known_group(name: str, where: str) -> str:
    if name in _GROUPS:
        return name
    near = nearest(name, _GROUPS)
    # QEMU-COMPAT: the phrase
    raise UsageError(f"{where}: There is no option group '{shown(name)}'", f"did you mean '{near}'?" if near else None)
