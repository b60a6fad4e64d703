# SPDX-License-Identifier: Apache-2.0
"""``parse(argv)``: from the words of the command line to a checked ``Config``.

Three steps, each a module: read every option in order (``table``), add what follows from their absence (``defaults``),
check what they say together (``validate``). Nothing is opened, created or started. What is well-formed but belongs to a
later version is still in the ``Config``; ``availability.check`` refuses it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from vmmd.errors import UsageError, nearest
from vmmd.options import defaults, validate
from vmmd.options.draft import Draft, HelpRequested
from vmmd.options.fields import shown
from vmmd.options.table import BY_NAME

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vmmd.options.models import Config

__all__ = ["HelpRequested", "parse"]


def parse(argv: Sequence[str]) -> Config:
    """The model of ``argv`` (without the program's name).

    Raises UsageError with one line that names option, key, value and what is accepted; HelpRequested when the user
    asks for a text. In an option's name one dash or two are the same.
    """
    draft = Draft()
    position = 0
    while position < len(argv):
        word = argv[position]
        position += 1
        if not word.startswith("-") or word == "-":
            BY_NAME["hda"].read(draft, "-hda", word)  # a disk image without option
            continue
        spec = BY_NAME.get(word[2:] if word.startswith("--") else word[1:])
        if spec is None:
            # QEMU-COMPAT: the phrase
            near = nearest(word.lstrip("-"), list(BY_NAME))
            raise UsageError(f"{shown(word)}: invalid option", f"did you mean '-{near}'?" if near else "see -help")
        option = f"-{spec.name}"
        argument = ""
        if spec.metavar is not None:
            if position == len(argv):
                # QEMU-COMPAT: the phrase
                raise UsageError(f"{option}: requires an argument", f"its form is {option} {spec.metavar}")
            argument = argv[position]
            position += 1
        spec.read(draft, option, argument)
        draft.given.add(spec.name)
    defaults.complete(draft)
    validate.check(draft)
    return draft.config


def wants_timestamp(argv: Sequence[str]) -> bool:
    """What ``-msg timestamp=`` says, also in a command line that cannot be read as a whole: for its error message."""
    draft = Draft()
    for word, argument in pairwise(argv):
        if word in ("-msg", "--msg"):
            try:
                BY_NAME["msg"].read(draft, "-msg", argument)
            except UsageError:
                continue  # the error that is shown may well be this one
    return draft.config.msg_timestamp
