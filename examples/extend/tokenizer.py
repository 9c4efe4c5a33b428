"""Another tokenizer: text in capitals, as subtitles want it.

Run it: python examples/extend/tokenizer.py ARTIFACT CLIP
"""

import sys

from voxtral_onnx import Transcriber
from voxtral_onnx.runtime.tokenizer import Tokenizer


class Capitals(Tokenizer):
    """A tokenizer has bytes_of and decode; a character's bytes may come from several tokens, so only ASCII changes."""

    def bytes_of(self, token_id: int) -> bytes:
        """The token's bytes, none for a special token."""
        return super().bytes_of(token_id).upper()


if __name__ == "__main__":
    with Transcriber(sys.argv[1]) as transcriber:
        transcriber.tokenizer = Capitals(transcriber.folder / "tekken.json", transcriber.manifest.tokens)
        for segment in transcriber.transcribe(sys.argv[2]):
            print(f"{segment.end:6.2f} {segment.text}")
