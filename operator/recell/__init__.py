"""Recell: a Kubernetes operator that brings failed cells back."""

__version__ = "0.1.0"
