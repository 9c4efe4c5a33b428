"""Simulate 10,000 live streams on many replicas: bursts, admission, and the loss of a machine.

    python bench/stream_arrivals.py

Clients come at random and stay for three minutes on average. Each goes to a proxy, which asks some
replicas how many connections they have and takes the one with the fewest, as `cluster/router.py`
does; what a proxy knows is up to ten seconds old. A replica without a free slot refuses, and the
client waits and tries again, as `examples/live_client.py` does. Nothing here is measured: it shows
how much room is needed. Writes results/stream_arrivals.json, and prints docs/arrivals.md's table.
"""

from __future__ import annotations

import heapq
import random
from dataclasses import asdict, dataclass
from typing import Annotated

import harness
import typer

STREAMS = 10_000  # on average
SLOTS = 128  # of a replica
REPLICAS_A_MACHINE = 8
MEAN_SECONDS = 180.0  # of a stream
KNOWN_SECONDS = 10.0  # that a proxy trusts what a replica has told
FIRST_WAIT, LONGEST_WAIT, TRIES = 0.25, 8.0, 20  # of clients that are refused
EVENT_AT, REPLACED_SECONDS = 600.0, 180.0  # what happens, and until a lost machine is replaced
END = 1500.0


@dataclass(frozen=True)
class Case:
    """One simulation."""

    room: float  # share of slots beyond the average number of streams
    choices: int = 4  # replicas that a proxy asks
    burst: float = 0.0  # share of the streams that come in addition, within ten seconds
    machines_lost: int = 0


@dataclass
class Outcome:
    """Counts of what clients met, from a minute before the event on."""

    come: int = 0
    refused: int = 0  # at least once
    given_up: int = 0
    wait_p99: float = 0.0  # seconds until a slot, of all
    wait_most: float = 0.0
    most_refusals: int = 0  # in a second


class Replica:
    """Slots, and the streams in them."""

    def __init__(self, machine: int):
        self.machine, self.streams, self.is_lost = machine, dict[int, float](), False


class Simulation:
    """Replicas, proxies, clients, and what happens next."""

    def __init__(self, case: Case, seed: int):
        self.case, self.chance = case, random.Random(seed)
        count = -(-round(STREAMS * (1 + case.room)) // SLOTS)
        self.replicas = [Replica(number // REPLICAS_A_MACHINE) for number in range(count)]
        machines = self.replicas[-1].machine + 1
        # What each proxy, one a machine, knows of each replica: connections, and when it was told
        self.known = [dict[int, tuple[int, float]]() for _ in range(machines)]
        self.events, self.serial = list[tuple[float, int, str, tuple]](), 0
        self.waits, self.outcome = list[float](), Outcome()
        self.refusals: dict[int, int] = {}

    def plan(self, at: float, kind: str, *what: object) -> None:
        """Let a method be called with a time and more."""
        self.serial += 1
        heapq.heappush(self.events, (at, self.serial, kind, what))

    def run(self) -> Outcome:
        """Run to the end."""
        for _ in range(STREAMS):  # those that are there at the beginning
            self.plan(0.0, "come", 0.0, self.chance.expovariate(1 / MEAN_SECONDS), 0)
        self.plan(0.0, "next")
        if self.case.burst:
            for _ in range(round(STREAMS * self.case.burst)):
                at = EVENT_AT + self.chance.uniform(0, 10)
                self.plan(at, "come", at, self.chance.expovariate(1 / MEAN_SECONDS), 0)
        for machine in range(self.case.machines_lost):
            self.plan(EVENT_AT, "lose", machine)
            self.plan(EVENT_AT + REPLACED_SECONDS, "replace", machine)
        while self.events:
            now, _, kind, what = heapq.heappop(self.events)
            if now > END:
                break
            getattr(self, kind)(now, *what)
        waits = sorted(self.waits)
        self.outcome.wait_p99 = round(waits[int(0.99 * len(waits))], 1)
        self.outcome.wait_most = round(waits[-1], 1)
        self.outcome.most_refusals = max(self.refusals.values(), default=0)
        return self.outcome

    def next(self, now: float) -> None:
        """Let a client come, and plan the one after it."""
        self.plan(now + self.chance.expovariate(STREAMS / MEAN_SECONDS), "next")
        self.come(now, now, self.chance.expovariate(1 / MEAN_SECONDS), 0)

    def come(self, now: float, since: float, seconds: float, tries: int) -> None:
        """Let a client try to get a slot for so many seconds."""
        counts = now > EVENT_AT - 60
        if counts and tries == 0:
            self.outcome.come += 1
        number = self.choose(now)
        replica = self.replicas[number]
        if not replica.is_lost and len(replica.streams) < SLOTS:
            self.serial += 1
            replica.streams[self.serial] = now + seconds
            self.plan(now + seconds, "leave", number, self.serial)
            if counts:
                self.waits.append(now - since)
            return
        if counts:
            self.outcome.refused += tries == 0
            self.refusals[int(now)] = self.refusals.get(int(now), 0) + 1
        if tries + 1 == TRIES:
            self.outcome.given_up += counts
            return
        wait = min(LONGEST_WAIT, FIRST_WAIT * 2**tries) * self.chance.uniform(0.5, 1.5)
        self.plan(now + wait, "come", since, seconds, tries + 1)

    def choose(self, now: float) -> int:
        """Return the replica that a proxy takes."""
        known = self.chance.choice(self.known)
        living = [number for number, each in enumerate(self.replicas) if not each.is_lost]
        asked = self.chance.sample(living, min(self.case.choices, len(living)))
        for number in asked:
            if number not in known or now - known[number][1] > KNOWN_SECONDS:
                known[number] = len(self.replicas[number].streams), now
        best = min(asked, key=lambda number: known[number][0])
        known[best] = known[best][0] + 1, known[best][1]
        return best

    def leave(self, now: float, number: int, stream: int) -> None:
        """End a stream, unless its replica was lost before."""
        self.replicas[number].streams.pop(stream, None)

    def lose(self, now: float, machine: int) -> None:
        """Lose a machine: its clients come again for the rest of their time."""
        for replica in self.replicas:
            if replica.machine == machine:
                for ends in replica.streams.values():
                    self.plan(now, "come", now, ends - now, 0)
                replica.streams, replica.is_lost = {}, True

    def replace(self, now: float, machine: int) -> None:
        """Replace a machine that was lost."""
        for replica in self.replicas:
            if replica.machine == machine:
                replica.is_lost = False


CASES = (
    *(Case(room) for room in (0.02, 0.05, 0.1)),
    *(Case(0.05, choices) for choices in (1, 2, 8)),
    *(Case(room, burst=0.1) for room in (0.05, 0.1, 0.2)),
    Case(0.2, burst=0.3),
    Case(0.4, burst=0.3),
    *(Case(room, machines_lost=1) for room in (0.05, 0.1, 0.2)),
    Case(0.2, machines_lost=2),
)


def main(
    out: harness.Out = harness.RESULTS / "stream_arrivals.json",
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 0,
) -> None:
    """Run all cases."""
    found = []
    print("| room | asked | what happens | refused at first | gave up | wait, p99 / most |")
    print("| --- | --- | --- | --- | --- | --- |")
    for case in CASES:
        outcome = Simulation(case, seed).run()
        found.append({**asdict(case), **asdict(outcome)})
        what = f"{case.burst:.0%} more in 10 s" if case.burst else "nothing"
        if case.machines_lost:
            what = f"{case.machines_lost} machine{'s' * (case.machines_lost > 1)} lost"
        print(
            f"| {case.room:.0%} | {case.choices} | {what} | {outcome.refused / outcome.come:.1%} | "
            f"{outcome.given_up} | {outcome.wait_p99} / {outcome.wait_most} s |",
            flush=True,
        )
    head = harness.describe("a simulation of live streams; nothing is measured")
    harness.write(out, {**head, "seed": seed, "cases": found})


if __name__ == "__main__":
    harness.run(main)
