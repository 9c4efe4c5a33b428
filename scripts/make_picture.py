"""Draw docs/terminal.svg: the real output of a command that turns a recording into subtitles.

Usage: python scripts/make_picture.py
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
SAMPLES = ROOT / "assets" / "tiny" / "samples"
COMMAND = "transcribe", "--model", "tiny", "long-mixed.wav", "-f", "srt"
COLUMNS, CUES = 72, 5  # width of the terminal in characters, subtitles shown


def main() -> None:
    """Run the command and write the picture."""
    program = Path(sys.executable).with_name("voxtral-onnx")
    run = subprocess.run([program, *COMMAND], cwd=SAMPLES, check=True, capture_output=True)
    cues = run.stdout.decode().split("\n\n")[:CUES]

    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.assemble(("$ ", "bold green"), f"voxtral-onnx {' '.join(COMMAND)}"))
    for cue in cues:
        number, times, *lines = cue.strip().split("\n")
        console.print(Text(number, "dim"), Text(times, "cyan"), sep="\n")
        console.print(Text("\n".join(lines), "bold"), end="\n\n")
    console.print(Text("…", "dim"))
    svg = console.export_svg(title="voxtral-onnx", theme=MONOKAI, unique_id="terminal")
    # The picture uses a font of the reader's system, so that it loads nothing from elsewhere
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code, monospace", "ui-monospace, Menlo, Consolas, monospace")
    (ROOT / "docs" / "terminal.svg").write_text(svg, "utf-8")


if __name__ == "__main__":
    main()
