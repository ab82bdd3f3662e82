"""Paths there and back, and answers that become errors."""

import json

import pytest

from recell.engine.errors import BadInput, Conflict, Forbidden, NotFound, Retryable
from recell.providers.kube.errors import Expired, MissingPermission, translate
from recell.providers.kube.paths import CELLS, DEPLOYMENTS, NAMESPACES, PODS, Resource, parse


def test_paths() -> None:
    assert PODS.collection() == "/api/v1/pods"
    assert PODS.collection("shop") == "/api/v1/namespaces/shop/pods"
    assert DEPLOYMENTS.path("shop", "web") == "/apis/apps/v1/namespaces/shop/deployments/web"
    assert CELLS.status("shop", "a") == "/apis/recell.dev/v1alpha1/namespaces/shop/cells/a/status"
    assert NAMESPACES.path("", "shop") == "/api/v1/namespaces/shop"
    assert (DEPLOYMENTS.full_name, PODS.full_name, PODS.api_version) == ("deployments.apps", "pods", "v1")


@pytest.mark.parametrize(("namespace", "name"), [("", "web"), ("shop", "")])
def test_a_path_without_name_or_namespace_is_a_fault(namespace: str, name: str) -> None:
    with pytest.raises(ValueError, match="Deployment"):
        DEPLOYMENTS.path(namespace, name)


@pytest.mark.parametrize(
    ("resource", "namespace", "name", "sub", "shown"),
    [
        (PODS, "shop", "x", "", "pods shop/x"),
        (PODS, "shop", "", "", "pods shop"),
        (PODS, "", "", "", "pods"),
        (CELLS, "shop", "a", "status", "cells.recell.dev shop/a (status)"),
        (NAMESPACES, "", "shop", "", "namespaces shop"),
    ],
)
def test_there_and_back(resource: Resource, namespace: str, name: str, sub: str, shown: str) -> None:
    place = parse(resource.path(namespace, name, sub) if name else resource.collection(namespace))
    assert place.group == resource.group
    assert place.resource == (f"{resource.plural}/{sub}" if sub else resource.plural)
    assert (place.namespace, place.name) == (namespace, name)
    assert str(place) == shown


def status(code: int, message: str = "no", reason: str = "", **details: object) -> bytes:
    body = {"kind": "Status", "code": code, "message": message, "reason": reason, "details": details}
    return json.dumps(body).encode()


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (404, NotFound),
        (409, Conflict),
        (410, Expired),
        (401, Forbidden),
        (403, Forbidden),
        (422, BadInput),
        (400, BadInput),
        (429, Retryable),
        (500, Retryable),
        (503, Retryable),
        (504, Retryable),
    ],
)
def test_codes(code: int, kind: type[Exception]) -> None:
    error = translate("patch", CELLS.path("shop", "a"), code, status(code), {})
    assert type(error) is kind
    assert "patch cells.recell.dev shop/a" in str(error)


def test_a_missing_permission_names_the_rule() -> None:
    said = 'cells.recell.dev "a" is forbidden: User "x" cannot patch resource "cells/status" in API group "recell.dev"'
    error = translate("patch", CELLS.status("shop", "a"), 403, status(403, said), {})
    wanted = 'grant verb "patch" on resource "cells/status" of apiGroup "recell.dev" in namespace shop'
    assert wanted in str(error)
    assert said in str(error)
    everywhere = translate("watch", CELLS.collection(), 403, status(403, said), {})
    assert "cluster-wide" in str(everywhere)


def test_the_permission_that_is_missing_is_not_always_the_one_that_was_asked() -> None:
    said = 'deployments.apps "web" is forbidden: User "x" cannot create resource "deployments" in API group "apps"'
    error = translate("patch", DEPLOYMENTS.path("shop", "web"), 403, status(403, said), {})
    assert isinstance(error, MissingPermission)
    assert 'grant verb "create" on resource "deployments" of apiGroup "apps" in namespace shop' in str(error)


def test_a_quota_is_named_with_its_numbers() -> None:
    said = (
        'configmaps "a" is forbidden: exceeded quota: small, requested: configmaps=1,pods=2, used: configmaps=3,pods=2,'
        " limited: configmaps=3,pods=3"
    )
    error = translate("patch", PODS.path("shop", "a"), 403, status(403, said), {})
    assert type(error) is Forbidden
    assert str(error) == (
        "patch pods shop/a: ResourceQuota small of namespace shop is exceeded: requested configmaps=1,pods=2,"
        " used configmaps=3,pods=2, limited to configmaps=3,pods=3; raise it or free what is not needed"
    )


def test_a_field_that_an_apply_does_not_know_is_bad_input_although_it_is_answered_with_500() -> None:
    said = "failed to create typed patch object (shop/web; apps/v1, Kind=Deployment): .spec.wieght: field not declared"
    error = translate("patch", DEPLOYMENTS.path("shop", "web"), 500, status(500, said), {})
    assert isinstance(error, BadInput)
    assert ".spec.wieght: field not declared" in str(error)


def test_causes_name_the_fields() -> None:
    causes = [{"field": "spec.weight", "message": "must be at most 1000"}, {"field": "", "message": "also wrong"}]
    error = translate("create", CELLS.collection("shop"), 422, status(422, causes=causes), {})
    assert "spec.weight: must be at most 1000; object: also wrong" in str(error)


def test_retry_after_comes_from_the_header_or_the_body() -> None:
    path = CELLS.collection()
    first = translate("list", path, 429, status(429), {"Retry-After": "3"})
    second = translate("list", path, 503, status(503, retryAfterSeconds=4), {})
    third = translate("list", path, 429, status(429), {"Retry-After": "Wed, 21 Oct"})
    assert [error.after for error in (first, second, third) if isinstance(error, Retryable)] == [3, 4, None]


def test_a_version_from_the_future_means_list_anew() -> None:
    causes = [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]
    assert isinstance(translate("watch", CELLS.collection(), 504, status(504, causes=causes), {}), Expired)


def test_answers_that_are_no_status_are_shown_as_they_are() -> None:
    assert "bad gateway" in str(translate("get", CELLS.collection(), 502, b"<html>bad gateway</html>", {}))
    assert "no message" in str(translate("get", CELLS.collection(), 500, b"", {}))
