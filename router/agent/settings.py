"""What the Deployment tells the agent. Pure: reads the mapping that it is given."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .classes import RATE_UNIT, Breaker, RequestClass, parse_classes

KEY_TYPES = ("Header", "Cookie", "Host", "PathSegment")
WHEN_ABSENT = ("Reject", "ClientAddress")


@dataclass(frozen=True)
class CustomerKey:
    """Where a request says which customer it is from, as in Router.spec.haproxy.customerKey."""

    type: str
    name: str = ""
    """Of the header or cookie."""
    segment: int = 0
    """Of the path, counted from 1."""
    when_absent: str = "Reject"

    def __post_init__(self) -> None:
        if self.type not in KEY_TYPES:
            raise ValueError(f"CUSTOMER_KEY_TYPE: {self.type!r} is none of {', '.join(KEY_TYPES)}")
        if self.when_absent not in WHEN_ABSENT:
            raise ValueError(f"CUSTOMER_KEY_WHEN_ABSENT: {self.when_absent!r} is none of {', '.join(WHEN_ABSENT)}")
        if self.type in ("Header", "Cookie") and not self.name.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"CUSTOMER_KEY_NAME: {self.name!r} is not a name of a header or cookie")
        if self.type == "PathSegment" and not 1 <= self.segment <= 16:
            raise ValueError(f"CUSTOMER_KEY_SEGMENT: {self.segment} is not from 1 to 16")


@dataclass(frozen=True)
class Settings:
    namespace: str
    router: str
    """Name of the Router, and so of its Placement."""
    customer_key: CustomerKey
    run: Path = Path("/run/recell")
    """Folder shared with HAProxy, in memory; survives the containers' restarts."""
    template: Path = Path("/etc/recell/haproxy.cfg")
    customers_bind: str = ":8080"
    admin_bind: str = ":8404"
    agent_bind: str = ":8405"
    in_flight_max: int = 1000
    """Requests that may wait for one cell at a time in this pod; the next ones get 503."""
    drain_timeout: int = 60
    """Seconds that connections may still last at a cell that serves nobody any more."""
    classes: tuple[RequestClass, ...] = ()
    """By which requests are shed; the first that matches counts."""
    breaker: Breaker | None = None
    """None: a cell is spared by in_flight_max and by what a run says, not by its failures."""
    api_url: str = "https://kubernetes.default.svc"
    credentials: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount")
    """Folder with `token` and `ca.crt`."""

    @property
    def socket(self) -> Path:
        return self.run / "haproxy.sock"

    @property
    def map(self) -> Path:
        return self.run / "placement.map"

    @property
    def config(self) -> Path:
        return self.run / "haproxy.cfg"


def from_environment(env: Mapping[str, str]) -> Settings:
    """Raises ValueError with the variable's name for a value that cannot work."""
    for name in ("NAMESPACE", "ROUTER", "CUSTOMER_KEY_TYPE"):
        if not env.get(name):
            raise ValueError(f"{name} is not set")
    host = env.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
    host = f"[{host}]" if ":" in host else host
    default_url = f"https://{host}:{env.get('KUBERNETES_SERVICE_PORT', '443')}"
    return Settings(
        namespace=env["NAMESPACE"],
        router=env["ROUTER"],
        customer_key=CustomerKey(
            type=env["CUSTOMER_KEY_TYPE"],
            name=env.get("CUSTOMER_KEY_NAME", ""),
            segment=_number(env, "CUSTOMER_KEY_SEGMENT", 0),
            when_absent=env.get("CUSTOMER_KEY_WHEN_ABSENT", "Reject"),
        ),
        run=Path(env.get("RUN_DIR", "/run/recell")),
        template=Path(env.get("TEMPLATE", "/etc/recell/haproxy.cfg")),
        customers_bind=_bind(env, "CUSTOMERS_BIND", ":8080"),
        admin_bind=_bind(env, "ADMIN_BIND", ":8404"),
        agent_bind=_bind(env, "AGENT_BIND", ":8405"),
        in_flight_max=_number(env, "IN_FLIGHT_MAX", 1000),
        drain_timeout=_number(env, "DRAIN_TIMEOUT", 60),
        classes=_classes(env),
        breaker=_breaker(env),
        api_url=env.get("API_URL", default_url),
        credentials=Path(env.get("CREDENTIALS_DIR", "/var/run/secrets/kubernetes.io/serviceaccount")),
    )


def _classes(env: Mapping[str, str]) -> tuple[RequestClass, ...]:
    try:
        return parse_classes(env.get("REQUEST_CLASSES", ""))
    except ValueError as error:
        raise ValueError(f"REQUEST_CLASSES: {error}") from None


def _breaker(env: Mapping[str, str]) -> Breaker | None:
    """The rate is in hundredths of a percent, the window in milliseconds; without a rate there is none."""
    if not env.get("BREAKER_ERROR_RATE"):
        return None
    rate, window = _number(env, "BREAKER_ERROR_RATE", 5000), _number(env, "BREAKER_WINDOW", 3000)
    if not 1 <= rate <= RATE_UNIT:
        raise ValueError(f"BREAKER_ERROR_RATE: {rate} is not from 1 to {RATE_UNIT} hundredths of a percent")
    if not 1000 <= window <= 60_000:
        raise ValueError(f"BREAKER_WINDOW: {window} is not from 1000 to 60000 ms")
    return Breaker(rate / RATE_UNIT, window, max(1, _number(env, "BREAKER_MINIMUM_REQUESTS", 20)))


def _bind(env: Mapping[str, str], name: str, default: str) -> str:
    text = env.get(name) or default
    if not text.rpartition(":")[2].isdecimal():
        raise ValueError(f"{name}: {text!r} is not [address]:port")
    return text


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name) or str(default)
    if not text.isdecimal():
        raise ValueError(f"{name}: {text!r} is not a number")
    return int(text)
