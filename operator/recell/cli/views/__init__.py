"""Pure functions from a report to what is shown; no I/O, no clock."""
