"""The command `voxtral-onnx serve`: a page, and an API, on this machine."""

from __future__ import annotations

from ..errors import UsageError
from . import options, serve_options


def serve(
    artifact: options.Artifact = None,
    page_only: serve_options.PageOnly = False,
    api_only: serve_options.ApiOnly = False,
    host: options.Host = "127.0.0.1",
    port: options.Port = 8000,
    https: options.Https = False,
    allowed_host: options.AllowedHosts = None,
    allow_artifacts: options.AllowedArtifacts = None,
    no_open: options.NoOpen = False,
    drain: serve_options.Drain = 30.0,
    precision: serve_options.ServedPrecisions = None,
    model_name: serve_options.ModelName = None,
    offline: options.Offline = False,
    device: serve_options.ServedDevices = "auto",
    slots: serve_options.Slots = "auto",
    tick: serve_options.Tick = 80,
    context: options.Context = 1024,
) -> None:
    """Serve OpenAI's API for transcription, and open a page that transcribes in the browser.

    For the API the model runs here. Ctrl-C ends it when the recordings that it has are done.
    """
    from contextlib import ExitStack
    from functools import partial

    from .models import find_model
    from .serving import announce, find_site, name_of, open_engines, require_packages
    from .streams import claim_stdout
    from .values import split_names

    with require_packages():
        from ..server.app import build_app
        from ..server.page import PRECISIONS
        from ..server.serving import listen
        from ..server.serving import serve as run_server

    # Find the artifact, and take the port: checking a large one takes a while
    if page_only and api_only:
        raise UsageError("--page-only and --api-only exclude each other; without, both are served")
    claim_stdout(is_only_place=False)
    names, devices = split_names(precision), split_names(device)
    folder = find_model(artifact, names or list(PRECISIONS[:1]), offline)
    with ExitStack() as stack:
        listening = stack.enter_context(listen(host, port))
        site = None if api_only else find_site(folder, names, allow_artifacts or ())

        # Load the model, and serve until Ctrl-C
        engines = lack = None
        if not page_only:
            options_of_engines = {"slots": slots, "tick_ms": tick, "context": context}
            engines, lack = stack.enter_context(
                open_engines(folder, devices, names, is_needed=api_only, **options_of_engines)
            )
        name = model_name or name_of(folder)
        hosts = (host, *(allowed_host or ()))
        app = build_app(engines, site, model_name=name, allowed_hosts=hosts, lack=lack)
        shown = {"https": https, "model": name if engines else None, "page": not api_only}
        says = partial(announce, host, **shown, opens=not no_open)
        run_server(app, listening, engines=engines, https=https, drain_seconds=drain, on_ready=says)
