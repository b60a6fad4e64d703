# SPDX-License-Identifier: Apache-2.0
"""Options of character devices for tests: the real models, by attribute name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmmd.options.backends import CHARDEVS

if TYPE_CHECKING:
    from vmmd.options.backends import ChardevOptions


def chardev_options(backend: str, id_: str = "c0", **given: object) -> Any:
    """The checked options of one ``-chardev``. Raises UsageError."""
    made: ChardevOptions = CHARDEVS[backend]()
    names = {declared.name: declared.wire_name for declared in made.each()}
    for name, value in {"id": id_, **given}.items():
        made.values[name] = value
        made.given.add(names[name])
    made.check(f"-chardev {backend},id={id_}")
    return made
