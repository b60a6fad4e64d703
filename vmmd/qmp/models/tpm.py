# SPDX-License-Identifier: Apache-2.0
"""QAPI types of TPM devices."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from typing_extensions import TypedDict

from vmmd.qmp.models.unions import Tagged

TpmModel = Literal["tpm-tis", "tpm-crb"]
TpmType = Literal["passthrough", "emulator"]


class TPMEmulatorOptions(TypedDict):
    """How the process that is the TPM is reached."""

    chardev: str


class TPMEmulatorOptionsWrapper(TypedDict):
    """Options of an emulated TPM."""

    type: Literal["emulator"]
    data: TPMEmulatorOptions


class TPMPassthroughOptions(TypedDict):
    """Which TPM of the host it is."""

    path: NotRequired[str]


class TPMPassthroughOptionsWrapper(TypedDict):
    """Options of the host's TPM."""

    type: Literal["passthrough"]
    data: TPMPassthroughOptions


class TPMInfo(TypedDict):
    """A TPM of the machine."""

    id: str
    model: TpmModel
    options: Annotated[TPMPassthroughOptionsWrapper | TPMEmulatorOptionsWrapper, Tagged("type")]
