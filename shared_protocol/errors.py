# SPDX-License-Identifier: Apache-2.0
"""Errors that a user can meet: a stable code and a sentence that says what to do."""

from __future__ import annotations


class DemonError(Exception):
    """An error with a stable code (`E_...`), shown alike in the server's log, the plugin's status and the command line."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
