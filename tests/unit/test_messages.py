# SPDX-License-Identifier: Apache-2.0
"""Lines on stderr: one each, and nothing in them that steers a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.messages import Messages

if TYPE_CHECKING:
    import pytest


def test_control_characters_are_shown_not_sent(capfd: pytest.CaptureFixture[str]) -> None:
    Messages().error("Could not open 'a\x1b[2J\nb\u202ec': é")
    assert capfd.readouterr().err == "vmmd: Could not open 'a\\x1b[2J b\\u202ec': é\n"


def test_file_name_that_is_not_utf8_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    Messages().error("Could not open '\udcff'")
    assert capfd.readouterr().err == "vmmd: Could not open '\\udcff'\n"


def test_once_somebody_takes_the_lines_nothing_is_written_here(capfd: pytest.CaptureFixture[str]) -> None:
    taken: list[str] = []
    messages = Messages()
    messages.later = taken.append
    messages.error("e")
    messages.warning("w")
    messages.notice("info: n")
    assert taken == ["vmmd: e", "vmmd: warning: w", "vmmd: info: n"]
    assert capfd.readouterr().err == ""
