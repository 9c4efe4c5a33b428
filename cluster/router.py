"""Choose replicas for new connections, in Ray's proxies."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

import random
import warnings
from typing import Any

with warnings.catch_warnings():  # of packages that it is made of
    warnings.simplefilter("ignore", DeprecationWarning)
    from ray.serve.request_router import FIFOMixin, RequestRouter

# Replicas that are asked how many connections they have. What a proxy knows is some seconds old:
# of many, all proxies would take the same (bench/stream_arrivals.py)
CHOICES = 4


class FewestConnections(FIFOMixin, RequestRouter):
    """A router that takes, of some replicas on all machines, that with the fewest connections.

    Ray's own one prefers replicas on the proxy's machine for as long as they take connections. They
    take more than they have slots, to tell clients that all are taken: so clients would be refused
    while other machines have room.
    """

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any | None = None
    ) -> list[list[Any]]:
        """Return the replicas among which Ray takes the one with the fewest connections."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # where none takes more
        count = min(CHOICES, len(candidate_replicas))
        return [random.sample(candidate_replicas, count)] if count else []
