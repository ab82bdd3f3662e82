"""The agent beside HAProxy in each router pod. Standard library only, Python 3.11.

It watches the one Placement of its Router and brings it into the running HAProxy through the
runtime socket, without a reload; it tells the operator what is applied and what the cells answer.

    settings        what the Deployment says, from the environment
    classes         classes of requests and circuit breakers -> HAProxy's rules
    placement       the object -> a checked value, or why it is refused; which one is newer
    table           the value -> lines of HAProxy's map and configuration, and back
    files           the map and the configuration on disk
    runtime_socket  HAProxy's command line
    applier         keeps the running HAProxy at the newest Placement
    figures         HAProxy's counters -> one sample
    api             list and watch of the Placement
    server          /watch, /metrics, /healthz
    main            puts them together

It must never serve a table that is older than one it has applied, never invent one, and never
stop serving because the operator or the API server is away.
"""
