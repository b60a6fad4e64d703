# SPDX-License-Identifier: Apache-2.0
"""QAPI types of character devices."""

from __future__ import annotations

from typing_extensions import TypedDict

ChardevInfo = TypedDict("ChardevInfo", {"label": str, "filename": str, "frontend-open": bool})
"""A character device; ``filename`` is a description of its peer."""
