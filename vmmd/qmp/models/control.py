# SPDX-License-Identifier: Apache-2.0
"""QAPI types of QMP itself: versions and capabilities."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

QMPCapability = Literal["oob"]


class VersionTriple(TypedDict):
    """Three numbers of a release."""

    major: int
    minor: int
    micro: int


class VersionInfo(TypedDict):
    """Which QEMU interface this is, and who offers it."""

    qemu: VersionTriple
    package: str


class CommandInfo(TypedDict):
    """A command that exists."""

    name: str
