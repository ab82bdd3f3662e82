"""Which Placement an object carries out that others put into force: an HTTPRoute, a DNSEndpoint. Pure."""

from dataclasses import dataclass

from recell.api import Placement
from recell.api.meta import GROUP

ANNOTATION_PLACEMENT = f"{GROUP}/placement"
"""On such an object: UID, epoch and generation of the Placement that it was made from."""


@dataclass(frozen=True)
class Version:
    """Which Placement."""

    uid: str
    epoch: int
    generation: int

    @classmethod
    def of(cls, placed: Placement) -> "Version":
        return cls(placed.metadata.uid, placed.spec.epoch, placed.metadata.generation)

    @classmethod
    def parse(cls, text: str) -> "Version | None":
        """None for what is no version."""
        uid, *numbers = text.split("/")
        try:
            epoch, generation = map(int, numbers)
        except ValueError:
            return None
        return cls(uid, epoch, generation)

    def __str__(self) -> str:
        return f"{self.uid}/{self.epoch}/{self.generation}"

    def may_follow(self, older: "Version") -> bool:
        """As the built-in router's pods have it: rising, and another object only with a higher epoch (rule 18)."""
        if self.uid != older.uid:
            return self.epoch > older.epoch
        return (self.epoch, self.generation) >= (older.epoch, older.generation)
