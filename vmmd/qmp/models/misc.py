# SPDX-License-Identifier: Apache-2.0
"""QAPI types of the miscellaneous commands."""

from __future__ import annotations

from typing import NotRequired

from typing_extensions import TypedDict


class NameInfo(TypedDict):
    """The guest's name; absent when there is none."""

    name: NotRequired[str]
