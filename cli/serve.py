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
    wyoming: serve_options.Wyoming = None,
    drain: serve_options.Drain = 30.0,
    precision: serve_options.ServedPrecisions = None,
    model_name: serve_options.ModelName = None,
    realtime_dialect: serve_options.RealtimeDialect = "auto",
    offline: options.Offline = False,
    device: serve_options.ServedDevices = "auto",
    slots: serve_options.Slots = "auto",
    tick: serve_options.Tick = 80,
    context: options.Context = 1024,
    threads: options.Threads = None,
    engine: serve_options.ServedEngine = "local",
    replicas: serve_options.Replicas = None,
    address: options.Address = None,
    api_key: serve_options.ApiKey = None,
    api_key_file: serve_options.ApiKeyFile = None,
    insecure: serve_options.Insecure = False,
    allowed_origin: serve_options.AllowedOrigins = None,
    limits: serve_options.Limits = None,
) -> None:
    """Serve OpenAI's API for transcription, and open a page that transcribes in the browser.

    For the API the model runs here. Ctrl-C ends it when the recordings that it has are done.
    """
    from .replicas import serve_replicas
    from .serving import Served, find_keys, serve_here
    from .streams import claim_stdout
    from .values import REQUEST_LIMITS, split_names

    # Check the parts and the keys before a model is looked for
    asked = Served(
        artifact=artifact,
        precisions=split_names(precision),
        model_name=model_name,
        offline=offline,
        devices=split_names(device) or [],
        threads=threads,
        engine={"slots": slots, "tick_ms": tick, "context": context},
        has_page=not api_only,
        has_api=not page_only,
        host=host,
        port=port,
        https=https,
        opens=not no_open,
        wyoming=wyoming,
        allowed_artifacts=allow_artifacts or (),
        allowed_hosts=(host, *(allowed_host or ())),
        allowed_origins=allowed_origin or (),
        dialect=realtime_dialect,
        limits=limits or REQUEST_LIMITS,
        drain=drain,
    )
    asked.check(insecure=insecure)
    keys = find_keys(page_only, host, api_key, api_key_file, insecure=insecure)
    claim_stdout(is_only_place=False)
    if engine == "ray":
        serve_replicas(asked, keys, replicas, address)
    elif replicas or address:
        raise UsageError("--replicas and --address are of a cluster: add --engine ray")
    else:
        serve_here(asked, keys)
