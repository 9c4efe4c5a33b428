"""The engine: many recordings on one device, encoded ahead and decoded in lockstep.

A call of the decoder reads all weights, however many recordings it advances; a call of the encoder
is the more efficient the more audio it takes. So recordings are encoded one after the other in
large calls, ahead of their decoding, and decoded together, each in a slot of a common buffer. On a
GPU a thread encodes while another decodes; on the CPU one thread does both by turns. Threads that
read audio, and the caller's that makes text of tokens, work beside them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from time import perf_counter

from ...errors import UsageError
from ...threads import num_cores
from ..model import LoadedModel
from ..stream import silent_start
from .encoding import Encoding
from .live import LiveRecording, Ticker
from .pool import SlotPool
from .recording import FileRecording, Prefix, Recording
from .sizes import SlotSize
from .work import Jobs, Work
from .written import Burst, Encoded, End, Events, Failure, Join

CHECK_SECONDS = 1.0  # between two looks at whether the weights' files have changed
PATIENCE = 0.02  # seconds between two looks of a thread that waits for another
MOST_READERS = 8  # threads that read audio


class EngineLoop:
    """The threads that encode and decode the recordings of a loaded model in common slots."""

    def __init__(
        self,
        model: LoadedModel,
        sizes: list[SlotSize],
        num_delay_tokens: int,
        *,
        guard: bool,
        is_exact: bool,
        work: Work,
        ticker: Ticker | None = None,
    ):
        """Start the threads.

        Args:
            model: to compute with.
            sizes: of the slots.
            num_delay_tokens: of most recordings.
            guard: whether to make text likelier after many blanks.
            is_exact: whether close decisions are made again alone.
            work: to which its time is added.
            ticker: encodes live recordings; None for files only.

        Raises:
            DeviceError: the silence before all audio cannot be computed.
        """
        # Begin without recordings
        self.model, self.sizes, self.work, self.ticker = model, sizes, work, ticker
        self._prefixes = dict[tuple[int, bool], Prefix]()  # by delay, and whether live
        self._prefixes_lock = threading.Lock()
        # Behind the silence the state of the encoder is the same for all delays
        start = silent_start(model, num_delay_tokens, model.grid)
        self._encoding = Encoding(model, start, model.device.notes)
        # Taken directly: Ctrl-C between two lines of a condition's own methods would leave it taken
        self._lock = threading.RLock()
        self._change, self._is_stopped = threading.Condition(self._lock), False
        self._pool = SlotPool(
            model,
            sizes,
            guard=guard,
            is_exact=is_exact,
            lock=self._lock,
            written=self._take,
            fail=self.fail,
        )
        self._queues = list[Events]()
        self._encode_jobs, self._decode_jobs = Jobs(), Jobs()
        self._failed: list[Recording] = []
        self._forgotten = SimpleQueue[tuple[Recording, Exception]]()
        # A recording is to be read. Not by the thread that adds it, which Ctrl-C may reach between
        # two lines of an executor's own methods
        self._is_new = False
        self._failure: Failure | None = None  # that has ended the loop
        self._ending: Failure | None = None  # the same, or that it was closed
        self._checked = perf_counter()
        self._num_encoded = 0  # ticks, when slots were given their embeddings last
        self._readers = ThreadPoolExecutor(min(MOST_READERS, max(1, num_cores() // 2)), "reader")

        # Start the threads
        both = (self._decode_loop, self._encode_loop)
        loops = both if model.device.overlaps else (self._loop,)
        self._threads = [threading.Thread(target=self._guarded, args=(each,)) for each in loops]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> EngineLoop:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def close(self) -> None:
        """Stop the threads after the calls that run, and free everything.

        Whoever waits for events of recordings that have not ended gets a failure.
        """
        with self._lock:
            self._end(UsageError("the engine was closed"))
        for thread in self._threads:
            thread.join()
        self._readers.shutdown(cancel_futures=True)
        self._pool.close()
        self._encoding.release()
        self._prefixes.clear()
        self.model.device.release_memory()

    @property
    def failure(self) -> BaseException | None:
        """Return the error that has ended the loop; None while it runs."""
        return self._failure and self._failure.error

    def queue(self) -> Events:
        """Return a new queue for the events of recordings; the end of the loop comes to all."""
        with self._lock:
            self._queues.append(queue := Events())
            if self._ending:
                queue.put(self._ending)
            return queue

    def forget(self, queue: Events) -> None:
        """Hand nothing more on to a queue whose recordings have ended."""
        with self._lock:
            self._queues.remove(queue)

    def prefix(self, num_delay_tokens: int, *, is_live: bool) -> Prefix:
        """Return the state that recordings with a delay begin with, computed when first needed.

        Raises:
            DeviceError: it cannot be computed.
        """
        key, model = (num_delay_tokens, is_live), self.model
        with self._prefixes_lock:
            if key not in self._prefixes:
                start = silent_start(model, num_delay_tokens, None if is_live else model.grid)
                arrays = start.arrays.items()
                caches = [rows for name, rows in arrays if name.startswith("decoder_")]
                buffers = [model.device.buffer(rows) for rows in caches]
                self._prefixes[key] = Prefix(start.position.next_id, buffers)
            return self._prefixes[key]

    def add(self, recording: FileRecording | LiveRecording) -> None:
        """Take a recording; its tokens and its end, or its failure, come to its queue."""
        with self._lock:
            if isinstance(recording, LiveRecording):
                assert self.ticker
                self.ticker.add(recording)
            else:
                self._encoding.add(recording)
                self._is_new = True
            self._pool.add(recording.runs)
            self._change.notify_all()

    def prepare_live(self) -> int:
        """Make the slots for live recordings, and return how many there are.

        Raises:
            ArtifactError: the encoder's graph is damaged.
            DeviceError: there is no memory for one slot.
        """
        ticker = self.ticker
        assert ticker
        count = int(self._done(self._decode_jobs, lambda: self._pool.at(self._pool.last).count))
        return min(count, int(self._done(self._encode_jobs, lambda: ticker.encoder.slots)))

    def seconds_of_tick(self, count: int) -> float:
        """Return how long the calls of a tick take with so many live streams and full caches.

        Nothing may have been added yet. The calls are made by the threads that make them later.
        """
        ticker = self.ticker
        assert ticker
        tokens = ticker.tick_tokens
        return self._done(
            self._encode_jobs, lambda: ticker.encoder.seconds_of_call(count, tokens)
        ) + tokens * self._done(
            self._decode_jobs, lambda: self._pool.at(self._pool.last).seconds_of_call(count)
        )

    def _done(self, jobs: Jobs, work: Callable[[], float]) -> float:
        """Return the result of some work that the thread of some jobs does."""
        with self._lock:
            if self._ending:
                raise self._ending.error
            future = jobs.put(work)
            self._change.notify_all()
        return future.result()

    def fail(self, recording: Recording, error: Exception) -> None:
        """End a recording with an error; no other is affected, and another may take its place."""
        with self._lock:
            if recording.error is None:
                recording.error = error
                self._drop(recording)
                self._failed.append(recording)
                self._change.notify_all()

    def forget_recording(self, recording: Recording, error: Exception) -> None:
        """End a recording that nobody holds any more, soon.

        Garbage collection calls this between any two lines of any thread, so no lock is taken.
        """
        self._forgotten.put((recording, error))

    def _tell(self) -> None:
        with self._lock:
            self._change.notify_all()

    def _guarded(self, loop: Callable[[], None]) -> None:
        """Run a thread's loop; an error that belongs to no recording ends the engine."""
        try:
            loop()
        except BaseException as error:
            with self._lock:
                self._end(error)
                self._failure = self._ending

    def _end(self, error: BaseException) -> None:
        """Stop the threads, and tell all who wait for something."""
        self._is_stopped = True
        if self._ending is None:
            self._ending = Failure(None, error)
            for queue in self._queues:
                queue.put(self._ending)
            for jobs in (self._encode_jobs, self._decode_jobs):
                jobs.fail(error)
        self._change.notify_all()

    @property
    def _goes_on(self) -> bool:
        """Return whether threads should go on; the program may end before it closes the engine."""
        return not self._is_stopped and threading.main_thread().is_alive()

    def _loop(self) -> None:
        """Encode and decode by turns: live recordings first, then what slots wait for."""
        has_ticked = False  # and the decoder is to follow
        while self._goes_on:
            self._encode_jobs.run()
            self._decode_jobs.run()
            with self._lock:
                self._settle()
                used, recording = self._pool.used, None
                is_live = self._pool.num_live_ready > 0
                ticks = self._should_tick(is_live) and not (has_ticked and is_live)
                if ticks or is_live:
                    pass
                elif not any(s.num_ready for s in used) or any(s.num_starving for s in used):
                    recording = self._encoding.choose()
                elif all(slots.has_room for slots in used):
                    recording = self._encoding.choose(brings_pieces=True)
            has_ticked = ticks
            if ticks:
                self._tick()
            elif recording:
                self._encode(recording)
            elif not self._step():
                self._wait_for_tick()

    def _encode_loop(self) -> None:
        while self._goes_on:
            self._encode_jobs.run()
            with self._lock:
                is_live = self._pool.num_live_ready > 0
                ticks = self._should_tick(is_live)
                recording = None if ticks else self._encoding.choose()
            if ticks:
                self._tick()
            elif recording:
                self._encode(recording)
            else:
                self._wait_for_tick()

    def _decode_loop(self) -> None:
        while self._goes_on:
            self._decode_jobs.run()
            with self._lock:
                self._settle()
            if not self._step():
                began = perf_counter()
                self._wait(PATIENCE)
                self.work.wait += perf_counter() - began

    def _wait_for_tick(self) -> None:
        """Wait for a change or the next tick."""
        left = self.ticker.seconds_left() if self.ticker else None
        self._wait(PATIENCE if left is None else min(PATIENCE, left))

    def _wait(self, seconds: float) -> None:
        """Wait for a change; not for long, as it may have happened just before."""
        with self._lock:
            if not self._is_stopped:
                self._encoding.read_ahead(self._readers, self._tell)
                self._change.wait(seconds)

    def _should_tick(self, is_live: bool) -> bool:
        """Return whether to encode what has come; `is_live` says whether the decoder is behind."""
        ticker = self.ticker
        if ticker is None:
            return False
        return ticker.seconds_left() == 0 or (ticker.may_catch_up and not is_live)

    def _tick(self) -> None:
        """Encode what has come of live recordings; if that fails, those of the call are lost."""
        ticker = self.ticker
        assert ticker
        chosen = ticker.choose()
        while ticker.refused:
            self.fail(*ticker.refused.pop())
        try:
            encoded = ticker.encode(chosen) if chosen else []
        except Exception as error:
            for each in chosen:
                self.fail(each, error)
            return
        with self._lock:
            for recording, embeds in encoded:
                recording.append(embeds)
                recording.forget()
            if encoded:
                ticker.note_encoded()
                self._change.notify_all()

    def _encode(self, recording: FileRecording) -> None:
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
                self._pool.add(recording.append(embeds))
                recording.events.put(Encoded(recording))
            self._encoding.read_ahead(self._readers, self._tell)
            self._change.notify_all()

    def _settle(self) -> None:
        """Free what has failed, give embeddings to slots, and begin the pieces that are ready."""
        if self._is_new:
            self._is_new = False
            self._encoding.read_ahead(self._readers, self._tell)
        while not self._forgotten.empty():
            self.fail(*self._forgotten.get())
        for recording in self._failed:
            recording.forget()
            self._pool.drop(recording)
            assert recording.error
            recording.events.put(Failure(recording, recording.error))
        self._failed.clear()
        self._pool.settle()
        self._num_encoded = self.ticker.num_encoded if self.ticker else 0

    def _drop(self, recording: Recording) -> None:
        """Encode no more of a recording."""
        if isinstance(recording, FileRecording):
            self._encoding.drop(recording)
        elif isinstance(recording, LiveRecording) and self.ticker:
            self.ticker.drop(recording)

    def _step(self) -> bool:
        """Advance the slots of each size by a position; return whether any has advanced.

        Most slots of a size must have an embedding, if those of others are being made.
        """
        if perf_counter() - self._checked > CHECK_SECONDS:
            self.model.weights.require_unchanged()
            self._checked = perf_counter()
        has_stepped = False
        for slots in self._pool.used:
            began, count = perf_counter(), slots.num_ready
            is_worth = 2 * count >= len(slots.runs) or slots.num_live_ready
            if self.model.device.overlaps and not is_worth and self._encoding.is_busy:
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
        if self.ticker:
            self.ticker.note_step(self._num_encoded, is_idle=not self._pool.num_live_ready)
        return has_stepped

    def _take(self, event: Burst | End) -> None:
        """Pass on what a slot has written; at its end, tell whether its piece goes on."""
        run = event.run
        if isinstance(event, End):
            with self._lock:
                right = run.recording.join(run) if event.has_spilled else None
                join = Join(run, right, run.piece.end) if right else None
                if event.end is None:  # perhaps before its audio ends
                    self._drop(run.recording)
            if join:
                run.recording.events.put(join)
                return
            run.is_done = True
        run.recording.events.put(event)
