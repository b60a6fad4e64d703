# SPDX-License-Identifier: Apache-2.0
"""QAPI types of migration."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict

#: LIMIT: the others come with migration itself
MigrationCapability = Literal["events"]


class MigrationCapabilityStatus(TypedDict):
    """One capability, on or off."""

    capability: MigrationCapability
    state: bool
