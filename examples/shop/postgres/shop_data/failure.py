"""The one way in which an operation fails."""

from __future__ import annotations


class OperationFailed(Exception):
    """The operation could not be done; the message names the object concerned, and the next step."""
