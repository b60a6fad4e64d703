# SPDX-License-Identifier: Apache-2.0
"""The ``logfile=`` of a character device: every byte the guest prints, whoever is connected. Loop thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.chardev.output_file import OutputFile

if TYPE_CHECKING:
    from vmmd.core.fdsets import FdSets


class LogFile(OutputFile):
    """``logfile=`` of any backend: what the guest writes, whoever takes it."""

    def __init__(self, path: str, append: bool, fdsets: FdSets | None, *, limit_bytes: int = 0, keep: int = 0) -> None:
        super().__init__(path, append, fdsets, limit_bytes=limit_bytes, keep=keep, what="logfile")
