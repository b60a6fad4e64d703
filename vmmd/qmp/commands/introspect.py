# SPDX-License-Identifier: Apache-2.0
"""Commands about the schema of this monitor."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from vmmd.qmp.registry import Context, command

if TYPE_CHECKING:
    from vmmd.qmp.models.introspect import SchemaInfo

#: ``introspect.build_schema``, written by scripts/generate-docs: building it takes 30 ms and more
SCHEMA_FILE = Path(__file__).parents[1] / "schema.json"


@command("query-qmp-schema", since="2.5", preconfig=True)
def query_qmp_schema(ctx: Context) -> list[SchemaInfo]:
    """The commands and events of this monitor and their types. What is not in it is not there."""
    import orjson

    found: list[SchemaInfo] = orjson.loads(SCHEMA_FILE.read_bytes())
    return found
