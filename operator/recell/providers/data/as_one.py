"""What providers that restore a cell's volumes as one answer to requests about single customers (decision 0010).

Promises: pure.
"""

from recell.domain.data import Answer, Operation, Progress, Request

_NOT_MOVED = "the cell's volumes are restored as one, so its customers are not moved one by one"
_INSTEAD = {
    Operation.MIGRATE: "jobs.migrate and spec.data.jobs.accessible",
    Operation.ABANDON: "jobs.abandon",
    Operation.CHECK: "jobs.check, or spec.data.integrity",
}


def refused(request: Request, provider: str) -> Answer | None:
    """None: it is about volumes, so the provider answers it."""
    if request.operation is Operation.ACCESSIBLE:
        return Answer(Progress.DONE, _NOT_MOVED, accessible=False, when_stopped=True)
    if request.operation in _INSTEAD:
        return Answer(
            Progress.UNSUPPORTED,
            f"Cell {'/'.join(request.cell.key)}: {provider} cannot do that: set spec.data."
            f"{_INSTEAD[request.operation]}",
        )
    return None
