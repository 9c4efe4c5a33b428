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
    api_key: serve_options.ApiKey = None,
    api_key_file: serve_options.ApiKeyFile = None,
    insecure: serve_options.Insecure = False,
    allowed_origin: serve_options.AllowedOrigins = None,
    limits: serve_options.Limits = None,
) -> None:
    """Serve OpenAI's API for transcription, and open a page that transcribes in the browser.

    For the API the model runs here. Ctrl-C ends it when the recordings that it has are done.
    """
    from .serving import Access, Serving, run
    from .values import REQUEST_LIMITS, split_names

    if page_only and api_only:
        raise UsageError("--page-only and --api-only exclude each other; without, both are served")
    access = Access(
        (host, *(allowed_host or ())),
        tuple(allowed_origin or ()),
        tuple(allow_artifacts or ()),
        limits or REQUEST_LIMITS,
    )
    keys = None if page_only else (api_key or (), api_key_file, insecure)
    engine = {"slots": slots, "tick_ms": tick, "context": context}
    names, devices = split_names(precision), split_names(device) or []
    has = Serving(not page_only, not api_only, https, not no_open, drain)
    run(artifact, host, port, has, access, keys, names, devices, model_name, offline, engine)
