# SPDX-License-Identifier: Apache-2.0
"""QAPI types of devices."""

from __future__ import annotations

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from vmmd.qmp.models.qom import ObjectPropertyInfo

UnplugState = Literal["requested", "seen", "ejected", "refused", "timed-out"]

UnplugInfo = TypedDict(
    "UnplugInfo",
    {
        "id": NotRequired[str],
        "qom-path": str,
        "driver": str,
        "state": UnplugState,
        "deleted": bool,
        "age-ns": int,
    },
)
"""One device_del. ``state``: requested; seen (the guest has read the request); ejected (it has let go: ``deleted`` says
whether DEVICE_DELETED was sent); refused; timed-out (no answer for some seconds). ``age-ns``: from the
request to its end, or until now."""

__all__ = ["ObjectPropertyInfo", "UnplugInfo"]
