"""The command `voxtral-onnx serve`, which serves the page on this machine."""

from __future__ import annotations

import threading

from . import options
from .terminal import info, write_line


def serve(
    artifact: options.Artifact = None,
    precision: options.PagePrecisions = None,
    offline: options.Offline = False,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    https: options.Https = False,
    allowed_host: options.AllowedHosts = None,
    allow_artifacts: options.AllowedArtifacts = None,
    no_open: options.NoOpen = False,
) -> None:
    """Serve and open a page that transcribes in the browser; the model runs there."""
    import webbrowser
    from contextlib import ExitStack

    from ..server.app import LOCAL
    from ..server.app import serve as run_server
    from ..server.page import PRECISIONS, absent_precisions
    from .models import find_model
    from .progress import StatusSpinner
    from .streams import claim_stdout, is_taken_by_stdout
    from .values import split_names

    # Find the artifact
    claim_stdout(is_only_place=False)
    names = split_names(precision)
    folder = find_model(artifact, names or list(PRECISIONS[:1]), offline)
    if names is None and (absent := absent_precisions(folder)):
        info(
            f"{', '.join(absent)} is not here; browsers without float16 on the GPU need it: "
            f"--precision {','.join(PRECISIONS)}"
        )

    def ready(address: str) -> None:
        until_ready.close()
        write_line(address)
        if not is_taken_by_stdout():
            info(address)
        if not https and host not in LOCAL:
            page = "a page without https"
            info(f"browsers of other devices give {page} no microphone and no GPU; add --https")
        if not no_open:
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    # Check the files, and serve until Ctrl-C
    with ExitStack() as until_ready:
        steps = until_ready.enter_context(StatusSpinner())
        steps.show("comparing the files with their hashes")
        run_server(
            folder,
            host,
            port,
            precisions=names,
            https=https,
            allowed_hosts=allowed_host or (),
            allowed_artifacts=allow_artifacts or (),
            on_ready=ready,
        )
