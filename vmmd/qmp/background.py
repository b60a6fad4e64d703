# SPDX-License-Identifier: Apache-2.0
"""Work of handlers that must not hold up others: see ``core.background``."""

from __future__ import annotations

from vmmd.core.background import breathe, on_thread

__all__ = ["breathe", "on_thread"]
