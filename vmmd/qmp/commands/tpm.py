# SPDX-License-Identifier: Apache-2.0
"""Commands about TPM devices. LIMIT: there are none yet; managers ask all the same, and are told so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vmmd.qmp.registry import Context, command

if TYPE_CHECKING:
    from vmmd.qmp.models.tpm import TPMInfo, TpmModel, TpmType


@command("query-tpm", since="1.5")
def query_tpm(ctx: Context) -> list[TPMInfo]:
    """The TPMs of the machine."""
    return []


@command("query-tpm-models", since="1.5")
def query_tpm_models(ctx: Context) -> list[TpmModel]:
    """The TPM devices that -device takes: none in this version."""
    return []


@command("query-tpm-types", since="1.5")
def query_tpm_types(ctx: Context) -> list[TpmType]:
    """The TPM backends that -tpmdev takes: none in this version."""
    return []
