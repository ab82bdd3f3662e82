"""The peer of the reaction: a plain watch loop that answers a condition with one PATCH, and does nothing else.

    python -m benchmarks.floor KUBECONFIG NAMESPACE CONDITION

A process of its own, as the operator is one. For each change of a Cell of the namespace that has the condition with
status True it writes the condition's message into an annotation of that Cell.
"""

import asyncio
import sys

import orjson

from benchmarks.client import GROUP, Client, Object

ANNOTATION = "benchmark.recell.dev/answer"


def told(cell: Object, type: str) -> str | None:
    """The message of the condition while it is True."""
    for condition in (cell.get("status") or {}).get("conditions") or ():
        if condition["type"] == type and condition["status"] == "True":
            return str(condition["message"])
    return None


async def answer(kubeconfig: str, namespace: str, type: str) -> None:
    path = f"{GROUP}/namespaces/{namespace}/cells"
    async with Client.to(kubeconfig) as client:
        listed = await client.call("GET", path)
        params = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"], "timeoutSeconds": "3600"}
        print("watching", flush=True)
        async for line in client.lines(path, params, idle=3600):
            cell = orjson.loads(line)["object"]
            message = told(cell, type)
            annotations = cell["metadata"].get("annotations") or {}
            if message is not None and annotations.get(ANNOTATION) != message:
                body = {"metadata": {"annotations": {ANNOTATION: message}}}
                await client.merge(f"{path}/{cell['metadata']['name']}", body)


if __name__ == "__main__":
    asyncio.run(answer(*sys.argv[1:4]))
