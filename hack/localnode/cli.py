"""The command line of `hack/cluster`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

from . import versions
from .command import Failure
from .kind import KindCluster, engine_answers
from .node import LocalNode
from .progress import Progress

Cluster = LocalNode | KindCluster


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its exit code (0 done, 1 failed or not ready, 2 wrong usage)."""
    options = _parser().parse_args(argv)
    try:
        return _run(options)
    except Failure as failure:
        print(f"hack/cluster: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _cluster(name: str) -> Cluster:
    """The cluster that has this name; a new one is kind's where a Docker engine answers."""
    progress = Progress()
    node = LocalNode(name, progress)
    return KindCluster(name, progress) if not node.exists() and engine_answers() else node


def _run(options: argparse.Namespace) -> int:
    cluster = _cluster(options.name)
    command = options.command
    if command == "up":
        cluster.up(options.kubernetes)
        print(f"export KUBECONFIG={cluster.kubeconfig}")
    elif command == "down":
        cluster.down()
    elif command == "status":
        status = cluster.status()
        print(json.dumps(status, indent=2))
        return 0 if status["ready"] else 1
    else:
        cluster.require()
        _use(cluster, command, options)
    return 0


def _use(cluster: Cluster, command: str, options: argparse.Namespace) -> None:
    """The commands that need a cluster."""
    if command == "kubeconfig":
        print(cluster.kubeconfig)
    elif command == "stop-apiserver":
        cluster.stop_api_server(hang=options.hang)
    elif command == "start-apiserver":
        cluster.start_api_server()
    elif command == "audit-log":
        print(cluster.audit_log())
    elif command == "storage":
        if not isinstance(cluster, LocalNode):
            raise Failure("volumes with snapshots are there for a local node only")
        cluster.storage()
    elif command == "build-image":
        dockerfile = options.file or options.context / "Dockerfile"
        cluster.provide(options.tag, dockerfile, options.context, options.build_arg)
    elif command == "enter":
        argv = cluster.inside(options.argv)
        os.execvp(argv[0], argv)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="hack/cluster", description="A real Kubernetes cluster on this machine.")
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, text: str) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.add_argument("--name", default="recell", help="the cluster (default: recell)")
        return command

    up = add("up", "Start the cluster, or repair it; nothing happens where all is well.")
    up.add_argument("--kubernetes", help=f"the version of Kubernetes (default: {versions.KUBERNETES})")
    add("down", "Remove the cluster and everything it made.")
    add("status", "Show what runs, as JSON; the exit code is 0 when the cluster is ready.")
    add("kubeconfig", "Print the path of the administrator's kubeconfig.")
    stop = add("stop-apiserver", "Make the API server unreachable.")
    stop.add_argument("--hang", action="store_true", help="let connections time out instead of refusing them")
    add("start-apiserver", "Make the API server reachable again; returns when it is ready.")
    add("storage", "Start a CSI driver with volumes and snapshots; it ends with the cluster.")
    add("audit-log", "Print the path of the API server's audit log.")
    enter = add("enter", "Run a command inside the node (its processes, mounts and network).")
    enter.add_argument("argv", nargs="+", metavar="COMMAND")
    build = add("build-image", "Build a Dockerfile and load the image into the cluster.")
    build.add_argument("--tag", required=True, help="the image's name, e.g. localhost/recell/operator:dev")
    build.add_argument("--file", type=Path, help="default: Dockerfile in the context")
    build.add_argument("--context", type=Path, default=Path("."), help="default: the current folder")
    build.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    return parser
