"""No test here depends on how fast the machine is."""

from hypothesis import settings

settings.register_profile("domain", deadline=None)
settings.load_profile("domain")
