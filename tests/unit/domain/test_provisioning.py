"""A further cell, rendered: names, parameters, what is left out, and templates that cannot work."""

import re
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recell.api import Cell, CellTemplate
from recell.api.meta import LABEL_CELL, LABEL_INCIDENT, LABEL_MADE_BY, LABEL_NAME_PATTERN, LABEL_ORIGIN
from recell.domain.provisioning import (
    NAME_LIMIT,
    Order,
    Purpose,
    UnfitTemplate,
    cell,
    name_of,
    objects,
    origin,
    problem,
    unfit,
)

Object = dict[str, Any]

CELL_SPEC: Object = {
    "backend": {"type": "Service", "service": {"name": "$(CELL)", "port": 80}},
    "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "$(CELL)-web"}],
}
LABELS = {LABEL_CELL: "b-1", LABEL_MADE_BY: "recell", LABEL_ORIGIN: "cell-b", LABEL_INCIDENT: "run-1"}


def template(*items: Object, cell: Object | None = None, **spec: Any) -> CellTemplate:
    return CellTemplate.model_validate(
        {
            "metadata": {"name": "shop-cell", "namespace": "fleet"},
            "spec": {"cell": CELL_SPEC if cell is None else cell, "objects": list(items), **spec},
        }
    )


def source(labels: dict[str, str] | None = None, **spec: Any) -> Cell:
    backend = {"type": "Service", "service": {"name": "cell-b", "port": 80}}
    return Cell.model_validate(
        {
            "metadata": {"name": "cell-b", "namespace": "fleet", "labels": labels or {}},
            "spec": {"routerRef": {"name": "shop"}, "weight": 70, "backend": backend, **spec},
        }
    )


def order(made_from: CellTemplate, cell: Cell | None = None, incident: str = "run-1") -> Order:
    return Order("b-1", cell or source(), made_from, incident)


def obj(kind: str = "ConfigMap", api_version: str = "v1", name: str = "$(CELL)-config", **rest: Any) -> Object:
    metadata = {"name": name, **rest.pop("metadata", {})}
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **rest}


def rendered(ordered: Order) -> list[Object]:
    return [*objects(ordered), cell(ordered)]


class TestNames:
    def test_the_same_run_gives_the_same_name(self) -> None:
        assert name_of(source(), "uid-1", Purpose.REPLACEMENT) == name_of(source(), "uid-1", Purpose.REPLACEMENT)

    def test_another_run_purpose_or_try_gives_another(self) -> None:
        names = {
            name_of(source(), uid, purpose, number)
            for uid in ("uid-1", "uid-2")
            for purpose in Purpose
            for number in (1, 2)
        }
        assert len(names) == 2 * len(Purpose) * 2

    def test_it_follows_the_line_and_not_the_cell(self) -> None:
        second = source(labels={LABEL_ORIGIN: "cell-a"})
        assert origin(second) == "cell-a"
        assert name_of(second, "u", Purpose.REPLACEMENT).startswith("cell-a-")

    @given(st.from_regex(LABEL_NAME_PATTERN, fullmatch=True).filter(lambda name: len(name) <= 63), st.text(max_size=40))
    def test_it_is_a_name_with_room_behind_it(self, line: str, uid: str) -> None:
        made = name_of(source(labels={LABEL_ORIGIN: line}), uid, Purpose.RECOVERY)
        assert re.fullmatch(LABEL_NAME_PATTERN, made)
        assert len(made) <= NAME_LIMIT


class TestObjects:
    def test_parameters_stand_wherever_texts_are(self) -> None:
        made_from = template(
            obj(data={"cell": "$(CELL)", "of": "$(SOURCE) in $(NAMESPACE)", "list": ["$(SIZE)", {"deep": "$(SIZE)"}]}),
            parameters=[{"name": "SIZE", "value": "10Gi"}],
        )
        (made,) = objects(order(made_from, source(namespace="shop")))
        assert made["metadata"]["name"] == "b-1-config"
        assert made["metadata"]["namespace"] == "shop"
        assert made["data"] == {"cell": "b-1", "of": "cell-b in shop", "list": ["10Gi", {"deep": "10Gi"}]}

    def test_a_cells_own_value_wins(self) -> None:
        made_from = template(obj(data={"size": "$(SIZE)"}), parameters=[{"name": "SIZE", "value": "10Gi"}])
        ref = {"name": "shop-cell", "parameters": [{"name": "SIZE", "value": ""}]}
        (made,) = objects(order(made_from, source(templateRef=ref)))
        assert made["data"] == {"size": ""}

    def test_what_is_not_declared_is_the_containers_own(self) -> None:
        (made,) = objects(order(template(obj(data={"args": "$(POD_IP) $(cell) $CELL ${CELL} $(CELL"}))))
        assert made["data"] == {"args": "$(POD_IP) $(cell) $CELL ${CELL} $(CELL"}

    def test_keys_and_other_values_stay_as_they_are(self) -> None:
        (made,) = objects(order(template(obj(data={"$(CELL)": 1, "on": True, "ratio": 1.5, "nothing": []}))))
        assert made["data"] == {"$(CELL)": 1, "on": True, "ratio": 1.5, "nothing": []}

    def test_each_says_where_it_came_from(self) -> None:
        made_from = template(obj(metadata={"labels": {"app": "web", LABEL_CELL: "cell-b", LABEL_MADE_BY: "hand"}}))
        (made,) = objects(order(made_from))
        assert made["metadata"]["labels"] == {"app": "web"} | LABELS

    def test_what_tools_and_servers_put_on_a_live_object_is_left_out(self) -> None:
        tracked = {
            "argocd.argoproj.io/instance": "shop",
            "app.kubernetes.io/instance": "shop",
            "app.kubernetes.io/managed-by": "Helm",
            "kustomize.toolkit.fluxcd.io/name": "shop",
            "helm.toolkit.fluxcd.io/name": "shop",
        }
        noted = {"meta.helm.sh/release-name": "shop", "argocd.argoproj.io/tracking-id": "shop:v1/x", "team": "shop"}
        live = obj(
            metadata={
                "labels": tracked | {"app.kubernetes.io/name": "shop"},
                "annotations": noted,
                "finalizers": ["example.com/wait"],
                "uid": "1",
                "resourceVersion": "7",
                "generation": 3,
                "creationTimestamp": "2026-01-31T12:00:00Z",
                "managedFields": [{}],
                "ownerReferences": [{"kind": "Node", "name": "n", "uid": "2", "apiVersion": "v1"}],
                "generateName": "x-",
            },
            status={"phase": "Bound"},
        )
        (made,) = objects(order(template(live)))
        assert "status" not in made
        assert made["metadata"] == {
            "name": "b-1-config",
            "namespace": "fleet",
            "labels": {"app.kubernetes.io/name": "shop"} | LABELS,
            "annotations": {"team": "shop"},
            "finalizers": ["example.com/wait"],
        }

    def test_the_claims_that_a_stateful_set_makes_are_found_again(self) -> None:
        claims = [{"metadata": {"name": "data", "labels": {"a": "b"}}}, {"metadata": {"name": "logs"}}]
        (made,) = objects(order(template(obj("StatefulSet", "apps/v1", spec={"volumeClaimTemplates": claims}))))
        assert [claim["metadata"]["labels"] for claim in made["spec"]["volumeClaimTemplates"]] == [
            {"a": "b"} | LABELS,
            LABELS,
        ]

    def test_the_order_is_the_templates(self) -> None:
        made = objects(order(template(*(obj(name=name) for name in ("c", "a", "b")))))
        assert [each["metadata"]["name"] for each in made] == ["c", "a", "b"]

    def test_where_an_object_goes_is_no_part_of_it(self) -> None:
        made_from = template(obj(cluster="Management"), obj(cluster="Cell", name="x"), obj(name="y"))
        made = objects(order(made_from, source(namespace="shop")))
        assert not [each for each in made if "cluster" in each]
        assert [each["metadata"]["namespace"] for each in made] == ["fleet", "shop", "shop"]

    def test_the_same_name_in_two_clusters_is_two_objects(self) -> None:
        both = (obj(cluster="Management", metadata={"namespace": "shop"}), obj(metadata={"namespace": "shop"}))
        far = CELL_SPEC | {"cluster": {"kubeconfigSecretRef": {"name": "b"}}}
        assert problem(template(*both, cell=far)) is None
        assert "is spec.objects[0] already" in str(problem(template(*both)))

    @pytest.mark.parametrize("length", [61, 62, 63, 64, 253])
    def test_a_long_incident_is_still_a_label(self, length: int) -> None:
        name = ("r" * 61 + "-." + "r" * 200)[:length].rstrip("-.")
        (made,) = objects(order(template(obj()), incident=name))
        assert re.fullmatch(
            r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", made["metadata"]["labels"][LABEL_INCIDENT]
        )

    def test_neither_order_nor_template_is_changed(self) -> None:
        made_from = template(obj(metadata={"labels": {"a": "b"}}), obj("StatefulSet", "apps/v1", "db", spec={}))
        before = deepcopy(made_from)
        objects(order(made_from))
        cell(order(made_from))
        assert made_from == before


class TestCell:
    def test_it_joins_the_sources_router_and_gets_nobody(self) -> None:
        ref = {"name": "shop-cell", "parameters": []}
        origin_cell = source(namespace="shop", templateRef=ref, policyRef={"name": "careful"})
        given = CELL_SPEC | {"weight": 100, "routerRef": {"name": "other"}, "namespace": "elsewhere", "priority": 7}
        made = cell(order(template(cell=given), origin_cell))
        assert made["metadata"] == {"name": "b-1", "namespace": "fleet", "labels": LABELS}
        assert made["spec"] == {
            "routerRef": {"name": "shop"},
            "weight": 0,
            "namespace": "shop",
            "backend": {"type": "Service", "service": {"name": "b-1", "port": 80}},
            "workloads": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "b-1-web"}],
            "priority": 7,
            "templateRef": ref,
            "policyRef": {"name": "careful"},
        }

    def test_its_own_template_and_policy_win(self) -> None:
        given = CELL_SPEC | {"templateRef": {"name": "next"}, "policyRef": {"name": "mine"}}
        made = cell(order(template(cell=given), source(templateRef={"name": "shop-cell"}, policyRef={"name": "x"})))
        assert made["spec"]["templateRef"] == {"name": "next"}
        assert made["spec"]["policyRef"] == {"name": "mine"}

    def test_a_parameter_can_be_a_number(self) -> None:
        given = {"backend": {"type": "Service", "service": {"name": "$(CELL)", "port": "$(PORT)"}}}
        made = cell(order(template(cell=given, parameters=[{"name": "PORT", "value": "8080"}])))
        assert made["spec"]["backend"]["service"]["port"] == 8080


JOB = obj("Job", "batch/v1", spec={"ttlSecondsAfterFinished": 0})
UNFIT = [
    (template({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}), "spec.objects[0].metadata.name is missing"),
    (template(obj(), obj()), "spec.objects[1]: ConfigMap b-1-config is spec.objects[0] already"),
    (template(obj(), obj(metadata={"namespace": "fleet"})), "spec.objects[1]: ConfigMap b-1-config is spec.objects[0]"),
    (template(obj(name="web/scale")), "spec.objects[0].metadata.name: 'web/scale' is not a name"),
    (template(obj(name="..")), "spec.objects[0].metadata.name: '..' is not a name"),
    (template(obj(metadata={"namespace": "a?b"})), "spec.objects[0].metadata.namespace: 'a?b' is not a name"),
    (template(obj(metadata={"labels": {"a": 1}})), "spec.objects[0].metadata.labels has to be names and texts"),
    (template(obj(metadata={"annotations": "a"})), "spec.objects[0].metadata.annotations has to be names and texts"),
    (
        template(obj("RoleBinding", "rbac.authorization.k8s.io/v1", "x")),
        "spec.objects[0]: a template makes no RoleBinding: make x beforehand",
    ),
    (template(obj("RecoveryRun", "recell.dev/v1alpha1", "x")), "spec.objects[0]: a template makes no RecoveryRun"),
    (template(JOB), "spec.objects[0].spec.ttlSecondsAfterFinished: leave it out"),
    (
        template(obj("StatefulSet", "apps/v1", spec={"volumeClaimTemplates": [{}]})),
        "spec.objects[0].spec.volumeClaimTemplates[0].metadata is missing",
    ),
    (template(cell={}), "spec.cell.backend: Field required"),
    (template(cell=CELL_SPEC | {"wieght": 1}), "spec.cell.wieght: there is no such field"),
    (
        template(cell=CELL_SPEC | {"health": {"probe": {"pfad": "/"}}}),
        "spec.cell.health.probe.pfad: there is no such field",
    ),
    (
        template(cell=CELL_SPEC | {"workloads": [{"apiVersion": "apps/v1", "kind": "Job", "name": "x"}]}),
        "spec.cell.workloads[0].kind: Input should be 'Deployment', 'StatefulSet', 'DaemonSet' or 'CronJob'",
    ),
]


class TestUnfitTemplates:
    @pytest.mark.parametrize(("made_from", "why"), UNFIT, ids=[why for _, why in UNFIT])
    def test_the_field_is_named(self, made_from: CellTemplate, why: str) -> None:
        with pytest.raises(UnfitTemplate) as refused:
            rendered(order(made_from))
        assert str(refused.value).startswith(f"CellTemplate shop-cell: {why}")
        told = problem(made_from)
        assert told is not None
        assert told.startswith(f"CellTemplate shop-cell: {why}".replace("b-1", "sample-000000"))

    def test_a_fit_one_has_no_problem(self) -> None:
        assert problem(template(obj(), obj(name="$(CELL)-other", metadata={"namespace": "other"}))) is None

    def test_the_same_name_of_another_kind_is_another_object(self) -> None:
        assert problem(template(obj("Service", name="x"), obj("Service", "serving.example.com/v1", name="x"))) is None

    def test_a_value_that_each_cell_sets_is_no_problem_of_the_template(self) -> None:
        given = {"backend": {"type": "$(TYPE)", "service": {"name": "$(CELL)", "port": "$(PORT)"}}}
        made_from = template(
            obj(data={"x": "$(PORT)"}), cell=given, parameters=[{"name": "PORT"}, {"name": "TYPE", "value": "Service"}]
        )
        assert problem(made_from) is None
        assert unfit(source(), made_from) == (
            "CellTemplate shop-cell: parameter PORT has no value: set it in spec.templateRef.parameters of Cell cell-b"
        )

        def with_port(port: str) -> Cell:
            return source(templateRef={"name": "shop-cell", "parameters": [{"name": "PORT", "value": port}]})

        assert unfit(with_port("8080"), made_from) is None
        told = unfit(with_port("http"), made_from)
        assert told is not None
        assert told.startswith(
            "CellTemplate shop-cell: spec.cell.backend.service.port: Input should be a valid integer"
        )

    def test_what_does_not_depend_on_it_is(self) -> None:
        made_from = template(cell=CELL_SPEC | {"priority": "high"}, parameters=[{"name": "PORT"}])
        assert (problem(made_from) or "").startswith("CellTemplate shop-cell: spec.cell.priority: Input should be")

    def test_a_value_for_nothing_is_refused(self) -> None:
        ref = {"name": "shop-cell", "parameters": [{"name": "SIZE", "value": "1"}, {"name": "AGE", "value": "2"}]}
        assert unfit(source(templateRef=ref), template()) == (
            "Cell cell-b: spec.templateRef.parameters names AGE, SIZE, which CellTemplate shop-cell does not have"
        )

    json = st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just("$(CELL)"),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=12,
    )
    fields = st.dictionaries(
        st.sampled_from(["name", "namespace", "labels", "annotations", "finalizers", "uid"]), json, max_size=6
    )
    kinds = st.sampled_from([("v1", "ConfigMap"), ("apps/v1", "StatefulSet"), ("batch/v1", "Job")])
    specs = json | st.fixed_dictionaries({"volumeClaimTemplates": json, "ttlSecondsAfterFinished": json})
    cells = st.dictionaries(st.sampled_from([*CELL_SPEC, "health", "weight", "data", "x"]), json, max_size=4)

    @given(kinds, fields, specs, cells)
    def test_whatever_stands_there_is_an_answer_and_no_fault(
        self, kind: tuple[str, str], metadata: Object, spec: Any, given: Object
    ) -> None:
        item = {"apiVersion": kind[0], "kind": kind[1], "metadata": metadata, "spec": spec}
        for made_from in (template(item), template(cell=given)):
            told = problem(made_from)
            assert told is None or told.startswith("CellTemplate shop-cell: spec.")
