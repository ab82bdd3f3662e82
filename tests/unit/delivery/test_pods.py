"""Every pod of the chart passes the restricted Pod Security Standard and bounds what it uses."""

from collections.abc import Iterator

from tests.unit.delivery.conftest import VARIANTS, Document, Render, named, of_kind


def pods(documents: list[Document]) -> Iterator[tuple[str, Document]]:
    for each in of_kind(documents, "Deployment", "Job"):
        yield f"{each['kind']} {each['metadata']['name']}", each["spec"]["template"]["spec"]


def test_pods_are_restricted(installed: list[Document]) -> None:
    for owner, pod in pods(installed):
        assert pod["securityContext"]["runAsNonRoot"] is True, owner
        assert pod["securityContext"]["runAsUser"] == 65532, owner
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, owner
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.keys(), owner
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert not [port for port in container.get("ports", []) if "hostPort" in port]
        assert all("emptyDir" in volume for volume in pod["volumes"]), owner


def test_pods_bound_their_memory_and_state_their_needs(installed: list[Document]) -> None:
    for owner, pod in pods(installed):
        for container in pod["containers"]:
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}, owner
            assert "memory" in container["resources"]["limits"], owner


def test_two_replicas_on_different_nodes_survive_a_drain(render: Render) -> None:
    documents = render({})
    deployment = named(documents, "Deployment", "recell")
    assert deployment["spec"]["replicas"] == 2
    selector = deployment["spec"]["selector"]["matchLabels"]
    spread = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert [each["topologyKey"] for each in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
    assert all(each["labelSelector"]["matchLabels"] == selector for each in spread)
    budget = named(documents, "PodDisruptionBudget", "recell")
    assert budget["spec"]["maxUnavailable"] == 1
    assert budget["spec"]["selector"]["matchLabels"] == selector
    assert selector.items() <= deployment["spec"]["template"]["metadata"]["labels"].items()


def test_the_uninstall_check_is_not_taken_for_an_operator(render: Render) -> None:
    """Its pod must not match the Deployment, the Service or the budget."""
    documents = render({})
    selector = named(documents, "Deployment", "recell")["spec"]["selector"]["matchLabels"]
    labels = named(documents, "Job", "recell-uninstall-check")["spec"]["template"]["metadata"]["labels"]
    assert not selector.items() <= labels.items()


def test_a_digest_wins_over_a_tag(render: Render) -> None:
    for variant, image in (("defaults", "recell/operator:0.1.0"), ("everything", f"recell/operator@sha256:{'0' * 64}")):
        pod = named(render(VARIANTS[variant]), "Deployment", "recell")["spec"]["template"]["spec"]
        assert pod["containers"][0]["image"] == image
