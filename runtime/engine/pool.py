"""The slots of all sizes in an engine, and the pieces that wait for one."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from threading import RLock

from ...errors import DeviceError
from ..model import LoadedModel
from .recording import PieceRun, Recording
from .sizes import SlotSize, size_for
from .slots import Slots
from .written import Burst, End


class SlotPool:
    """Slots of several sizes. The thread that decodes uses them; any may add pieces."""

    def __init__(
        self,
        model: LoadedModel,
        sizes: list[SlotSize],
        *,
        guard: bool,
        is_exact: bool,
        lock: RLock,
        written: Callable[[Burst | End], None],
        fail: Callable[[Recording, Exception], None],
    ):
        """Begin without slots, which are made when they are first needed.

        Args:
            model: to decode with.
            sizes: of the slots.
            guard: whether to make text likelier after many blanks.
            is_exact: whether close decisions are made again alone.
            lock: of the pieces that wait; held by those who add some.
            written: called with what slots have written, as by `Slots`.
            fail: called with a recording for which there is no memory.
        """
        self.sizes, self._model = sizes, model
        self._guard, self._is_exact = guard, is_exact
        self._lock, self._written, self._fail = lock, written, fail
        self._slots: dict[int, Slots] = {}  # by the index of their size
        self._counts = {index: size.count for index, size in enumerate(sizes)}
        self.waiting = deque[PieceRun]()  # for a slot, or until they are ready

    def close(self) -> None:
        """Free all slots."""
        self._slots.clear()

    @property
    def used(self) -> list[Slots]:
        """Return the slots of each size of which some are taken."""
        return [slots for slots in self._slots.values() if slots.runs]

    @property
    def num_live_ready(self) -> int:
        """Return how many slots have embeddings of live recordings."""
        return sum(slots.num_live_ready for slots in self.used)

    def add(self, runs: Iterable[PieceRun]) -> None:
        """Let pieces begin as soon as they are ready and a slot is free."""
        self.waiting.extend(runs)

    def drop(self, recording: Recording) -> None:
        """Free the slots of a recording, and let no other piece of it begin."""
        for slots in self._slots.values():
            for run in recording.runs:
                slots.drop(run)
        self.waiting = deque(run for run in self.waiting if run.recording is not recording)

    def settle(self) -> None:
        """Give embeddings to slots, and begin the pieces that are ready."""
        for index, slots in list(self._slots.items()):  # larger ones may be made
            for run in slots.outgrown:
                larger = self._slots_of(index + 1, run)
                if larger and larger.has_room:
                    slots.move(run, larger)
            slots.load()
        self._begin()

    @property
    def last(self) -> int:
        """Return the index of the largest size of slots, in which live recordings are."""
        return len(self.sizes) - 1

    def _begin(self) -> None:
        """Begin pieces that wait, in the order in which they came, as far as there are slots.

        Live ones stand before those of files, which are parked if no slot is free.
        """
        still, parked = deque[PieceRun](), list[PieceRun]()
        for run in sorted(self.waiting, key=lambda run: not run.recording.is_live):
            if run.is_dropped or run.recording.error:
                continue
            slots = self._slots_of(self._size_of(run), run) if run.is_ready else None
            if slots and not slots.has_room and run.recording.is_live:
                parked += slots.make_room(self._size_of(run))
            if slots and slots.has_room:
                slots.start(run)
            elif not run.recording.error:
                still.append(run)
        still.extend(parked)
        self.waiting = still

    def _next_run(self, index: int) -> PieceRun | None:
        """Return the first piece that waits for a slot of a size and is ready."""
        with self._lock:
            for run in sorted(self.waiting, key=lambda run: not run.recording.is_live):
                is_lost = run.is_dropped or run.recording.error
                if not is_lost and run.is_ready and self._size_of(run) == index:
                    self.waiting.remove(run)
                    return run
        return None

    def _size_of(self, run: PieceRun) -> int:
        """Return the index of the smallest size of slots that holds all positions of a piece."""
        if run.parked:
            return run.parked.size
        most = run.recording.most_places if run.stop is None else run.stop
        return self.last if most is None else size_for(self.sizes, most - run.piece.begin)

    def _slots_of(self, index: int, run: PieceRun) -> Slots | None:
        """Return the slots of a size; None, and the piece has failed, if there is no memory."""
        try:
            return self.at(index)
        except DeviceError as error:
            self._fail(run.recording, error)
            return None

    def at(self, index: int) -> Slots:
        """Return the slots of a size, made when first needed; fewer if the memory is full.

        Raises:
            DeviceError: there is no memory for one.
        """
        while index not in self._slots:
            size, count = self.sizes[index], self._counts[index]
            try:
                self._slots[index] = Slots(
                    self._model,
                    size.spec,
                    count,
                    may_shift=size.may_shift,
                    guard=self._guard,
                    is_exact=self._is_exact,
                    written=self._written,
                    take_next=partial(self._next_run, index),
                )
            except DeviceError as error:
                if count == 1:
                    raise
                self._counts[index] = count // 2
                self._model.device.notes.append(
                    f"slots of {size.spec.capacity} positions: {count // 2} instead of {count} "
                    f"({error})"
                )
        return self._slots[index]
