"""Which kinds the API server has, and where: from `apiVersion` and `kind` to a `Resource`.

Promises: a group version is asked once, and again when a kind is not found in it, so that a
CustomResourceDefinition that was installed meanwhile is seen.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from recell.engine.errors import BadInput, NotFound
from recell.providers.kube.api import Api, Object
from recell.providers.kube.paths import Resource


@dataclass(frozen=True)
class Kind:
    resource: Resource
    has_status: bool
    """It has a status subresource: some controller may report on such objects."""


class Discovery:
    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[str, Mapping[str, Kind]] = {}
        """apiVersion -> kind -> what it is."""

    async def kind(self, api_version: str, kind: str) -> Kind:
        """Raises BadInput for a kind that the API server does not have."""
        found = self._known.get(api_version, {}).get(kind)
        if found is None:
            self._known[api_version] = await self._ask(api_version)
            found = self._known[api_version].get(kind)
        if found is None:
            raise BadInput(
                f"the API server has no kind {kind} in apiVersion {api_version}: install the"
                f" CustomResourceDefinition of {kind}, or correct apiVersion and kind"
            )
        return found

    def forget(self, api_version: str) -> None:
        """Its paths did not work."""
        self._known.pop(api_version, None)

    async def _ask(self, api_version: str) -> Mapping[str, Kind]:
        group, _, version = api_version.rpartition("/")
        try:
            answer = await self._api.get(f"/apis/{group}/{version}" if group else f"/api/{version}")
        except NotFound:
            return {}
        entries: list[Object] = answer.get("resources") or []
        with_status = {entry["name"].removesuffix("/status") for entry in entries if entry["name"].endswith("/status")}
        return {
            entry["kind"]: Kind(
                Resource(group, version, entry["name"], entry["kind"], bool(entry["namespaced"])),
                entry["name"] in with_status,
            )
            for entry in entries
            if "/" not in entry["name"]
        }
