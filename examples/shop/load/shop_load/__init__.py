"""The shop's customers: a load generator that reports what they saw, each second and in the end.

Promises: requests start at the asked rate, however slowly answers come (an open loop), so slowness shows as slowness
and not as fewer requests; what could not be sent is counted apart and is no customer's error. Every order that was
acknowledged is remembered, so that `verify` can look for each of them later.

Must not: know anything of Recell or of the router. It sees what a customer sees: answers, and the header `X-Cell`.
"""
