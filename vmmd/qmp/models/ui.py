# SPDX-License-Identifier: Apache-2.0
"""QAPI types of displays."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import TypedDict

from vmmd.qmp.models.unions import Tagged


class DisplayNone(TypedDict):
    """No window and no server (-display none)."""

    type: Literal["none"]


DisplayOptions = Annotated[DisplayNone, Tagged("type")]
