# SPDX-License-Identifier: Apache-2.0
"""AML encoding against examples of the ACPI specification and hand-assembled bytes."""

from __future__ import annotations

import pytest

from vmmd.firmware import aml


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "00"),
        (1, "01"),
        (2, "0a02"),
        (0xFF, "0aff"),
        (0x100, "0b0001"),
        (0x1_0000, "0c00000100"),
        (1 << 32, "0e0000000001000000"),
    ],
)
def test_integer_uses_shortest_form(value: int, encoded: str) -> None:
    assert aml.integer(value).hex() == encoded


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_integer_out_of_64_bits_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="64-bit"):
        aml.integer(value)


@pytest.mark.parametrize(
    ("text", "encoded"),
    [
        ("A", b"A___"),
        ("\\", b"\\\0"),
        ("\\_SB", b"\\_SB_"),
        ("^^FOO", b"^^FOO_"),
        ("\\_SB.PCI0", b"\\\x2e_SB_PCI0"),
        ("_SB.PCI0.ISA", b"\x2f\x03_SB_PCI0ISA_"),
    ],
)
def test_path_forms(text: str, encoded: bytes) -> None:
    assert aml.path(text) == encoded


@pytest.mark.parametrize("text", ["toolong", "lowr", "1ABC", "A.", "A-B"])
def test_wrong_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="name segment"):
        aml.path(text)


@pytest.mark.parametrize("size", [1, 55, 56, 57, 58, 59, 60, 4000, 4080, 4086, 4087, 4088, 4089, 4090, 5000, 70000])
def test_package_length_counts_itself(size: int) -> None:
    """Decode the length that scope() wrote and compare with the bytes that follow the opcode."""
    encoded = aml.scope("ABCD", bytes(size))[1:]
    more = encoded[0] >> 6
    length = encoded[0] & (0x3F if more == 0 else 0x0F)
    for index in range(more):
        length |= encoded[1 + index] << (4 + 8 * index)
    assert length == len(encoded)
    assert encoded[1 + more : 5 + more] == b"ABCD"


def test_eisa_id_of_specification() -> None:
    assert aml.eisa_id("PNP0A03") == bytes.fromhex("0c41d00a03")  # ACPI §19.3.4: EISAID("PNP0A03") is 0x030AD041


def test_field_skips_and_names() -> None:
    assert aml.field("REGN", aml.Access.BYTE, (None, 4), ("ABCD", 100)) == (
        b"\x5b\x81\x0eREGN\x01\x00\x04ABCD" + bytes((0x44, 0x06))
    )


def test_resource_template_ends_with_end_tag() -> None:
    template = aml.resources(aml.io(0x3F8, 8), aml.irq(4))
    assert template.hex() == "1110" + "0a0d" + "4701f803f8030108" + "221000" + "7900"


def test_interrupt_number_is_where_fields_expect_it() -> None:
    descriptor = aml.interrupt(10)
    offset = aml.INTERRUPT_NUMBER_OFFSET
    assert descriptor[offset : offset + 4] == (10).to_bytes(4, "little")


def test_windows_carry_length() -> None:
    assert aml.word_io(0, 0xCF7).hex() == "880d00" + "010c03" + "0000" + "0000" + "f70c" + "0000" + "f80c"
    assert aml.dword_memory(0xE000_0000, 0xFEBF_FFFF)[-4:] == (0x1EC0_0000).to_bytes(4, "little")
    assert aml.qword_memory(1 << 32, (1 << 33) - 1)[-8:] == (1 << 32).to_bytes(8, "little")


def test_method_flags_hold_arguments_and_serialized() -> None:
    assert aml.method("ABCD", 2, serialized=True) == b"\x14\x06ABCD\x0a"


def test_package_of_more_than_255_elements_is_refused() -> None:
    with pytest.raises(ValueError, match="255"):
        aml.package(*[aml.ZERO] * 256)
