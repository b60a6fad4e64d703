# SPDX-License-Identifier: Apache-2.0
"""The files that character devices write to."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmmd.core.created import CreatedFile
from vmmd.core.fdsets import PREFIX, open_path

if TYPE_CHECKING:
    from vmmd.core.fdsets import FdSets


def open_output(path: str, append: bool, fdsets: FdSets | None) -> tuple[int, CreatedFile | None]:
    """A descriptor to append to ``path``, emptied first unless ``append``; and the file if it is new. OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    if not path.startswith(PREFIX):
        try:
            fd = os.open(path, flags | os.O_EXCL, 0o666)
        except FileExistsError:
            pass
        else:
            return fd, CreatedFile.opened(path, fd)
    return open_path(path, flags | (0 if append else os.O_TRUNC), 0o666, fdsets), None
