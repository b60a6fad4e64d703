# SPDX-License-Identifier: Apache-2.0
"""QAPI types of transactions."""

from __future__ import annotations

from typing import Annotated, Literal

from typing_extensions import TypedDict

from vmmd.qmp.models.unions import Tagged


class Abort(TypedDict):
    """Nothing."""


class AbortAction(TypedDict):
    """Makes the transaction fail."""

    type: Literal["abort"]
    data: Abort


TransactionAction = Annotated[AbortAction, Tagged("type")]
