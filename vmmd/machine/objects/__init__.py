# SPDX-License-Identifier: Apache-2.0
"""The objects of ``-object`` and object-add, alive."""
