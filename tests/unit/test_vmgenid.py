# SPDX-License-Identifier: Apache-2.0
"""The vmgenid device: its property and that there is one of it at most."""

from __future__ import annotations

import uuid

import pytest

from tests.unit.fakes import make_context, props
from vmmd.devices.vmgenid import VmGenId
from vmmd.errors import UsageError
from vmmd.machine.device_plan import check_single, plan
from vmmd.options.models import DeviceOptions

GUID = "324e6eaf-d1d1-4bf6-bf41-b9bb6c91fb87"


def test_guid_given_is_the_number() -> None:
    device = VmGenId(props(VmGenId, guid=GUID.upper()), make_context().ctx)
    device.plug()
    assert device.guid == uuid.UUID(GUID)
    assert device.resolved["guid"] == GUID


def test_guid_auto_is_another_each_time() -> None:
    first, second = (VmGenId(props(VmGenId), make_context().ctx) for _ in range(2))
    assert first.guid != second.guid
    assert first.guid.version == 4


@pytest.mark.parametrize("text", ["x", "", GUID[:-1], GUID.replace("-", ""), "{" + GUID + "}"])
def test_guid_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="doesn't take value"):
        props(VmGenId, guid=text)


def test_two_of_them_are_refused() -> None:
    plans = [plan(DeviceOptions("vmgenid", name, None, []), ()) for name in ("a", "b")]
    with pytest.raises(UsageError, match="at most one vmgenid device is permitted"):
        check_single(plans)
