"""Taking Recell's finalizer away from an object. Repeatable; an object that is gone already is fine."""

from recell.api import Cell, Router
from recell.api.meta import FINALIZER
from recell.engine.errors import NotFound
from recell.providers.kube.api import Api


async def drop_finalizer(api: Api, path: str, obj: Router | Cell) -> None:
    """Under the object's resourceVersion; others' finalizers stay. Raises Conflict when it was changed meanwhile."""
    if FINALIZER not in obj.metadata.finalizers:
        return
    left = [name for name in obj.metadata.finalizers if name != FINALIZER]
    body = {"metadata": {"resourceVersion": obj.metadata.resource_version, "finalizers": left}}
    try:
        await api.merge_patch(path, body)
    except NotFound:
        return
