"""The manifests of deploy/: what Kubernetes' schemas, Ray's and our own settings say of them."""

# Packages that have an environment of their own, see make test-ray
# pyright: reportMissingImports=false
from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from voxtral_onnx.errors import UsageError

pytestmark = pytest.mark.ray
DEPLOY = Path(__file__).parents[2] / "deploy"
KEY = "a key of more than sixteen letters".replace(" ", "-")


def validate(resource: dict) -> None:
    """Hold a resource against the newest schema, in which nothing unknown is allowed."""
    import kubernetes_validate

    kubernetes_validate.validate(resource, kubernetes_validate.latest_version(), strict=True)


def service() -> dict:
    return yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())["spec"]


def config() -> dict:
    return yaml.safe_load(service()["serveConfigV2"])


def test_kubernetes_takes_the_manifests():
    found = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
    for resource in found:
        validate(resource)
    assert [each["kind"] for each in found] == ["Service", "Deployment", "PodDisruptionBudget"]
    with pytest.raises(Exception, match="unknown"):
        validate(found[0] | {"unknown": 1})


def test_the_command_takes_its_options(run):
    """Of the pod, but for the model and the device."""
    _, deployment, _ = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    options = [*container["args"][1:], "--offline"]
    drain = float(options[options.index("--drain") + 1])
    assert pod["terminationGracePeriodSeconds"] > drain
    run("serve", "/nothing", *options, "--api-key", KEY).assert_refused(4, "/nothing")


def test_kubernetes_takes_the_pods_of_ray():
    cluster = service()["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        kind = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "a"}}
        validate(kind | {"template": group["template"]})


def test_ray_and_the_replicas_take_the_configuration(monkeypatch):
    from voxtral_onnx.cluster import streams

    parsed = streams.serve.schema.ServeDeploySchema.model_validate(config())
    (application,) = parsed.applications
    module, _, name = application.import_path.partition(":")
    assert getattr(streams, name) is streams.app and module == streams.__name__
    with pytest.raises(UsageError, match="everybody in the network"):
        streams.app(application.args)

    monkeypatch.setenv("VOXTRAL_ONNX_API_KEYS", KEY)
    deployment = streams.app(application.args)._bound_deployment
    slots, workers = application.args["slots"], service()["rayClusterConfig"]["workerGroupSpecs"][0]
    scaling = deployment._deployment_config.autoscaling_config
    assert scaling.max_replicas == workers["maxReplicas"]
    assert scaling.min_replicas == workers["minReplicas"]
    assert scaling.target_ongoing_requests == 0.75 * slots
    assert slots < deployment.max_ongoing_requests < 2 * slots
    assert deployment.ray_actor_options == {"num_cpus": 4, "num_gpus": 1}
    grace = workers["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace > deployment._deployment_config.graceful_shutdown_timeout_s


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slot": 3}, "slot"),
        ({"slots": "many"}, "slots"),
        ({"device": "webgpu"}, "device"),
        ({"slots": "auto"}, "number of streams that a replica takes"),
        ({"min_replicas": 20}, "got 20-16"),
    ],
)
def test_settings_that_are_none(monkeypatch, change, said):
    from voxtral_onnx.cluster import streams

    monkeypatch.setenv("VOXTRAL_ONNX_API_KEYS", KEY)
    with pytest.raises(UsageError, match=said):
        streams.app(config()["applications"][0]["args"] | change)
