# SPDX-License-Identifier: Apache-2.0
"""The line editor of the readline monitor: what a terminal shows is what is run, however the bytes come."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmmd.qmp.hmp.line_editor import MAX_HISTORY_LINES, MAX_LINE_CHARACTERS, MAX_LISTED, LineEditor

WORDS = ["info", "stop", "system_reset", "system_powerdown", "id=", "x"]


def editor() -> LineEditor:
    made = LineEditor("> ", lambda before: WORDS)
    made.show_prompt()
    return made


def type_all(made: LineEditor, data: bytes) -> list[str]:
    made.feed(data)
    lines = []
    while (line := made.step()) is not None or made.more:
        if line is not None:
            lines.append(line)
            made.show_prompt()
    return lines


class Terminal:
    """The part of a VT100 that the editor uses, very wide."""

    def __init__(self) -> None:
        self.rows = [""]
        self.column = 0

    def show(self, text: str) -> None:
        for part in re.findall(r"\x1b\[\d*(?:;\d+)?[A-Z]|[\x00-\x1f]|[^\x00-\x1f]+", text):
            if part == "\r":
                self.column = 0
            elif part == "\n":
                self.rows.append("")
            elif part == "\x1b[K":
                self.rows[-1] = self.rows[-1][: self.column]
            elif part[0] == "\x1b" and part[-1] in "CD":
                self.column += int(part[2:-1]) * (1 if part[-1] == "C" else -1)
            elif part == "\x1b[2J":
                self.rows = [""]
            elif part == "\x1b[1;1H":
                self.column = 0
            else:
                assert part.isprintable(), part
                row = self.rows[-1]
                self.rows[-1] = row[: self.column] + part + row[self.column + len(part) :]
                self.column += len(part)


def test_characters_at_the_end_are_echoed_as_they_are() -> None:
    made = editor()
    assert type_all(made, b"info status\nquit\n") == ["info status", "quit"]
    assert made.take_output() == "> info status\r\n> quit\r\n> "


def test_keys_edit_the_line() -> None:
    for keys, line in (
        (b"abc\x08d", "abd"), (b"bc\x01a", "abc"), (b"\x1b[Ha\x1b[Fb\x1b[4~c", "abc"), (b"ac\x1b[Db", "abc"),
        (b"ac\x02b\x06d", "abcd"), (b"abc\x1b[D\x1b[D\x04x", "axc"), (b"abc\x1b[D\x1b[3~", "ab"),
        (b"one two\x17x", "one x"),
        (b"one two\x15x", "x"), (b"one two\x01\x0bx", "x"), (b"one two\x1bbx\x1bfy", "one xtwoy"),
        (b"a-bc d\x01\x1bf\x1bd", "a d"), (b"abc\x03x", "x"), (b"\x08\x04\x02\x06\x17x", "x"),
        ("äö\x08ü".encode(), "äü"), (b"a\x1b[99zb\x00\x1b[" + b";" * 17 + b"c", "ab[;;;;;;;;;;;;;;;;;c"),
    ):  # fmt: skip
        assert type_all(editor(), keys + b"\r") == [line], keys


def test_what_cannot_be_shown_is_left_out_and_any_blank_is_a_blank() -> None:
    for typed, line in (
        ("info\u00a0status", "info status"), ("in\u202efo\u2009na\x9bme", "info name"), ("a\u200e", "a"),
        ("\x9b\u2066", ""),
    ):  # fmt: skip
        assert type_all(editor(), f"{typed}\r".encode()) == [line], typed
    made = editor()
    assert type_all(made, "info name\nstop\n\x12o\u00a0\u2066n\r".encode())[-1] == "info name"


def steps(made: LineEditor, data: bytes) -> list[int]:
    """How many characters each step has to show, until all of ``data`` is used."""
    made.take_output()
    made.feed(data)
    shown = []
    while made.step() is not None or made.more:
        shown.append(len(made.take_output()))
    return shown


@pytest.mark.parametrize("key", [b"\x0c", b"\x01y", b"\x1bb\x1b[1~\x1b[3~", b"\x12", b"\t"])
def test_a_step_shows_only_so_much(key: bytes) -> None:
    made = LineEditor("> ", lambda before: ["x" * 30 + str(number) for number in range(MAX_LISTED)])
    type_all(made, b"x" * MAX_LINE_CHARACTERS + b"\n" + b"x " * (MAX_LINE_CHARACTERS // 2 - 1))
    shown = steps(made, key * 200)
    assert len(shown) > 1
    assert max(shown) < 3 * MAX_LINE_CHARACTERS


def test_a_step_takes_only_so_long() -> None:
    def slow(before: str) -> list[str]:
        ends = time.monotonic_ns() + 1000 * 250
        while time.monotonic_ns() < ends:
            pass
        return []

    assert len(steps(LineEditor("> ", slow), b"\t" * 20)) >= 19


def test_what_is_sought_has_the_length_of_a_line() -> None:
    made = editor()
    type_all(made, b"\x12" + b"x" * (MAX_LINE_CHARACTERS + 999))
    made.take_output()
    type_all(made, b"x")
    assert len(made.take_output()) < MAX_LINE_CHARACTERS + 99


def test_history_goes_back_and_forth_and_keeps_the_new_line() -> None:
    made = editor()
    type_all(made, b"one\ntwo\ntwo\n\n")
    assert type_all(made, b"dra\x1b[A\x1b[A\x1b[Bx\r") == ["twox"]
    assert type_all(made, b"dra\x1b[A\x1b[Bft\r") == ["draft"]
    assert type_all(made, b"\x10\x10\x10\x10\x10\x10\r") == ["one"]
    assert made.history == ["two", "twox", "draft", "one"]
    type_all(made, b"".join(b"line %d\n" % number for number in range(MAX_HISTORY_LINES + 10)))
    assert type_all(made, b"\x10" * (MAX_HISTORY_LINES + 50) + b"\r") == ["line 10"]


def test_lines_with_secrets_are_not_remembered() -> None:
    made = editor()
    assert type_all(made, b"stop\nobject_add secret,id=s,data=hunter2\n")[1].endswith("data=hunter2")
    assert made.history == ["stop"]


def test_search_goes_back_through_the_history() -> None:
    made = editor()
    type_all(made, b"info block\ninfo status\nstop\ninfo name\n")
    assert type_all(made, b"\x12sta\r") == ["info status"]
    assert type_all(made, b"\x12info\x12\x12\r") == ["info block"]
    assert type_all(made, b"\x12zero\x7f\x01x\r") == ["x"]
    assert type_all(made, b"draft\x12sto\x1b[D!\r") == ["sto!p"]
    made.take_output()
    assert type_all(made, b"\x12na") == []
    assert made.take_output().endswith("\r\x1b[K(search) na: info name")
    assert type_all(made, b"\x05\r") == ["info name"]


def test_tab_completes_and_lists() -> None:
    made = editor()
    assert type_all(made, b"inf\t\r") == ["info "]
    assert type_all(made, b"info i\td\t1\r") == ["info id=1"]
    made.take_output()
    assert type_all(made, b"sys\t") == []
    assert made.take_output() == "system_"
    type_all(made, b"\t")
    assert made.take_output() == "\r\nsystem_powerdown  system_reset\r\n> system_"
    assert type_all(made, b"nothing\t\r") == ["system_nothing"]


def test_a_long_list_of_completions_is_cut() -> None:
    made = LineEditor("> ", lambda before: [f"w{number}" for number in range(MAX_LISTED + 5)])
    type_all(made, b"w\t")
    assert "(5 more)" in made.take_output()


def test_an_endless_line_is_cut_and_not_run() -> None:
    made = editor()
    for _ in range(40):
        assert type_all(made, b"x" * (MAX_LINE_CHARACTERS // 20)) == []
    made.take_output()
    assert type_all(made, b"\nstop\n") == ["", "stop"]
    assert "is not run" in made.take_output()


def test_another_peer_begins_with_an_empty_line() -> None:
    made = editor()
    type_all(made, b"one\nqui\x1b[")
    made.reset()
    assert type_all(made, b"stop\n") == ["stop"]
    assert type_all(made, b"\x10\x10\n") == ["one"]


KEYS = st.sampled_from(
    [b"a", b"b c", b" ", b"info", "ü".encode(), b"\x01", b"\x05", b"\x02", b"\x06", b"\x08", b"\x04", b"\x17", b"\x15",
     b"\x0b", b"\x10", b"\x0e", b"\t", b"\x0c", b"\x1b[A", b"\x1b[B", b"\x1b[C", b"\x1b[D", b"\x1b[3~", b"\x1bb",
     b"\x1bf", b"\x1bd", b"\x1b[1;5C", b"\r", b"\x03", b"\x12"]
)  # fmt: skip


@pytest.mark.parametrize("pieces", [[b"aa"], [b"a", b"a"]])
def test_search_takes_what_is_pasted_as_if_it_were_typed(pieces: list[bytes]) -> None:
    made = editor()
    assert type_all(made, b"a\r") == ["a"]
    for each in (b"\x12", *pieces):
        type_all(made, each)
    assert type_all(made, b"\r") == ["a"]  # the line with the first a; there is none with two


@given(st.lists(KEYS, max_size=40), st.integers(1, 7))
def test_what_is_shown_is_what_is_run(keys: list[bytes], piece: int) -> None:
    data = b"".join(keys)
    whole, split = editor(), editor()
    lines = type_all(whole, data)
    pieces = [line for start in range(0, len(data), piece) for line in type_all(split, data[start : start + piece])]
    assert lines == pieces
    end = type_all(whole, b"\r")[0]
    terminal = Terminal()
    terminal.show(whole.take_output())
    assert [row.rstrip() for row in terminal.rows[-2:]] == [f"> {end}".rstrip(), ">"]


@given(st.binary(max_size=200))
def test_any_bytes_are_taken(data: bytes) -> None:
    made = editor()
    for line in type_all(made, data + b"\r"):
        assert line.isprintable()
    assert made.pending <= 20
