"""The program `voxtral-onnx`: its commands, and the exit codes of errors."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from .._version import __version__
from .bench import bench
from .bundle import bundle
from .diff import diff
from .doctor import doctor
from .ending import code_of, finish, orderly_stops
from .evaluate import evaluate
from .export import export
from .inspect import inspect
from .listen import listen
from .publish import publish
from .quantize import quantize
from .serve import serve
from .spellings import (
    ArtifactCommand,
    ListenCommand,
    Program,
    TranscribeCommand,
    with_hyphens,
)
from .streams import own_streams
from .terminal import info, own_messages, print_error, write_line
from .transcribe import transcribe
from .verify import verify

BUILD, RUN, INSPECT = "Build", "Run", "Inspect"
UsageException: Any = typer.BadParameter.__base__  # typer does not export it

app = typer.Typer(
    cls=Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": with_hyphens,  # option names may have underscores, as whisper's
    },
    help="Export Voxtral Mini 4B Realtime to 4-bit ONNX, and transcribe with it on this machine.",
)
app.command(rich_help_panel=RUN, cls=TranscribeCommand)(transcribe)
app.command(rich_help_panel=RUN, cls=ListenCommand)(listen)
app.command(rich_help_panel=RUN, cls=ArtifactCommand)(serve)
app.command(rich_help_panel=BUILD)(export)
app.command(rich_help_panel=BUILD)(quantize)
app.command(rich_help_panel=BUILD, cls=ArtifactCommand)(bundle)
app.command(rich_help_panel=BUILD, cls=ArtifactCommand)(publish)
app.command(rich_help_panel=INSPECT, cls=ArtifactCommand)(inspect)
app.command(rich_help_panel=INSPECT, cls=ArtifactCommand)(verify)
app.command(rich_help_panel=INSPECT)(diff)
app.command(rich_help_panel=INSPECT)(evaluate)
app.command(rich_help_panel=INSPECT, cls=ArtifactCommand)(bench)
app.command(rich_help_panel=INSPECT, cls=ArtifactCommand)(doctor)


def _print_version(wanted: bool) -> None:
    if wanted:
        write_line(f"voxtral-onnx {__version__}")
        raise typer.Exit


Version = typer.Option(
    "--version",
    metavar="",
    callback=_print_version,
    is_eager=True,
    help="Print the version and exit.",
)


@app.callback()
def options(version: Annotated[bool, Version] = False) -> None:
    """Accept the options that stand before a command."""


def main() -> None:
    """Run the command line; an error becomes one line on stderr and an exit code."""
    own_streams()
    own_messages()
    sys.exit(finish(_run()))


def _run() -> int:
    """Run the command that was asked for, and return the exit code."""
    try:
        with orderly_stops():
            return app(prog_name="voxtral-onnx", standalone_mode=False) or 0
    except UsageException as error:
        _print_misuse(error)
        return error.exit_code
    except BaseException as error:
        return code_of(error)


def _print_misuse(error: Any) -> None:
    """Print a usage error of the option parser, with a pointer to the help."""
    if not (message := error.format_message()):
        return  # no arguments at all: the parser has shown the help
    print_error(message)
    if error.ctx:
        info(error.ctx.get_usage())
        info(f"Try '{error.ctx.command_path} --help' for help.")
