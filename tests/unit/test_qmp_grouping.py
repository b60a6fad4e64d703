# SPDX-License-Identifier: Apache-2.0
"""All or none, in order, undone in reverse."""

from __future__ import annotations

import pytest

from vmmd.errors import InternalError, StateError
from vmmd.qmp.grouping import Action, run_grouped


class Noted(Action):
    """Writes down what happens to it; fails where it is told to."""

    def __init__(self, name: str, notes: list[str], fails: str = "") -> None:
        self.name, self.notes, self.fails = name, notes, fails

    def _note(self, step: str) -> None:
        self.notes.append(f"{step} {self.name}")
        if step == self.fails:
            raise StateError(f"{self.name} fails")

    def prepare(self) -> None:
        self._note("prepare")

    def commit(self) -> None:
        self._note("commit")

    def abort(self) -> None:
        self._note("abort")

    def clean(self) -> None:
        self._note("clean")


def test_all_are_prepared_before_one_is_committed() -> None:
    notes: list[str] = []
    run_grouped([Noted("a", notes), Noted("b", notes)])
    assert notes == ["prepare a", "prepare b", "commit a", "commit b", "clean a", "clean b"]


def test_a_failure_aborts_what_was_prepared_in_reverse() -> None:
    notes: list[str] = []
    with pytest.raises(StateError, match="c fails"):
        run_grouped([Noted("a", notes), Noted("b", notes), Noted("c", notes, "prepare"), Noted("d", notes)])
    assert notes == ["prepare a", "prepare b", "prepare c", "abort b", "abort a", "clean a", "clean b"]


def test_an_abort_that_fails_does_not_keep_the_others() -> None:
    notes: list[str] = []
    with pytest.raises(StateError, match="c fails"):
        run_grouped([Noted("a", notes), Noted("b", notes, "abort"), Noted("c", notes, "prepare")])
    assert notes[3:] == ["abort b", "abort a", "clean a", "clean b"]


def test_a_commit_that_fails_is_a_bug_and_the_rest_still_happens() -> None:
    notes: list[str] = []
    with pytest.raises(InternalError):
        run_grouped([Noted("a", notes, "commit"), Noted("b", notes)])
    assert notes[2:] == ["commit a", "commit b", "clean a", "clean b"]
