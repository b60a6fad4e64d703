# SPDX-License-Identifier: Apache-2.0
"""What every ``-netdev`` takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from vmmd.core.props import STR, prop
from vmmd.options.fields import OptionSet

if TYPE_CHECKING:
    from vmmd.options.fields import Items


class NetdevOptions(OptionSet):
    """``-netdev TYPE,id=…``."""

    kind: ClassVar[str] = ""
    id = prop(STR, "", "name of the network backend", required=True)

    #: another option that it was made from (-nic)
    made_from = ""
    #: netdev_del may take it away
    removable = True

    @property
    def where(self) -> str:
        """The option, for errors."""
        return self.made_from or f"-netdev {self.kind},id={self.id}"


class LaterNetdev(NetdevOptions):
    """A backend of QEMU that this version does not have."""

    def __init__(self, kind: str, items: Items) -> None:
        super().__init__()
        self.other_kind = kind
        self.items = items
