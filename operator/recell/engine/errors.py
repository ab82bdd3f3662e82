"""The error vocabulary of ports and engine.

    RecellError
    +-- Retryable      may pass by itself: time-outs, 429, 5xx; retried with backoff until the step's deadline
    |   +-- Unreachable    of a cluster of its own nothing can be read or changed: that says nothing about the cell
    +-- Conflict       somebody else wrote first: read again
    +-- NotFound       the object is not there
    +-- Forbidden      a permission is missing; the message says which to grant
    +-- BadInput       a field's value cannot work; the message names the field
    +-- Fenced         this process is no longer the leader: stop, write nothing
    +-- Reverted       somebody undid an effect twice (rule 31)

Providers translate third-party errors into these, once. What a person sees names the object, the
field and the next step.
"""


class RecellError(Exception):
    """Base of all."""

    @property
    def reason(self) -> str:
        """CamelCase reason for conditions and events."""
        return type(self).__name__


class Retryable(RecellError):
    def __init__(self, message: str, *, after: float | None = None) -> None:
        super().__init__(message)
        self.after = after
        """Seconds that the other side asked to wait (Retry-After), or None."""


class Unreachable(Retryable):
    pass


class Conflict(RecellError):
    pass


class NotFound(RecellError):
    pass


class Forbidden(RecellError):
    pass


class BadInput(RecellError):
    pass


class Fenced(RecellError):
    pass


class Reverted(RecellError):
    pass


PERMANENT = (BadInput, Forbidden, Reverted)
"""What no time mends, only a person: whoever meets it is Stalled until then."""
