# SPDX-License-Identifier: Apache-2.0
"""The sans-IO QMP wire: splitting at every byte, recovery, limits, exactness of the fast path, output."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmmd.qmp import splitter as splitter_module
from vmmd.qmp import wire
from vmmd.qmp.json_reader import read_json
from vmmd.qmp.splitter import JsonSplitter
from vmmd.qmp.wire import ParseFault, decode, decode_simple, encode

COMMAND = b'{"execute":"query-status"}'


def feed_all(*pieces: bytes) -> list[Any]:
    """Texts as bytes, faults as their sentences."""
    splitter = JsonSplitter()
    found: list[Any] = []
    for piece in pieces:
        found += [each.desc if isinstance(each, ParseFault) else each for each in splitter.feed(piece)]
    return found


def refusal(text: bytes) -> Any:
    """Why a text is no JSON, or None."""
    try:
        decode(text)
    except ParseFault as fault:
        return fault.desc
    return None


STREAM = (
    b' {"a": [1, -0.5e+3, "x\\"}y", \'it\\\'s\', true]}\r\n[]{} "text" 12 null {"b":"'
    + "é😀".encode()
    + b'"}\x01{"c":1} }} {"d":01} {"e":2}\n{"f":"\xff" {"g":[3]}\nabc {"h":4}\n'
)


def test_split_at_every_byte_finds_the_same_texts_and_faults() -> None:
    whole = feed_all(STREAM)
    assert len(whole) > 10
    for position in range(len(STREAM)):
        assert feed_all(STREAM[:position], STREAM[position:]) == whole, position
    assert feed_all(*(STREAM[i : i + 1] for i in range(len(STREAM)))) == whole


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_split_of_random_bytes_does_not_depend_on_the_pieces(data: bytes, cuts: list[int]) -> None:
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert feed_all(*(data[a:b] for a, b in pairwise(borders))) == feed_all(data)


@given(st.text(alphabet="{}[]\"'\\,:01e.+-ab\n\t \x01\u00e9", max_size=60))
def test_next_command_works_after_newline_whatever_came_before(garbage: str) -> None:
    found = feed_all(garbage.encode(), b"\xff\n", COMMAND)
    assert found[-1] == COMMAND


@given(st.text(alphabet="{}[]\"',:01e.-ab\\u ", max_size=40))
def test_every_text_found_is_parsed_or_refused_with_a_sentence(text: str) -> None:
    for each in JsonSplitter().feed(text.encode()):
        if isinstance(each, bytes):
            assert refusal(each) is None or refusal(each).startswith("JSON ")


NONCHARACTERS = [chr(0xFDD0 + i) for i in range(32)] + [chr(p << 16 | n) for p in range(17) for n in (0xFFFE, 0xFFFF)]
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters=NONCHARACTERS), max_size=8)
NUMBERS = st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc:é\"'", max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abc", max_size=4), JSON_VALUES, max_size=5), st.booleans())
def test_any_json_object_survives_both_ways(value: dict[str, Any], ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert feed_all(text) == [text]
    assert decode(text) == value
    assert read_json(text) == value
    line = encode(value)
    assert line.isascii()
    assert line.endswith(b"\r\n")
    assert b"\x7f" not in line
    assert json.loads(line) == value


@given(st.text('{}[]":,\\0129.eE-+abtrufalsn \n', max_size=30))
def test_fast_path_never_disagrees_with_the_exact_parser(text: str) -> None:
    data = b'{"execute":"x",' + text.encode() + b"}"
    quick = decode_simple(data)
    if quick is not None:
        assert quick == read_json(data)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":1,"a":2}',
        b'{"execute":"x","arguments":{"a":1,"a":2}}',
        b'{"execute":"x","id":{"a":1,"a":2}}',
        b'{"execute":"x","id":18446744073709551616}',
        b'{"execute":"x","id":[18446744073709551616]}',
        b'{"execute":"x","arguments":{"a":1.0}}',
        b'{"execute":"x\\u0041"}',
        "{'execute':'é'}".encode(),
        b"[1]",
        b'"x"',
        b"",
    ],
)
def test_fast_path_leaves_doubtful_messages_alone(text: bytes) -> None:
    assert decode_simple(text) is None


def test_fast_path_takes_what_clients_send() -> None:
    for text in (
        b'{"execute": "query-status", "id": "libvirt-12"}\r\n',
        b'{"execute": "qmp_capabilities"}',
        b'{"id": 3, "arguments": {"cpu-index": 0, "command-line": "info name"}, "execute": "human-monitor-command"}\n',
    ):
        assert decode_simple(text) == json.loads(text)


@pytest.mark.parametrize("depth", [1023, 1024])
def test_nesting_up_to_1024_is_taken(depth: int) -> None:
    text = b"[" * depth + b"]" * depth
    assert feed_all(text) == [text]
    assert isinstance(decode(text), list)


def test_nesting_of_1025_is_one_error_and_the_next_command_works() -> None:
    assert feed_all(b"[" * 1025 + b"]" * 1025 + COMMAND) == ["JSON nesting depth limit exceeded", COMMAND]
    assert feed_all(b"[" * 5000, b"\n" + COMMAND) == ["JSON nesting depth limit exceeded", COMMAND]


def test_never_ending_string_is_bounded() -> None:
    splitter = JsonSplitter()
    faults = splitter.feed(b'{"execute": "')
    for _turn in range(400):
        faults += splitter.feed(b"x" * 65536)
        assert splitter.buffered_bytes <= wire.MAX_MESSAGE_BYTES + 65536
    assert [fault.desc for fault in faults if isinstance(fault, ParseFault)] == ["JSON token size limit exceeded"]
    assert splitter.feed(b'"}' + COMMAND) == [COMMAND]


def test_never_ending_number_is_bounded() -> None:
    splitter = JsonSplitter()
    found = [each for _turn in range(100) for each in splitter.feed(b"1" * 100)]
    assert isinstance(found[0], ParseFault)
    assert len(found) == 1
    assert splitter.buffered_bytes <= splitter_module.MAX_BARE_BYTES + 100


def test_many_brackets_are_bounded() -> None:
    found = feed_all(b"[" + b"[]," * splitter_module.MAX_BRACKETS)
    assert found == ["JSON token count limit exceeded"]


def test_byte_by_byte_input_costs_linear_time() -> None:
    def cost(length: int) -> float:
        splitter = JsonSplitter()
        splitter.feed(b'{"a":"')
        start = time.process_time()
        for _turn in range(length):
            splitter.feed(b"x")
        return time.process_time() - start

    cost(1000)
    assert cost(40_000) < 30 * cost(4_000) + 0.05


def test_pipeline_of_ten_thousand_commands_without_separators() -> None:
    assert feed_all(COMMAND * 10_000) == [COMMAND] * 10_000


@pytest.mark.parametrize("control", [byte for byte in range(32) if chr(byte) not in "\t\r\n"] + [0xFF])
def test_control_byte_anywhere_resets_the_parser(control: int) -> None:
    bad = bytes([control])
    for before in (b"", b'{"a":', b'{"a":"text', b'{"a":"text\\', b"[1", b"tru", b"-"):
        found = feed_all(before + bad + COMMAND)
        assert found[-1] == COMMAND, before
        assert all(isinstance(each, str) for each in found[:-1])
        assert len(found) == 2, before


@pytest.mark.parametrize(
    ("garbage", "fault"),
    [
        (b'{"a":01}', "stray '01'"),
        (b'{"a":1.}', "stray '1.}'"),
        (b'{"a":-}', "stray '-}'"),
        (b'{"a":1e}', "stray '1e}'"),
        (b'{"a":+1}', "stray '+'"),
        (b'{"a":.5}', "stray '.'"),
        (b'{"a":%p}', "stray '%'"),
        (b'{"a":Infinity}', "stray 'I'"),
        (b"}", "expecting value"),
        (b"]]]]", "expecting value"),
        (b",:", "expecting value"),
        (b"!#*", "stray '!'"),
        (b"//c", "stray '/'"),
        (b"abc def", "invalid keyword 'abc'"),
    ],
)
def test_one_error_per_accident_and_ready_at_once(garbage: bytes, fault: str) -> None:
    assert feed_all(garbage + COMMAND) == [f"JSON parse error, {fault}", COMMAND]
    assert feed_all(garbage + b"\n" + COMMAND) == [f"JSON parse error, {fault}", COMMAND]


def test_unencodable_output_is_refused_and_lone_surrogates_are_replaced() -> None:
    with pytest.raises(ValueError, match="compliant"):
        encode({"return": float("inf")})
    with pytest.raises(TypeError):
        encode({"return": b"bytes"})  # type: ignore[dict-item]
    assert json.loads(encode({"return": "a\udcffb", "x\ud800": ["\udc80"]})) == {"return": "a�b", "x�": ["�"]}
    assert json.loads(encode({"return": "😀\\ud"})) == {"return": "😀\\ud"}


def test_output_is_spaced_as_qemus() -> None:
    assert encode({"return": {"a": [1, True, None]}, "id": "x"}) == b'{"return": {"a": [1, true, null]}, "id": "x"}\r\n'
    assert encode({"return": {}}, pretty=True) == b'{\r\n    "return": {}\r\n}\r\n'
    assert encode({"return": 18446744073709551615}) == b'{"return": 18446744073709551615}\r\n'


def test_the_greeting_needs_no_heavy_import() -> None:
    code = (
        "import sys; before = set(sys.modules)\n"
        "import vmmd.qmp.server, vmmd.qmp.wire, vmmd.qmp.session, vmmd.qmp.registry\n"
        "heavy = {'asyncio', 'uvloop', 'pydantic', 'orjson', 'json', 'inspect', 'dataclasses', 'typing_extensions'}\n"
        "print(sorted(heavy & (set(sys.modules) - before)), vmmd.qmp.server.GREETING)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith('[] b\'{"QMP"')


def test_commands_need_no_pydantic_until_one_has_arguments() -> None:
    code = "import sys; from vmmd.qmp.server import warm_up; warm_up(); print('pydantic' in sys.modules)"
    code += "; from vmmd.qmp.registry import import_models, models_loaded; print(models_loaded()); import_models()"
    code += "; print('pydantic' in sys.modules, models_loaded())"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["False", "False", "True", "True"]
