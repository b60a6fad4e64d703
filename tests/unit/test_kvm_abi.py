# SPDX-License-Identifier: Apache-2.0
"""vmmd.kvm.abi against <linux/kvm.h>: a compiled C probe prints every number, size and offset."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from vmmd.kvm import abi

pytestmark = pytest.mark.skipif(
    shutil.which("gcc") is None or not Path("/usr/include/linux/kvm.h").exists(), reason="needs gcc and linux-libc-dev"
)

#: members that the C header hides in unnamed unions or names differently
RENAMED = {("kvm_irq_routing_msi", "devid"): "devid", ("kvm_vcpu_events", "triple_fault"): "triple_fault.pending"}


def numbers() -> dict[str, int]:
    return {name: value for name, value in vars(abi).items() if name.startswith("KVM_") and isinstance(value, int)}


def source() -> str:
    lines = [
        "#include <stddef.h>", "#include <stdio.h>", "#include <linux/ioctl.h>", "#include <linux/kvm.h>",
        "#define N(x) printf(\"N \" #x \" %llu\\n\", (unsigned long long)(x))",
        "#define S(s) printf(\"S \" #s \" %zu\\n\", sizeof(struct s))",
        "#define O(s, m) printf(\"O \" #s \" \" #m \" %zu %zu\\n\", offsetof(struct s, m), sizeof(((struct s *)0)->m))",
        "int main(void) {",
    ]  # fmt: skip
    lines += [f"N({name});" for name in numbers()]
    for cls, c_name in abi.C_STRUCTS.items():
        lines.append(f"S({c_name});")
        lines += [f"O({c_name}, {RENAMED.get((c_name, field[0]), field[0])});" for field in cls._fields_]
    lines += [f"O(kvm_run, {member});" for member, _ in abi.RUN_OFFSETS.values()]
    return "\n".join([*lines, "return 0; }", ""])


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    folder = tmp_path_factory.mktemp("abi")
    (folder / "probe.c").write_text(source())
    subprocess.run(["gcc", "-o", folder / "probe", folder / "probe.c"], check=True, timeout=60)
    output = subprocess.run([folder / "probe"], check=True, capture_output=True, text=True, timeout=10).stdout
    return [line.split() for line in output.splitlines()]


def test_numbers_equal_the_header(probe: list[list[str]]) -> None:
    found = {row[1]: int(row[2]) for row in probe if row[0] == "N"}
    assert len(found) > 150
    assert found == numbers()


def test_structure_sizes_equal_the_header(probe: list[list[str]]) -> None:
    import ctypes

    found = {row[1]: int(row[2]) for row in probe if row[0] == "S"}
    # Header structures end in a flexible array, which C counts with no bytes and with the padding of its elements
    assert found == {c_name: ctypes.sizeof(cls) for cls, c_name in abi.C_STRUCTS.items()}


def test_member_offsets_and_sizes_equal_the_header(probe: list[list[str]]) -> None:
    found = {(row[1], row[2]): (int(row[3]), int(row[4])) for row in probe if row[0] == "O"}
    for cls, c_name in abi.C_STRUCTS.items():
        for field in cls._fields_:
            member = RENAMED.get((c_name, field[0]), field[0])
            descriptor = getattr(cls, field[0])
            ours = (descriptor.offset, descriptor.size)
            assert found[(c_name, member)] == ours, f"{c_name}.{member}"


def test_run_page_offsets_equal_the_header(probe: list[list[str]]) -> None:
    found = {row[2]: int(row[3]) for row in probe if row[0] == "O" and row[1] == "kvm_run"}
    assert found == dict(abi.RUN_OFFSETS.values())
