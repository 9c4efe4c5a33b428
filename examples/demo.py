"""Transcribe two sample clips with the embedded model and compare with their stored transcripts."""

import json
import sys
from pathlib import Path

from voxtral_onnx import Transcriber

SAMPLES = Path(__file__).parent.parent / "assets" / "tiny" / "samples"
CLIPS = ("date-hibari.wav", "command-hibari.wav")

stored = {
    sample["file"]: sample["text"]
    for sample in json.loads((SAMPLES / "transcripts.json").read_text())["samples"]
}
all_equal = True
with Transcriber("tiny") as transcriber:
    for clip in CLIPS:
        transcript = transcriber.transcribe(SAMPLES / clip)
        is_equal = transcript.text == stored[clip]
        all_equal &= is_equal
        print(f"{clip}: {transcript.text}")
        print(
            f"  {'as stored' if is_equal else 'stored: ' + stored[clip]}, RTF "
            f"{transcript.info['rtf']}"
        )
sys.exit(0 if all_equal else 1)
