# SPDX-License-Identifier: Apache-2.0
"""QAPI types of yank."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import TypedDict

from vmmd.qmp.models.unions import Tagged


class YankInstanceChardev(TypedDict):
    """A character device on a socket."""

    type: Literal["chardev"]
    id: str


YankInstance = Annotated[YankInstanceChardev, Tagged("type")]
