"""Which cluster and namespace a command means: the options that the group and every command have.

Promises: they may stand before or after the command's name, as kubectl's do; what stands after wins.

Must not import what takes long: `recell --help` needs this module.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True)
class Target:
    """None: not said."""

    kubeconfig: str | None = None
    context: str | None = None
    namespace: str | None = None

    def over(self, outer: "Target") -> "Target":
        return Target(
            self.kubeconfig or outer.kubeconfig, self.context or outer.context, self.namespace or outer.namespace
        )


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("-n", "--namespace", metavar="NAME", help="Fleet namespace; default: the context's."),
        click.option("--context", metavar="NAME", help="Context of the kubeconfig."),
        click.option("--kubeconfig", metavar="FILE", help="Kubeconfig; default: $KUBECONFIG, then ~/.kube/config."),
    ):
        function = option(function)
    return function
