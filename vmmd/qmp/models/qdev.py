# SPDX-License-Identifier: Apache-2.0
"""QAPI types of devices."""

from __future__ import annotations

from vmmd.qmp.models.qom import ObjectPropertyInfo

__all__ = ["ObjectPropertyInfo"]
