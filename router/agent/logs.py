"""One JSON line per event on standard output."""

import json
import sys
import time


def log(event: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"time": round(time.time(), 3), "event": event, **facts}) + "\n")
    sys.stdout.flush()
