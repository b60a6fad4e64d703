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


_schema: list[list[SchemaInfo]] = []


def published() -> list[SchemaInfo]:
    """The schema of this process: read once, just after the start (``server.warm_up``), so that a package that is
    upgraded in place does not make it answer for another version. Any thread. Raises OSError."""
    if not _schema:
        import orjson

        with open(SCHEMA_FILE, "rb") as file:
            _schema.append(orjson.loads(file.read()))
    return _schema[0]


@command("query-qmp-schema", since="2.5", preconfig=True)
def query_qmp_schema(ctx: Context) -> list[SchemaInfo]:
    """The commands and events of this monitor and their types. What is not in it is not there."""
    return published()
