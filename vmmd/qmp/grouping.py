# SPDX-License-Identifier: Apache-2.0
"""Several actions that happen all or not at all (QMP ``transaction``). Loop thread.

    every ``prepare``, in order; then, if none raised, every ``commit``, in order;
    else ``abort`` of those that were prepared, the last first; in both cases ``clean`` of those that were prepared.

``prepare`` does all that can fail and changes nothing that anybody sees; one that raises has undone its own part.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.errors import InternalError
from vmmd.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

log = get_logger("vmmd.qmp")


class Action:
    """One part of a group. The defaults do nothing."""

    def prepare(self) -> None:
        """Do what can fail. Raises VmmdError."""

    def commit(self) -> None:
        """Make it happen. Does not fail."""

    def abort(self) -> None:
        """Undo ``prepare``. Does not fail."""

    def clean(self) -> None:
        """Give back what only the group needed. Does not fail."""


def run_grouped(actions: Sequence[Action]) -> None:
    """Run a group. Raises what a ``prepare`` raised; InternalError when what must not fail did (the rest still ran)."""
    prepared: list[Action] = []
    try:
        for action in actions:
            action.prepare()
            prepared.append(action)
    except Exception:
        _all(action.abort for action in reversed(prepared))
        _all(action.clean for action in prepared)
        raise
    failed = _all(action.commit for action in prepared)
    failed += _all(action.clean for action in prepared)
    if failed:
        raise InternalError("A transaction was carried out in part only", "a bug of vmmd: its log has the reason")


def _all(steps: Iterable[Callable[[], None]]) -> int:
    """Run steps that do not fail; how many did all the same."""
    failed = 0
    for step in steps:
        try:
            step()
        except Exception:
            log.exception("a step of a transaction failed")
            failed += 1
    return failed
