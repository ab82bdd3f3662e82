"""A real Kubernetes cluster on one Linux machine, for the demo, the tests and developers.

Where a Docker engine answers the cluster is kind's; otherwise it is the *local node*: the Kubernetes components
compiled from the Go module proxy, containerd and runc of the distribution, all inside namespaces of their own.

Standard library only: this package runs with a system Python 3.11 before anything has been installed.
It never touches what it did not make: no other container engine, cluster, network or firewall rule.
"""
