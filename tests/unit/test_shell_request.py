# SPDX-License-Identifier: Apache-2.0
"""vmmd-shell: from a line to typed arguments, and what is said of a wrong line."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.shell_support import schema
from vmmd.shell.line import LineError, places_in, quote, tokens
from vmmd.shell.render import with_caret
from vmmd.shell.request import Request, parse
from vmmd.shell.schema import Schema
from vmmd.shell.words import Repeated, ends_machine, repeated

SCHEMA = schema()
UNTYPED = Schema.untyped(["query-status", "frob"])


def arguments(line: str) -> dict[str, Any]:
    return parse(line, SCHEMA).arguments


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("query-status", {}),
        ("  query-status  ", {}),
        ("device_del id=5", {"id": "5"}),  # a string argument takes a number's text
        ("device_del id=true", {"id": "true"}),
        ("device_del id=''", {"id": ""}),
        ("device_del id='it\\'s'", {"id": "it's"}),
        ('device_del id="a\\u0041 \\n"', {"id": "aA \n"}),
        ('device_del {"id": "d 0"}', {"id": "d 0"}),
        ("device_del id=a=b", {"id": "a=b"}),
        ("mixed count=5", {"count": 5}),
        ("mixed count=0x10", {"count": 16}),
        ("mixed count=64M", {"count": 64 << 20}),
        ("mixed count=1.5K", {"count": 1536}),
        ("mixed count=-3", {"count": -3}),
        ("mixed count=1 share=0.5 on=true", {"count": 1, "share": 0.5, "on": True}),
        ("mixed count=1 on=off", {"count": 1, "on": False}),
        ('mixed count=1 names=["a", "b"]', {"count": 1, "names": ["a", "b"]}),
        ("mixed count=1 names.1=b names.0=5", {"count": 1, "names": ["5", "b"]}),
        ("mixed count=1 points.0.x=1 points.0.y=2 points.1.x=3", {"count": 1, "points": [{"x": 1, "y": 2}, {"x": 3}]}),
        ('mixed {"count": 1} on=true', {"count": 1, "on": True}),
        ("mixed count=1 what=5", {"count": 1, "what": 5}),
        ("mixed count=1 what='5'", {"count": 1, "what": "5"}),
        ("mixed count=1 what=abc", {"count": 1, "what": "abc"}),
        ("mixed count=1 what.a.0=5 what.a.1=x what.b='5'", {"count": 1, "what": {"a": [5, "x"], "b": "5"}}),
        ("mixed count=1 what=NaN", {"count": 1, "what": "NaN"}),
        ('mixed count=1 what={"a": [null]}', {"count": 1, "what": {"a": [None]}}),
        ("blockdev-add driver=null-co size=1G", {"driver": "null-co", "size": 1 << 30}),
        ("blockdev-add size=1 driver=null-co", {"driver": "null-co", "size": 1}),  # the tag may come later
        (
            "blockdev-add driver=raw file.driver=file file.filename=/x file.aio=io_uring cache.direct=on",
            {
                "driver": "raw",
                "file": {"driver": "file", "filename": "/x", "aio": "io_uring"},
                "cache": {"direct": True},
            },
        ),
        ("blockdev-add driver=raw file=node0", {"driver": "raw", "file": "node0"}),
        ('blockdev-add driver=raw file={"driver":"null-co"}', {"driver": "raw", "file": {"driver": "null-co"}}),
        ("blockdev-add driver=raw file=n backing=null", {"driver": "raw", "file": "n", "backing": None}),
        ("blockdev-add driver=raw file=n backing=b", {"driver": "raw", "file": "n", "backing": "b"}),
        ("device_add driver=x queues=4 on=true name=abc", {"driver": "x", "queues": 4, "on": True, "name": "abc"}),
    ],
)  # fmt: skip
def test_a_line_gives_arguments_of_the_schemas_types(line: str, expected: dict[str, Any]) -> None:
    found = arguments(line)
    assert found == expected
    assert json.dumps(found) == json.dumps({key: found[key] for key in found})
    for name, value in expected.items():  # 1 and True, 5 and 5.0 are equal in Python, not in JSON
        assert type(found[name]) is type(value)


NOT_A_STRING = r"this is no string of JSON; a control character is written \u0001, a \ as \\"
RANGE = "is from -9223372036854775808 to 18446744073709551615"


@pytest.mark.parametrize(
    ("line", "marked", "text"),
    [
        ("", " ", "a command is missing"),
        ("query-statsu", "query-statsu", "there is no command 'query-statsu'; did you mean 'query-status'?"),
        ("id=5", "id=5", "a line begins with a command; see help"),
        ("device_del ib=d0", "ib", "there is no argument 'ib'; did you mean 'id'?"),
        ("device_del id=a id=b", "id", "'id' is given twice"),
        ('device_del {"id": "a"} id=b', "id", "'id' is given twice"),
        ("device_del", " ", "'id' is missing; it is str"),
        ("device_del d0", "d0", "arguments are name=value or a JSON object; see help device_del"),
        ("device_del =d0", "=", "a name is missing before '='"),
        ("device_del id.x=5", "id.x", "'id' has no members; it is str"),
        ("device_del id=['a']", "'", "this is not JSON; strings and names of members have double quotes"),
        ('device_del id=["a"]', '["a"]', "'id' is a string, so this needs quotes"),
        ("device_del id='a", " ", "the closing ' is missing"),
        ("device_del id='a'b", "b", "white space is missing between two arguments"),
        ("mixed count=x", "x", "'count' is a whole number such as 5, 0x10 or 64M"),
        ("mixed count=1.5", "1.5", "'count' is a whole number such as 5, 0x10 or 64M"),
        ("mixed count='5'", "'5'", "'count' is a whole number, so it has no quotes"),
        ("mixed count=" + "9" * 20, "9" * 20, f"'count' {RANGE}"),
        ("mixed count=-" + "9" * 20, "-" + "9" * 20, f"'count' {RANGE}"),
        ("mixed count=16E", "16E", f"'count' {RANGE}"),
        ("mixed count=-9223372036854775809", "-9223372036854775809", f"'count' {RANGE}"),
        ('mixed {"count": ' + "9" * 20 + "}", '{"count": ' + "9" * 20 + "}", f"'count' {RANGE}"),
        ("mixed count=1 on=maybe", "maybe", "'on' is true or false"),
        ("mixed count=1 share=lots", "lots", "'share' is a number such as 1.5"),
        ("mixed count=1 names=a", "a", "'names' is a list; write names=[\"…\",\"…\"] or names.0=…"),
        ("mixed count=1 names.0=a names.2=b", "names.0", "'names' is a list; number its members: names.0, names.1"),
        ('mixed {"count": true}', '{"count": true}', "'count' is a whole number"),
        ("blockdev-add driver=qcow2", "qcow2", "'driver' has no value 'qcow2'; it is file|raw|null-co"),
        ("blockdev-add driver=fiel", "fiel", "'driver' has no value 'fiel'; did you mean 'file'?"),
        ("blockdev-add driver.x=file", "driver.x", "'driver' has no members; it is file|raw|null-co"),
        ("blockdev-add driver=file", " ", "'filename' is missing; it is str"),
        ("blockdev-add driver=raw file.driver=file", "file.driver", "'file.filename' is missing; it is str"),
        ("blockdev-add xyzzy=1", "xyzzy", "there is no argument 'xyzzy'; give driver too: it tells what more there is"),
        ("blockdev-add driver=raw file=n file.x=y", "file.x", "'file' has a value already, so it has no members"),
        ('{"execute": 5}', '{"execute": 5}', "a command in JSON has a member 'execute' with the command's name"),
        ('{"execute": "quit"} x', "x", "a command in JSON stands alone on its line"),
        ('{"execute": "quit"', " ", "the JSON is not complete"),
        ("device_del {bad", "b", "this is not JSON; strings and names of members have double quotes"),
        ('device_del {"id":', " ", "the JSON is not complete"),
        ('device_del {"id": 1 "x"}', '"', "this is not JSON; strings and names of members have double quotes"),
        ('device_del {"id": "d', " ", "the JSON is not complete"),
        ('device_del id="d', " ", 'the closing " is missing'),
        ('device_del id="d\\x"', "\\", NOT_A_STRING),
        ('device_del id="d\x01"', "\x01", NOT_A_STRING),
        ('{"execute": "a", "b": 1}', '{"execute": "a", "b": 1}', "a command in JSON has no member 'b'; use execute, …"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_told_with_its_place(line: str, marked: str, text: str) -> None:
    with pytest.raises(LineError) as caught:
        parse(line, SCHEMA)
    error = caught.value
    assert str(error) == text
    assert (line + " ")[error.start : error.end] == marked


def test_a_line_of_json_is_sent_as_it_is() -> None:
    assert parse('{"execute": "no-such", "arguments": {"a": "5"}, "id": 1}', SCHEMA) == Request("no-such", {"a": "5"})
    assert parse('{"exec-oob": "yank"}', SCHEMA) == Request("yank", {}, True)


def test_properties_of_the_driver_type_the_arguments_of_device_add() -> None:
    known = {"serial": "str", "num-queues": "uint16", "share": "bool", "addr": "int32", "size": "size"}

    def typed(line: str) -> dict[str, Any]:
        return parse(line, SCHEMA, lambda driver: known if driver == "blk" else {}).arguments

    line = "device_add driver=blk serial=5 num-queues=4 share=on addr=5 size=64K id=d0"
    assert typed(line) == {
        "driver": "blk",
        "serial": "5",
        "num-queues": 4,
        "share": True,
        "addr": "5",  # a number would be taken as device and function number in one
        "size": 65536,
        "id": "d0",
    }
    with pytest.raises(LineError, match=r"there is no property 'serail'; did you mean 'serial'\?"):
        typed("device_add driver=blk serail=5")


def test_without_a_schema_texts_say_what_they_are() -> None:
    assert parse("frob a=5 b=x c='5' d.e=true", UNTYPED).arguments == {"a": 5, "b": "x", "c": "5", "d": {"e": True}}


def test_the_caret_stands_below_the_mistake_even_behind_wide_characters() -> None:
    line = "device_del ib=漢字\t"
    with pytest.raises(LineError) as caught:
        parse(line, SCHEMA)
    first, second, third = with_caret(line, caught.value).split("\n")
    assert first == "device_del ib=漢字 "
    assert second == "           ^^"
    assert third == "there is no argument 'ib'; did you mean 'id'?"
    with pytest.raises(LineError) as caught:
        parse("device_del id=漢 x", SCHEMA)
    assert with_caret("device_del id=漢 x", caught.value).split("\n")[1] == " " * 17 + "^"


def refusal(line: str) -> LineError | None:
    try:
        parse(line, SCHEMA)
    except LineError as error:
        return error
    return None


@given(st.text())
def test_every_text_is_one_value_when_quoted(text: str) -> None:
    assert parse(f"device_del id={quote(text)}", SCHEMA).arguments == {"id": text}


@given(st.text(alphabet=st.sampled_from(list("ab.={}[]\"'\\ 01,:-\n")), max_size=30))
def test_any_line_parses_or_is_refused_with_a_place_inside_it(line: str) -> None:
    for text in (line, f"mixed {line}", f"blockdev-add {line}"):
        found = tokens(text)
        assert all(token.open == "" for token in found[:-1])
        assert all(before.end <= after.start for before, after in pairwise(found))
        error = refusal(text)
        assert error is None or (0 <= error.start < error.end <= len(text) + 1 and str(error))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("top", Repeated(1.0, False, "")),
        ("top -n 0.5 --once", Repeated(0.5, True, "")),
        ("watch -n 2 qom-list path=/x", Repeated(2.0, False, "qom-list path=/x")),
        ("watch hmp info status", Repeated(1.0, False, "hmp info status")),
    ],
)
def test_watch_and_top_take_an_interval(line: str, expected: Repeated) -> None:
    assert repeated(line) == expected


@pytest.mark.parametrize(
    "line", ["watch", "watch -n 2", "top -n", "top -n x", "top -n 0", "top -n nan", "top x", "watch --once x"]
)
def test_wrong_options_of_watch_and_top_are_refused(line: str) -> None:
    with pytest.raises(LineError):
        repeated(line)


@pytest.mark.parametrize("word", ["top", "watch", "exit"])
def test_what_fills_the_screen_or_leaves_is_not_watched(word: str) -> None:
    line = f"watch -n 1 {word}"
    with pytest.raises(LineError, match=f"'{word}' cannot be watched") as caught:
        repeated(line)
    assert line[caught.value.start : caught.value.end] == word


def test_a_mistake_in_a_part_of_a_line_has_its_place_in_the_whole_line() -> None:
    line = "watch -n 1 device_del id=x foo=1"
    with pytest.raises(LineError) as caught, places_in(line, repeated(line).line):
        parse(repeated(line).line, SCHEMA)
    assert line[caught.value.start : caught.value.end] == "foo"


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        ("quit", True),
        ('{"execute": "quit"}', True),
        ("human-monitor-command command-line=q", True),
        ("human-monitor-command command-line=' quit '", True),
        ("human-monitor-command command-line='info quit'", False),
        ("query-status", False),
    ],
)
def test_what_ends_the_machine_is_known_before_it_is_sent(line: str, ends: bool) -> None:
    assert ends_machine(parse(line, SCHEMA)) is ends
