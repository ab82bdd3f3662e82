"""What the API server's audit log holds: every write, with what was written where it is one of Recell's own kinds.

Who counts effects in tests counts them here, from the server's records instead of the operator's.
"""

from __future__ import annotations

MEGABYTES = 200
"""Size at which the log is cut; with `OLDER_PARTS` this bounds what a cluster takes on the disk."""
OLDER_PARTS = 4

POLICY: dict[str, object] = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "omitManagedFields": True,
    "rules": [
        {
            "level": "RequestResponse",
            "verbs": ["create", "update", "patch", "delete", "deletecollection"],
            "resources": [{"group": "recell.dev"}],
        },
        {"level": "Metadata", "verbs": ["create", "update", "patch", "delete", "deletecollection"]},
        {"level": "None"},
    ],
}
