# SPDX-License-Identifier: Apache-2.0
"""Every key that names a file refuses what no file can be called, before anything is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from vmmd.core.trace_output import TraceOutput
from vmmd.errors import UsageError
from vmmd.options import models
from vmmd.options.backends import BLOCKDEVS, CHARDEVS, DriveOptions
from vmmd.options.objects import OBJECTS
from vmmd.options.read_backends import block_node, drive_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from vmmd.options.fields import OptionSet

#: names of keys that are paths, wherever they are
PATHS = {"path", "input-path", "logfile", "filename", "mem-path", "file", "splash", "events"}
OTHERS = (
    DriveOptions, models.BootOptions, models.TraceOptions, models.FwCfgOptions, models.SmbiosFile,
    *models.SMBIOS_TYPES.values(),
)  # fmt: skip


def path_keys() -> Iterator[tuple[type[OptionSet], str]]:
    for model in (*CHARDEVS.values(), *BLOCKDEVS.values(), *OBJECTS.values(), *OTHERS):
        for declared in model.each():
            if declared.wire_name in PATHS and declared.kind.qapi_name == "str":
                yield model, declared.wire_name


@pytest.mark.parametrize("path", ["a\0b", "\ud800"])
def test_what_is_no_path_is_refused(path: str) -> None:
    tried = list(path_keys())
    assert len(tried) >= 15
    for model, key in tried:
        with pytest.raises(UsageError, match=f"'{key}' takes a path without NUL"):
            model().take([(key, path)], "-x", is_json=True)


@pytest.mark.parametrize("key", ["host", "port"])
def test_a_name_is_not_cut_off(key: str) -> None:
    with pytest.raises(UsageError, match=f"'{key}' takes a name without NUL"):
        CHARDEVS["socket"]().take([(key, "localhost\0.example")], "-chardev", is_json=True)


def test_inside_of_others() -> None:
    with pytest.raises(UsageError, match="'filename' takes a path"):
        block_node({"driver": "raw", "file": {"driver": "file", "filename": "a\0b"}}, "blockdev-add")
    with pytest.raises(UsageError, match="'filename' takes a path"):
        drive_options("drive_add", "file.filename=a\0b,if=none")


def test_a_log_file() -> None:
    with pytest.raises(UsageError, match="Error opening logfile a\0b; it takes a path without NUL"):
        TraceOutput().set_file("a\0b")
