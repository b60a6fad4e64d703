# SPDX-License-Identifier: Apache-2.0
"""Several changes as one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import StateError
from vmmd.qmp.grouping import Action, run_grouped
from vmmd.qmp.registry import Context, Example, command

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmmd.qmp.models.transaction import TransactionAction

#: actions of one transaction at most
MAX_ACTIONS = 1024


@command(
    "transaction", since="1.1", example=Example({"actions": [{"type": "abort", "data": {}}]}, error="GenericError")
)
def transaction(ctx: Context, *, actions: list[TransactionAction]) -> dict[str, object]:
    """Carry out all of the actions, or none."""
    if len(actions) > MAX_ACTIONS:
        raise StateError(f"A transaction has at most {MAX_ACTIONS} actions")
    run_grouped([ACTIONS[action["type"]](ctx, action["data"]) for action in actions])
    return {}


class _Abort(Action):
    """For tests of clients."""

    def __init__(self, ctx: Context, data: object) -> None:
        """Takes nothing."""

    def prepare(self) -> None:
        raise StateError("Transaction aborted using Abort action")


#: makers of actions by type
ACTIONS: dict[str, Callable[[Context, object], Action]] = {"abort": _Abort}
