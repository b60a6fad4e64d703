# SPDX-License-Identifier: Apache-2.0
"""Checks of what the host's KVM can do."""

from __future__ import annotations

from typing import Any

import pytest

from vmmd.errors import MissingKvmCapError, UsageError
from vmmd.kvm import abi, caps


class FakeKvm:
    def __init__(self, lacking: tuple[str, ...] = ()) -> None:
        self.values = {getattr(abi, name): 0 if name in lacking else 1 for name in caps.REQUIRED}
        self.values |= {abi.KVM_CAP_NR_VCPUS: 2, abi.KVM_CAP_MAX_VCPUS: 8}

    def check_extension(self, capability: int) -> int:
        return self.values.get(capability, 0)


def test_every_lacking_capability_is_named() -> None:
    kvm: Any = FakeKvm(("KVM_CAP_IRQFD", "KVM_CAP_XSAVE"))
    with pytest.raises(MissingKvmCapError, match="lacks KVM_CAP_IRQFD, KVM_CAP_XSAVE"):
        caps.check_required(kvm)
    caps.check_required(FakeKvm())  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "maximum", "warnings"), [(1, 2, 0), (2, 3, 1), (3, 8, 2)])
def test_more_vcpus_than_recommended_are_warned_about(count: int, maximum: int, warnings: int) -> None:
    assert len(caps.check_vcpu_count(FakeKvm(), count, maximum)) == warnings  # type: ignore[arg-type]


def test_more_vcpus_than_possible_are_refused() -> None:
    with pytest.raises(UsageError, match=r"hotpluggable CPUs requested \(9\) exceeds max CPUs supported by KVM \(8\)"):
        caps.check_vcpu_count(FakeKvm(), 1, 9)  # type: ignore[arg-type]
