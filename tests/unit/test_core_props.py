# SPDX-License-Identifier: Apache-2.0
"""core.props: values from text and JSON, bounds, and the sentences of refusals."""

from __future__ import annotations

import pytest

from vmmd.core.props import (
    BOOL,
    CHARDEV,
    MACADDR,
    ON_OFF_AUTO,
    PCI_ADDR,
    SIZE,
    U8,
    U32,
    PciAddress,
    PropSet,
    parse_int,
    prop,
)  # fmt: skip
from vmmd.errors import UsageError
from vmmd.units import parse_size


class Base(PropSet):
    addr = prop(PCI_ADDR, None, "slot and function")


class Props(Base):
    index = prop(U8, 3, "an index")
    io_base = prop(U32, None, "port", wire="iobase")
    chardev = prop(CHARDEV, None, "backend", required=True)
    mac = prop(MACADDR, None, "address")
    wakeup = prop(BOOL, False, "wake")
    legacy = prop(ON_OFF_AUTO, "auto", "mode")
    size = prop(SIZE, 0, "bytes")


def test_defaults_and_inheritance() -> None:
    props = Props()
    assert (props.index, props.io_base, props.wakeup, props.addr) == (3, None, False, None)
    assert list(Props.declared) == ["addr", "index", "iobase", "chardev", "mac", "wakeup", "legacy", "size"]


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("index", "0x10", 16), ("iobase", "0x3f8", 0x3F8), ("wakeup", "on", True), ("legacy", "off", "off"),
        ("mac", "52:54:00:12:34:56", bytes.fromhex("525400123456")), ("addr", "0x1.0x2", PciAddress(1, 2)),
        ("addr", "5", PciAddress(5, 0)), ("addr", "1f.7", PciAddress(31, 7)), ("size", "64k", 65536),
    ],
)  # fmt: skip
def test_text_values(name: str, text: str, value: object) -> None:
    props = Props()
    props.set_text(name, text, "dev")
    assert props.values[Props.declared[name].name] == value


@pytest.mark.parametrize(
    ("name", "text"),
    [("index", "256"), ("index", "-1"), ("index", "x"), ("index", "1 2"), ("wakeup", "maybe"), ("legacy", "on "),
     ("addr", "32"), ("addr", "1.8"), ("addr", ""), ("mac", "52:54:00:12:34"), ("size", "12q"), ("size", "17E")],
)  # fmt: skip
def test_wrong_text_names_property_value_and_form(name: str, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        Props().set_text(name, text, "dev")
    sentence = {
        "index": f"Parameter 'index' expects {'uint8_t' if text.lstrip('-').isdigit() else 'integer'}",
        "wakeup": "Parameter 'wakeup' expects 'on' or 'off'",
        "legacy": f"Parameter 'legacy' does not accept value '{text}'",
    }.get(name, f"Property 'dev.{name}' doesn't take value '{text}'")
    assert caught.value.desc == sentence
    assert f"'{text}'" in str(caught.value)
    assert Props.declared[name].kind.accepts in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [("index", 5, True), ("index", "5", True), ("index", 5.0, False), ("index", True, False), ("wakeup", True, True),
     ("wakeup", "on", True), ("wakeup", 1, False), ("addr", "0x1.0x2", True), ("addr", 0x28, True),
     ("size", 1 << 64, False), ("chardev", None, False), ("chardev", ["a"], False)],
)  # fmt: skip
def test_json_values_are_strict(name: str, value: object, fits: bool) -> None:
    props = Props()
    if fits:
        props.set_json(name, value, "dev")
        assert name in props.given
    else:
        with pytest.raises(UsageError):
            props.set_json(name, value, "dev")


def test_unknown_property_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match=r"Property 'dev\.iobsae' not found; did you mean 'iobase'\?"):
        Props().set_text("iobsae", "1", "dev")


def test_missing_required_property_is_named() -> None:
    with pytest.raises(UsageError, match="property 'chardev' is missing"):
        Props().check_required("dev")


@pytest.mark.parametrize(("text", "value"), [("10", 10), ("0x1F", 31), ("010", 8), ("-3", -3)])
def test_parse_int_reads_c_numbers(text: str, value: int) -> None:
    assert parse_int(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("64", 64),
        ("64k", 65536),
        ("1.5G", 3 << 29),
        ("0x1000", 4096),
        ("1048576k", 1 << 30),
        ("0b", 0),
        ("1E", 1 << 60),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert parse_size(text) == value


@pytest.mark.parametrize("text", ["", "k", "1..5", "-1", "1.5.5", "16E", "0x", "1 k", "٣"])
def test_wrong_sizes(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)
