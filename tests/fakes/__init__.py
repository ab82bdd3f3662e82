"""Behaving fakes of the ports."""
