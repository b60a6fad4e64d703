# SPDX-License-Identifier: Apache-2.0
"""The same register-probing guest on QEMU and vmmd, through KVM: what differs is listed with its reason.

``scripts/compare-registers`` prints the whole comparison.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.differential.allowed_registers import ALLOWED
from tests.framework.register_map import compare, probe

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.kvm, pytest.mark.qemu]


def test_only_what_is_listed_differs(tmp_path: Path) -> None:
    values = {name: probe(name, tmp_path) for name in ("qemu", "vmmd")}
    assert len(values["qemu"]) > 3000  # it has looked at something
    differences = compare(values["qemu"], values["vmmd"])
    surprises = [str(each) for each in differences if not any(allowed.covers(each) for allowed in ALLOWED)]
    for each in surprises:
        print(each)
    assert not surprises, f"{len(surprises)} registers differ that may not"
    unused = [allowed for allowed in ALLOWED if not any(allowed.covers(each) for each in differences)]
    assert not unused, "these differences are no more"
