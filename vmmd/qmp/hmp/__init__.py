# SPDX-License-Identifier: Apache-2.0
"""The monitor for people (HMP). Nothing of it is imported before its first command.

`registry`   the declaration of a command, and the table
`monitor`    runs a command line, on behalf of human-monitor-command or of a readline monitor
`arguments`  what a handler reads its arguments with; `formats` shows values
the others   commands, a file per group; their names are in `registry.MODULES`
"""
