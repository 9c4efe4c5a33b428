"""Open the journals of the files of one run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .outputs import Outputs, is_stream, shown_name
from .terminal import info

if TYPE_CHECKING:
    from ..runtime.audio.files import AudioSource
    from ..runtime.journal import Header, Journal
    from ..runtime.transcriber import Transcriber

# Options of `Transcriber` that do not change the text, so that a journal stays valid
NOT_IN_JOURNAL = {"offline", "device", "allow_fallback", "threads", "batch_size"}


@dataclass(frozen=True)
class Journals:
    """The journals of a run's files; without a folder for outputs they keep nothing."""

    transcriber: Transcriber
    outputs: Outputs
    options: dict[str, Any]  # that the transcriber was made with
    sound: dict[str, Any]  # options of `open_audio`
    split: bool  # whether long files are decoded in pieces, if the batch size allows it
    resume: bool  # continue those that are there

    def open(
        self, source: AudioSource, path: str, name: str, say: Callable[[str], None]
    ) -> tuple[str, Journal]:
        """Open and lock the journal of a file.

        Args:
            source: the file, opened.
            path: as it was named.
            name: of its outputs.
            say: called with a sentence on a journal that was there.

        Returns:
            the name of its outputs, which is another for a stream if that was taken, and the
            journal.

        Raises:
            StorageError: as `open_journal`.
        """
        from ..runtime.journal import Journal, claim_journal, journal_path, open_journal

        manifest, folder = self.transcriber.manifest, self.outputs.folder
        if folder is None or source.parts:  # a journal holds one stream, not several channels
            return name, Journal()
        header = self._header(source, path)
        if header.is_stream:
            return claim_journal(folder, name, header, self.outputs.is_taken, info, manifest.tokens)
        journal = open_journal(
            journal_path(folder, name),
            manifest,
            self.transcriber.model.grid,
            header,
            resume=self.resume,
            say=say,
        )
        return name, journal

    def _header(self, source: AudioSource, path: str) -> Header:
        """Return the header of a file's journal: all that its text depends on."""
        from ..runtime.journal import Header, fingerprint
        from ..runtime.recordings import LONG_SECONDS

        transcriber, model = self.transcriber, self.transcriber.model
        options = {k: v for k, v in self.options.items() if k not in NOT_IN_JOURNAL}
        options |= self.sound | {
            "precision": transcriber.precision,
            "encoder_call": model.grid.chunk,
        }
        if self.split and transcriber.batch_size != 1 and source.duration > LONG_SECONDS:
            options["split"] = True
        return Header(
            1,
            shown_name(path),
            *fingerprint(Path(path)),
            model=model.identity(transcriber.num_delay_tokens, model.grid),
            options=json.loads(json.dumps(options, default=str)),
            is_stream=is_stream(path),
        )
