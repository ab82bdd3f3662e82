"""Prometheus text of Traefik and Envoy, as counters of cells."""

import pytest

from recell.api.gateway import GatewayMetricsType, RouteRule
from recell.providers.routing.gateway.counters import DIALECTS, Backends, PodCounters
from recell.providers.routing.gateway.route import Backend, Rule
from recell.providers.routing.gateway.turn_away import TurnedAway
from recell.providers.routing.haproxy.report import FIXED

SERVING = (Backend("a", "fleet", "a-web", 80, 512), Backend("b", "shop-b", "web", 80, 512))
TURNING_AWAY = (
    Backend("", "fleet", "shop-circuit-open", 80, 10, TurnedAway.CIRCUIT_OPEN),
    Backend("", "fleet", "shop-shed", 80, 10, TurnedAway.SHED),
)
BACKENDS = Backends(
    ("fleet", "shop"),
    {"a": 0, "b": 1},
    {("fleet", "a-web"): "a", ("shop-b", "web"): "b"},
    [Rule(RouteRule(), (), "", SERVING)],
)
BY_CLASS = Backends(
    BACKENDS.router,
    BACKENDS.indexes,
    BACKENDS.services,
    [
        Rule(RouteRule(), (), "bulk", (*SERVING, *TURNING_AWAY)),
        Rule(RouteRule(), (), "default", (*SERVING, TURNING_AWAY[0])),
        Rule(RouteRule(), (), "bulk", SERVING),
        Rule(RouteRule(), (), "checkout", SERVING),
    ],
)
SERVICE = (
    "httproute-{route}-gw-ingress-public-ep-8080-{rule}-c4fd4ce2b74d5b3ff1b2-svc-{backend}-{place}@kubernetesgateway"
)


def traefik(
    backend: str, requests: int, *, code: int = 200, route: str = "fleet-shop", rule: int = 0, place: int = 0
) -> str:
    labels = f'code="{code}",method="GET",protocol="http",service="{SERVICE}"'
    labels = labels.format(route=route, backend=backend, rule=rule, place=place)
    return (
        f"traefik_service_requests_total{{{labels}}} {requests}\n"
        f'traefik_service_request_duration_seconds_bucket{{{labels},le="0.1"}} {requests}\n'
        f'traefik_service_request_duration_seconds_bucket{{{labels},le="+Inf"}} {requests}\n'
        f"traefik_service_request_duration_seconds_sum{{{labels}}} 0.5\n"
    )


def envoy(place: int, requests: int, *, failures: int = 0, active: int = 0, rule: int = 0) -> str:
    label = f'envoy_cluster_name="httproute/fleet/shop/rule/{rule}/backend/{place}"'
    return (
        f"envoy_cluster_upstream_rq_completed{{{label}}} {requests}\n"
        f'envoy_cluster_upstream_rq_xx{{envoy_response_code_class="2",{label}}} {requests - failures}\n'
        f'envoy_cluster_upstream_rq_xx{{envoy_response_code_class="5",{label}}} {failures}\n'
        f"envoy_cluster_upstream_rq_active{{{label}}} {active}\n"
        f'envoy_cluster_upstream_rq_time_bucket{{{label},le="5"}} {requests}\n'
        f'envoy_cluster_upstream_rq_time_bucket{{{label},le="+Inf"}} {requests}\n'
    )


def scraped(counters: PodCounters, text: str, *, age: float = 100.0) -> dict[int, tuple[int, ...]]:
    head = f"process_start_time_seconds {1000 - age}\nenvoy_server_uptime{{}} {age}\n"
    return {index: tuple(cell.counted) for index, cell in counters.take(head + text, BACKENDS, 1000.0).cells.items()}


@pytest.fixture
def of_traefik() -> PodCounters:
    return PodCounters(DIALECTS[GatewayMetricsType.TRAEFIK])


@pytest.fixture
def of_envoy() -> PodCounters:
    return PodCounters(DIALECTS[GatewayMetricsType.ENVOY_GATEWAY])


def test_traefiks_services_are_cells(of_traefik: PodCounters) -> None:
    text = (
        traefik("fleet-a-web", 90)
        + traefik("fleet-a-web", 7, code=502)
        + traefik("fleet-a-web", 3, code=404)
        + traefik("shop-b-web", 40, place=1)
        + traefik("fleet-a-web", 1000, route="fleet-other")
        + traefik("fleet-unknown", 1000)
    )
    assert scraped(of_traefik, text) == {0: (100, 7, 100, 0, 0, 0, 100), 1: (40, 0, 40, 0, 0, 0, 40)}


def test_envoys_clusters_are_cells_by_their_place_in_the_rule(of_envoy: PodCounters) -> None:
    found = scraped(of_envoy, envoy(0, 100, failures=7) + envoy(1, 40) + envoy(2, 1000))
    assert found[0][:FIXED] == (100, 7)
    assert found[1][:FIXED] == (40, 0)
    assert (found[0][FIXED], found[0][-1]) == (100, 100)


def test_what_is_in_flight_is_told_where_it_is_known(of_traefik: PodCounters, of_envoy: PodCounters) -> None:
    head = "envoy_server_uptime{} 100\nprocess_start_time_seconds 900\n"
    told = of_envoy.take(head + envoy(0, 1, active=3), BACKENDS, 1000.0).cells
    assert (told[0].in_flight, told[1].in_flight) == (3, 0)
    told = of_traefik.take(head + traefik("fleet-a-web", 1), BACKENDS, 1000.0).cells
    assert (told[0].in_flight, told[1].in_flight) == (None, None)


def test_a_cell_that_left_the_route_and_came_back_goes_on_counting(of_traefik: PodCounters) -> None:
    """Traefik drops the series of a service that is not configured any more, and begins it anew."""
    scraped(of_traefik, traefik("fleet-a-web", 100))
    assert scraped(of_traefik, "", age=101)[0][0] == 100
    assert scraped(of_traefik, traefik("fleet-a-web", 5), age=102)[0][0] == 105
    assert scraped(of_traefik, traefik("fleet-a-web", 9, place=1), age=103)[0][0] == 114


def test_a_place_that_became_another_cells_is_that_cells_from_now_on(of_envoy: PodCounters) -> None:
    scraped(of_envoy, envoy(0, 100) + envoy(1, 40))
    alone = Backends(BACKENDS.router, BACKENDS.indexes, BACKENDS.services, [Rule(RouteRule(), (), "", SERVING[1:])])
    told = of_envoy.take("envoy_server_uptime{} 101\n" + envoy(0, 110), alone, 1000.0).cells
    assert [told[index].counted[0] for index in (0, 1)] == [100, 50]


@pytest.mark.parametrize("type_", GatewayMetricsType)
def test_a_cell_is_counted_over_all_rules_and_a_class_with_what_is_turned_away(type_: GatewayMetricsType) -> None:
    if type_ is GatewayMetricsType.TRAEFIK:
        text = (
            traefik("fleet-a-web", 50)
            + traefik("shop-b-web", 20, code=500, place=1)
            + traefik("fleet-shop-circuit-open", 5, code=503, place=2)
            + traefik("fleet-shop-shed", 25, code=503, place=3)
            + traefik("fleet-a-web", 100, rule=1)
            + traefik("fleet-shop-circuit-open", 7, code=503, rule=1, place=2)
            + traefik("shop-b-web", 3, rule=2, place=1)
        )
    else:
        text = (
            envoy(0, 50)
            + envoy(1, 20, failures=20)
            + envoy(2, 5, failures=5)
            + envoy(3, 25, failures=25, active=4)
            + envoy(0, 100, rule=1)
            + envoy(2, 7, failures=7, rule=1)
            + envoy(1, 3, rule=2)
        )
    counters = PodCounters(DIALECTS[type_])
    head = "process_start_time_seconds 900\nenvoy_server_uptime{} 100\n"
    told = counters.take(head + text, BY_CLASS, 1000.0)
    assert {index: tuple(cell.counted[:FIXED]) for index, cell in told.cells.items()} == {0: (150, 0), 1: (23, 20)}
    classes = {name: tuple(counted) for name, counted in told.classes.items()}
    assert classes == {"bulk": (103, 25, 25), "default": (107, 7, 0), "checkout": (0, 0, 0)}
    assert told.rejected == 37
    assert all(not cell.in_flight for cell in told.cells.values())
    later = counters.take(head.replace("900", "899").replace("100", "101") + text, BY_CLASS, 1001.0)
    assert {name: tuple(counted) for name, counted in later.classes.items()} == classes


def test_without_classes_none_are_told(of_envoy: PodCounters) -> None:
    assert of_envoy.take("envoy_server_uptime{} 100\n" + envoy(0, 10), BACKENDS, 1000.0).classes == {}


def test_a_new_process_begins_anew_and_is_another_instance(of_traefik: PodCounters) -> None:
    text = traefik("fleet-a-web", 100)
    first = of_traefik.take(f"process_start_time_seconds 900\n{text}", BACKENDS, 1000.0)
    second = of_traefik.take(f"process_start_time_seconds 999\n{text}", BACKENDS, 1001.0)
    assert (first.instance, first.age) != (second.instance, second.age)
    assert second.cells[0].counted[0] == 100


@pytest.mark.parametrize("type_", GatewayMetricsType)
def test_other_text_is_refused(type_: GatewayMetricsType) -> None:
    with pytest.raises(ValueError, match="not metrics of this implementation"):
        PodCounters(DIALECTS[type_]).take("<html>404</html>", BACKENDS, 1000.0)
