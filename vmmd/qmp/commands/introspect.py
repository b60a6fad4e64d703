# SPDX-License-Identifier: Apache-2.0
"""Commands about the schema of this monitor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vmmd.qmp.registry import Context, command

if TYPE_CHECKING:
    from vmmd.qmp.models.introspect import SchemaInfo

#: ``introspect.build_schema``, written by scripts/generate-docs: building it takes 30 ms and more
SCHEMA_FILE = os.path.join(os.path.dirname(os.path.dirname(__file__)), "schema.json")

_published: list[bytes] = []


def published() -> bytes:
    """The schema of this process as JSON: read once, just after the start (``server.warm_up``), so that a package that
    is upgraded in place does not make it answer for another version. Any thread. Raises OSError."""
    if not _published:
        with open(SCHEMA_FILE, "rb") as file:
            _published.append(file.read())
    return _published[0]


@command("query-qmp-schema", since="2.5", preconfig=True)
def query_qmp_schema(ctx: Context) -> list[SchemaInfo]:
    """The commands and events of this monitor and their types. What is not in it is not there."""
    import orjson

    found: list[SchemaInfo] = orjson.loads(published())  # kept as text: a tenth of the memory
    return found
