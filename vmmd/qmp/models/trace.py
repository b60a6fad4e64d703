# SPDX-License-Identifier: Apache-2.0
"""QAPI types of trace events."""

from __future__ import annotations

from typing import Literal

from typing_extensions import TypedDict


class TraceEventInfo(TypedDict):
    """An event; ``vcpu``: it can be switched for single vCPUs."""

    name: str
    state: Literal["disabled", "enabled"]
    vcpu: bool
