"""The engine: many recordings on one device, encoded ahead and decoded in lockstep.

A call of the decoder reads all weights, however many recordings it advances; a call of the encoder
is the more efficient the more audio it takes. So recordings are encoded one after the other in
large calls, ahead of their decoding, and decoded together, each in a slot of a common buffer. On a
GPU a thread encodes while another decodes; on the CPU one thread does both by turns. Threads that
read audio, and the caller's that makes text of tokens, work beside them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from time import perf_counter

from ...errors import DeviceError
from ...threads import num_cores
from ..model import LoadedModel
from ..stream import silent_start
from .encoding import Encoding
from .recording import PieceRun, Recording
from .sizes import SlotSize, size_for
from .slots import Prefix, Slots
from .written import Burst, Encoded, End, Join

CHECK_SECONDS = 1.0  # between two looks at whether the weights' files have changed
MOST_READERS = 8  # threads that read audio


@dataclass(frozen=True, slots=True)
class Failure:
    """The error that has ended a recording; None for all of them, when the engine has failed."""

    recording: Recording | None
    error: BaseException


@dataclass(slots=True)
class Work:
    """Where the time of engines went, in seconds."""

    encode: float = 0.0
    decode: float = 0.0
    wait: float = 0.0  # the decoder's, for embeddings
    steps: int = 0  # calls of the decoder
    positions: int = 0  # that they advanced


class Engine:
    """Slots of a loaded model, for recordings with one delay."""

    def __init__(
        self,
        model: LoadedModel,
        sizes: list[SlotSize],
        num_delay_tokens: int,
        *,
        guard: bool,
        is_exact: bool,
        work: Work,
    ):
        """Start the threads.

        Args:
            model: to compute with.
            sizes: of the slots.
            num_delay_tokens: of all recordings.
            guard: whether to make text likelier after many blanks.
            is_exact: whether close decisions are made again alone.
            work: to which its time is added.

        Raises:
            DeviceError: the silence before all audio cannot be computed.
        """
        # Compute the state that all recordings begin with
        start = silent_start(model, num_delay_tokens, model.grid)
        caches = [array for name, array in start.arrays.items() if name.startswith("decoder_")]
        buffers = [model.device.buffer(rows) for rows in caches]
        self._prefix = Prefix(start.position.next_id, buffers)

        # Begin without recordings
        self.model, self.sizes, self.work = model, sizes, work
        self.events = SimpleQueue[Encoded | Burst | End | Join | Failure]()
        self._guard, self._is_exact = guard, is_exact
        self._encoding = Encoding(model, start, model.device.notes)
        self._slots: dict[int, Slots] = {}  # by the index of their size
        self._counts = {index: size.count for index, size in enumerate(sizes)}
        self._waiting = deque[PieceRun]()  # for a slot, or until they are ready
        # Taken directly: Ctrl-C between two lines of a condition's own methods would leave it taken
        self._lock = threading.RLock()
        self._change, self._is_stopped = threading.Condition(self._lock), False
        self._failed: list[Recording] = []
        self._checked = perf_counter()
        self._readers = ThreadPoolExecutor(min(MOST_READERS, max(1, num_cores() // 2)), "reader")

        # Start the threads
        both = (self._decode_loop, self._encode_loop)
        loops = both if model.device.overlaps else (self._loop,)
        self._threads = [threading.Thread(target=self._guarded, args=(each,)) for each in loops]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads after the calls that run, and free everything."""
        with self._lock:
            self._is_stopped = True
            self._change.notify_all()
        for thread in self._threads:
            thread.join()
        self._readers.shutdown(cancel_futures=True)
        self._slots.clear()
        self._encoding.release()
        self.model.device.release_memory()

    def add(self, recording: Recording) -> None:
        """Take a recording; its tokens and its end, or its failure, come as `events`."""
        with self._lock:
            self._encoding.add(recording)
            self._waiting.extend(recording.runs)
            self._encoding.read_ahead(self._readers, self._tell)
            self._change.notify_all()

    def fail(self, recording: Recording, error: Exception) -> None:
        """End a recording with an error; no other is affected."""
        with self._lock:
            if recording.error is None:
                recording.error = error
                self._failed.append(recording)
                self._change.notify_all()

    def _tell(self) -> None:
        with self._lock:
            self._change.notify_all()

    def _guarded(self, loop: Callable[[], None]) -> None:
        """Run a thread's loop; an error that belongs to no recording ends the engine."""
        try:
            loop()
        except BaseException as error:
            with self._lock:
                self._is_stopped = True
                self._change.notify_all()
            self.events.put(Failure(None, error))

    @property
    def _goes_on(self) -> bool:
        """Return whether threads should go on; the program may end before it closes the engine."""
        return not self._is_stopped and threading.main_thread().is_alive()

    def _loop(self) -> None:
        """Encode and decode by turns: encode first what slots wait for, or free ones could take."""
        while self._goes_on:
            with self._lock:
                self._settle()
                used = self._used()
                recording = None
                if not used or any(slots.num_starving for slots in used):
                    recording = self._encoding.choose()
                elif all(slots.has_room for slots in used):
                    recording = self._encoding.choose(brings_pieces=True)
            if recording:
                self._encode(recording)
            elif not self._step():
                self._wait()

    def _encode_loop(self) -> None:
        while self._goes_on:
            with self._lock:
                recording = self._encoding.choose()
            if recording:
                self._encode(recording)
            else:
                self._wait()

    def _decode_loop(self) -> None:
        while self._goes_on:
            with self._lock:
                self._settle()
            if not self._step():
                began = perf_counter()
                self._wait()
                self.work.wait += perf_counter() - began

    def _wait(self) -> None:
        """Wait for a change; not for long, as it may have happened just before."""
        with self._lock:
            if not self._is_stopped:
                self._encoding.read_ahead(self._readers, self._tell)
                self._change.wait(0.02)

    def _used(self) -> list[Slots]:
        return [slots for slots in self._slots.values() if slots.runs]

    def _encode(self, recording: Recording) -> None:
        """Encode a recording's next call; a failure is its own."""
        try:
            embeds, seconds = self._encoding.encode(recording)
        except Exception as error:
            self.fail(recording, error)
            return
        with self._lock:
            self.work.encode += seconds
            recording.encode_seconds += seconds
            if embeds is None:
                recording.num_places = recording.num_encoded
                self._encoding.drop(recording)
            else:
                self._waiting.extend(recording.append(embeds))
                self.events.put(Encoded(recording))
            self._encoding.read_ahead(self._readers, self._tell)
            self._change.notify_all()

    def _settle(self) -> None:
        """Free what has failed, give embeddings to slots, and begin the pieces that are ready."""
        for recording in self._failed:
            self._encoding.drop(recording)
            recording.forget()
            for slots in self._slots.values():
                for run in recording.runs:
                    slots.drop(run)
            self._waiting = deque(run for run in self._waiting if run.recording is not recording)
            assert recording.error
            self.events.put(Failure(recording, recording.error))
        self._failed.clear()
        for index, slots in list(self._slots.items()):  # larger ones may be made
            for run in slots.outgrown:
                larger = self._slots_of(index + 1, run)
                if larger and larger.has_room:
                    slots.move(run, larger)
            slots.load()
        self._begin()

    def _begin(self) -> None:
        """Begin pieces that wait, in the order in which they came, as far as there are slots."""
        still = deque[PieceRun]()
        for run in self._waiting:
            if run.is_dropped or run.recording.error:
                continue
            slots = self._slots_of(self._size_of(run), run) if run.is_ready else None
            if slots and slots.has_room:
                slots.start(run)
            elif not run.recording.error:
                still.append(run)
        self._waiting = still

    def _next_run(self, index: int) -> PieceRun | None:
        """Return the first piece that waits for a slot of a size and is ready."""
        with self._lock:
            for run in self._waiting:
                is_lost = run.is_dropped or run.recording.error
                if not is_lost and run.is_ready and self._size_of(run) == index:
                    self._waiting.remove(run)
                    return run
        return None

    def _size_of(self, run: PieceRun) -> int:
        """Return the index of the smallest size of slots that holds all positions of a piece."""
        if run.stop is not None:
            return size_for(self.sizes, run.stop - run.piece.begin)
        audio, rules = self.model.manifest.config.audio, self.model.manifest.streaming
        seconds = run.recording.sound.source.duration
        tokens = int(seconds * audio.sample_rate / audio.samples_per_token) + 2  # rounded up
        pads = rules.left_pad_tokens + run.piece.num_delay_tokens + rules.right_pad_tokens
        return size_for(self.sizes, tokens + pads - run.piece.begin)

    def _slots_of(self, index: int, run: PieceRun) -> Slots | None:
        """Return the slots of a size, made when first needed; fewer if the memory is full."""
        while index not in self._slots:
            size, count = self.sizes[index], self._counts[index]
            try:
                self._slots[index] = Slots(
                    self.model,
                    size.spec,
                    count,
                    self._prefix,
                    may_shift=size.may_shift,
                    guard=self._guard,
                    is_exact=self._is_exact,
                    written=self._take,
                    take_next=partial(self._next_run, index),
                )
            except DeviceError as error:
                if count == 1:
                    self.fail(run.recording, error)
                    return None
                self._counts[index] = count // 2
                self.model.device.notes.append(
                    f"slots of {size.spec.capacity} positions: {count // 2} instead of {count} "
                    f"({error})"
                )
        return self._slots[index]

    def _step(self) -> bool:
        """Advance the slots of each size by a position; return whether any has advanced.

        Most slots of a size must have an embedding, if those of others are being made.
        """
        if perf_counter() - self._checked > CHECK_SECONDS:
            self.model.weights.require_unchanged()
            self._checked = perf_counter()
        has_stepped = False
        for slots in self._used():
            began, count = perf_counter(), len(slots.runs) - slots.num_starving
            if (
                self.model.device.overlaps
                and 2 * count < len(slots.runs)
                and self._encoding.is_busy
            ):
                continue
            try:
                is_any = slots.step()
            except Exception as error:  # all pieces share the call
                for run in list(slots.runs):
                    self.fail(run.recording, error)
                return True
            if is_any:
                has_stepped = True
                self.work.decode += perf_counter() - began
                self.work.steps += 1
                self.work.positions += count
        return has_stepped

    def _take(self, event: Burst | End) -> None:
        """Pass on what a slot has written; at its end, tell whether its piece goes on."""
        run = event.run
        if isinstance(event, End):
            with self._lock:
                right = run.recording.join(run) if event.has_spilled else None
                join = Join(run, right, run.piece.end) if right else None
                if event.end is None:  # perhaps before its audio ends
                    self._encoding.drop(run.recording)
            if join:
                self.events.put(join)
                return
            run.is_done = True
        self.events.put(event)
