"""Taking Recell's finalizer away from an object. Repeatable; an object that is gone already is fine."""

from recell.api import Cell, RecoveryRun, Router
from recell.api.meta import FINALIZER
from recell.engine.errors import NotFound
from recell.providers.kube.api import Api
from recell.providers.kube.paths import NAMESPACES


async def drop_finalizer(api: Api, path: str, obj: Router | Cell | RecoveryRun) -> None:
    """Under the object's resourceVersion; others' finalizers stay. Raises Conflict when it was changed meanwhile."""
    if FINALIZER not in obj.metadata.finalizers:
        return
    left = [name for name in obj.metadata.finalizers if name != FINALIZER]
    body = {"metadata": {"resourceVersion": obj.metadata.resource_version, "finalizers": left}}
    try:
        await api.merge_patch(path, body)
    except NotFound:
        return


async def namespace_ends(api: Api, namespace: str) -> bool:
    """Then nothing in it can be kept, and no finalizer may hold it up (rule 25)."""
    found = await api.get(NAMESPACES.path("", namespace))
    return found["metadata"].get("deletionTimestamp") is not None
