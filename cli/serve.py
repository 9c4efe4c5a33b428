"""The command `voxtral-onnx serve`: a page, and an API, on this machine."""

from __future__ import annotations

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
    api_key: serve_options.ApiKey = None,
    api_key_file: serve_options.ApiKeyFile = None,
    insecure: serve_options.Insecure = False,
    allowed_origin: serve_options.AllowedOrigins = None,
    limits: serve_options.Limits = None,
) -> None:
    """Serve OpenAI's API for transcription, and open a page that transcribes in the browser.

    For the API the model runs here. Ctrl-C ends it when the recordings that it has are done.
    """
    from contextlib import ExitStack
    from functools import partial

    from . import serving
    from .models import find_model
    from .packages import require_extra
    from .streams import claim_stdout
    from .values import REQUEST_LIMITS, split_names

    with require_extra("serve", serving.INSTALL):
        from ..server.app import build_app
        from ..server.page.files import PRECISIONS
        from ..server.serving import listen
        from ..server.serving import serve as run_server

    # Find the artifact and the keys, and take the port: checking a large artifact takes a while
    serving.check_parts(page_only, api_only, wyoming, insecure=insecure)
    claim_stdout(is_only_place=False)
    names, most = split_names(precision), limits or REQUEST_LIMITS
    keys = serving.find_keys(page_only, host, api_key, api_key_file, insecure=insecure)
    folder = find_model(artifact, names or list(PRECISIONS[:1]), offline)
    with ExitStack() as stack:
        listening = stack.enter_context(listen(host, port))
        beside = wyoming and stack.enter_context(listen(*wyoming, option="--wyoming"))
        site = None if api_only else serving.find_site(folder, names, allow_artifacts or ())

        # Load the model, and serve until Ctrl-C
        engines = lack = None
        if not page_only:
            engine = {"slots": slots, "tick_ms": tick, "context": context}
            engine |= {"is_needed": bool(api_only or wyoming), "most_seconds": 3600 * most["audio"]}
            opened = serving.open_engines(folder, split_names(device) or [], names, **engine)
            engines, lack = stack.enter_context(opened)
        name, hosts = model_name or serving.name_of(folder), (host, *(allowed_host or ()))
        access = {"keys": keys, "allowed_hosts": hosts, "allowed_origins": allowed_origin or ()}
        rules = {**access, "limits": serving.request_limits(most), "dialect": realtime_dialect}
        app = build_app(engines, site, model_name=name, lack=lack, **rules)
        shown = {"https": https, "model": name if engines else None, "page": not api_only}
        says = partial(serving.announce, host, **shown, opens=not no_open)
        times = {"drain_seconds": drain, "header_seconds": most["header"]}
        others = {"wyoming": serving.wyoming_server(engines, name, beside), **times}
        run_server(app, listening, engines=engines, https=https, on_ready=says, **others)
