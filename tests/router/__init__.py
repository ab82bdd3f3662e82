"""The router with real HAProxy and agent processes on this machine."""
