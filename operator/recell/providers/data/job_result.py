"""What an ended data Job told, read strictly: its termination message becomes an Answer.

Promises: pure. Nothing is guessed: a result that does not hold what the contract asks for (docs/providers/jobs.md), or
that contradicts the request, is a failure whose message quotes what was there and says what was expected. Counts that
would let a customer be routed whose data did not arrive are refused (rule 8), and so is data later than asked (rule 9).
"""

from collections.abc import Callable
from datetime import UTC
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.alias_generators import to_camel

from recell.domain.data import Answer, Backup, Customers, Operation, Progress, Request, from_ranges, newest
from recell.domain.wording import clipped

LIMIT = 4096
"""Bytes of a termination message that Kubernetes keeps."""
NAMES = CONFLICTS = 20
"""More are left out."""
QUOTED = 200
"""Characters of a result that cannot be used."""
COUNT = 2**31 - 1
"""As large as a count in the API can be."""

Text = Annotated[str, Field(max_length=LIMIT)]
Identity = Annotated[str, Field(min_length=1, max_length=253)]
Count = Annotated[int, Field(ge=0, le=COUNT)]
Moment = Annotated[AwareDatetime, AfterValidator(lambda moment: moment.astimezone(UTC))]


def _asked(info: ValidationInfo) -> Request:
    asked: Request = (info.context or {})["request"]
    return asked


class Result(BaseModel):
    """What every operation may say. Fields that are not known are ignored: a Job may be newer than the operator."""

    model_config = ConfigDict(strict=True, alias_generator=to_camel)

    message: Text = ""


class BackupResult(BaseModel):
    model_config = ConfigDict(strict=True)

    id: Identity
    at: Moment
    complete: bool = True
    verified: bool = False

    @property
    def backup(self) -> Backup:
        return Backup(self.id, self.at, self.complete, self.verified)


class InventoryResult(Result):
    backups: list[BackupResult]
    until: Moment | None = None


class AccessibleResult(Result):
    accessible: bool


class IntegrityResult(Result):
    intact: bool


class MadeResult(Result):
    """Of Backup."""

    id: Identity
    at: Moment


class CustomersResult(BaseModel):
    model_config = ConfigDict(strict=True)

    expected: Count | None
    """null: the source could not say; then a person has to judge."""
    done: Count
    failed: Count = 0
    names: list[Identity] = Field(default_factory=list)
    slots: str = ""

    @model_validator(mode="after")
    def _accounted_for(self, info: ValidationInfo) -> "CustomersResult":
        slots = set(from_ranges(self.slots))
        if strange := slots.difference(_asked(info).slots):
            raise ValueError(f"slots has {min(strange)}, which was not asked for")
        if self.failed and not slots:
            raise ValueError(f"{self.failed} failed, but slots does not say whose: they must not be routed")
        if self.failed and self.expected is not None and self.done + self.failed < self.expected:
            raise ValueError(f"{self.done} done and {self.failed} failed do not account for {self.expected} expected")
        return self


class MovedResult(Result):
    """Of Migrate."""

    customers: CustomersResult
    records: Annotated[int, Field(ge=0, le=2**53)] | None = None
    conflicts: list[Text] = Field(default_factory=list)


class RestoredResult(MovedResult):
    recovery_point: Moment

    @model_validator(mode="after")
    def _not_later(self, info: ValidationInfo) -> "RestoredResult":
        asked = _asked(info).not_after
        if asked is not None and self.recovery_point > asked:
            point = self.recovery_point.isoformat()
            raise ValueError(f"recoveryPoint {point} is later than {asked.isoformat()}, the latest that was asked for")
        return self


def _inventory(result: InventoryResult) -> dict[str, Any]:
    return {"backups": newest(told.backup for told in result.backups), "until": result.until}


def _moved(result: MovedResult) -> dict[str, Any]:
    told = result.customers
    return {
        "customers": Customers(
            expected=told.expected,
            done=told.done,
            failed=told.failed,
            names=tuple(told.names[:NAMES]),
            slots=from_ranges(told.slots),
        ),
        "records": result.records,
        "conflicts": tuple(clipped(text) for text in result.conflicts[:CONFLICTS]),
    }


_CUSTOMERS = '"customers": {"expected": 120, "done": 118, "failed": 2, "names": ["c-17"], "slots": "17"}'
_READ: dict[Operation, tuple[type[Result], str, Callable[[Any], dict[str, Any]]]] = {
    Operation.INVENTORY: (
        InventoryResult,
        '{"backups": [{"id": "b-1", "at": "2026-01-31T03:00:00Z", "complete": true}], "until": "2026-01-31T09:59:00Z"}',
        _inventory,
    ),
    Operation.ACCESSIBLE: (AccessibleResult, '{"accessible": true}', lambda told: {"accessible": told.accessible}),
    Operation.MIGRATE: (MovedResult, f"{{{_CUSTOMERS}}}", _moved),
    Operation.RESTORE: (
        RestoredResult,
        f'{{{_CUSTOMERS}, "recoveryPoint": "2026-01-31T09:59:00Z"}}',
        lambda told: _moved(told) | {"recovery_point": told.recovery_point},
    ),
    Operation.CHECK: (IntegrityResult, '{"intact": true}', lambda told: {"intact": told.intact}),
    Operation.BACKUP: (
        MadeResult,
        '{"id": "b-1", "at": "2026-01-31T03:00:00Z"}',
        lambda told: {"backups": (Backup(told.id, told.at),)},
    ),
    Operation.ABANDON: (Result, "{}", lambda told: {}),
}


def read(request: Request, said: str) -> Answer:
    """The answer in a termination message. Never raises."""
    model, example, fields = _READ[request.operation]
    try:
        result = model.model_validate_json(said, context={"request": request})
    except ValidationError as error:
        return Answer(
            Progress.FAILED,
            clipped(
                f"The result of {request.operation} cannot be used: {_problem(said, error)}. Its termination message"
                f" is {_quoted(said)}; expected is one JSON object such as {example}"
            ),
        )
    return Answer(Progress.DONE, clipped(result.message), **fields(result))


def _problem(said: str, error: ValidationError) -> str:
    if not said.strip():
        return "there is none"
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        if len(said.encode()) >= LIMIT:
            return f"it was cut off, since Kubernetes keeps {LIMIT:,} bytes at most"
        return "it is not JSON"
    where = ".".join(str(part) for part in first["loc"])
    problem = first["msg"].removeprefix("Value error, ")
    return f"{where}: {problem}" if where else problem


def _quoted(said: str) -> str:
    text = " ".join(said.split())
    return repr(clipped(text, QUOTED)) if text else "empty"
