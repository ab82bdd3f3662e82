"""The admission policies reach what they are about, and no further."""

from tests.unit.delivery.conftest import VARIANTS, Document, Render, named, of_kind

POLICIES = ("recell-run-trigger", "recell-run-approval", "recell-placement")


def test_each_policy_is_bound_and_denies(render: Render) -> None:
    documents = render({})
    assert {each["metadata"]["name"] for each in of_kind(documents, "ValidatingAdmissionPolicy")} == set(POLICIES)
    for name in POLICIES:
        assert named(documents, "ValidatingAdmissionPolicy", name)["spec"]["failurePolicy"] == "Fail"
        binding = named(documents, "ValidatingAdmissionPolicyBinding", name)["spec"]
        assert binding == {"policyName": name, "validationActions": ["Deny"]}


def test_policies_of_named_namespaces_leave_the_others_alone(render: Render) -> None:
    """Or two releases would refuse each other's operator."""
    documents = render(VARIANTS["named-namespaces"])
    for name in POLICIES:
        selector = named(documents, "ValidatingAdmissionPolicyBinding", name)["spec"]["matchResources"]
        assert selector == {
            "namespaceSelector": {
                "matchExpressions": [
                    {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["shop", "billing"]}
                ]
            }
        }


def test_policies_know_the_operator_by_its_account(render: Render) -> None:
    for values, account in (({}, "recell"), ({"serviceAccount": {"name": "robot"}}, "robot")):
        for name in ("recell-run-trigger", "recell-placement"):
            policy = named(render(values), "ValidatingAdmissionPolicy", name)
            expression = policy["spec"]["validations"][0]["expression"]
            assert f"request.userInfo.username == 'system:serviceaccount:recell-system:{account}'" in expression


def test_policies_are_about_recell_only(installed: list[Document]) -> None:
    """A broken policy must not stop anything else in the cluster."""
    for policy in of_kind(installed, "ValidatingAdmissionPolicy"):
        for rule in policy["spec"]["matchConstraints"]["resourceRules"]:
            assert rule["apiGroups"] == ["recell.dev"]
            assert not [resource for resource in rule["resources"] if "*" in resource]
