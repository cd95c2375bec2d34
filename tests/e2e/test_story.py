"""The demo's path on the real cluster: label, checkpoint in S3, Lightning fine-tuning run, and three wrong things.

The namespace enforces Pod Security `restricted` and a quota on CPU and memory: every pod here passed both.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo import story
from e2e import kubectl_preheat
from preheat_operator.quantity import parse_quantity

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("checkpoint")


@pytest.fixture(scope="module")
def checkpoint(platform, work) -> dict[str, str]:
    return story.make_checkpoint(platform, work)


def test_the_source_is_known_before_any_pod_asks_for_it(platform, checkpoint):
    # Of the loaders that this one gets, each would take minutes: there is one in a test below.
    story.declare_pipeline(platform, name="early", spec={"loader": {"bandwidth": "1M"}, "volume": {}})
    story.wait_until(lambda: story.ready(platform, "early") == ("True", "Checked"), "the check of the source")
    status = story.pipeline_status(platform, "early")
    assert status["pods"]["matched"] == 0
    assert status["source"]["selectedBytes"] < status["source"]["sizeBytes"] / 2.5
    assert status["check"]["version"] == status["source"]["version"]


def test_a_running_loader_is_followed_and_its_volume_is_as_large_as_the_bundle_needs(platform, checkpoint):
    """The controller's pod asks the training's pod, over the cluster's network, with the chart's rights."""
    story.declare_job(platform, name="early", pipeline="early")
    story.wait_until(lambda: story.pipeline_status(platform, "early").get("progress"), "an answer of the loader")
    status = story.pipeline_status(platform, "early")
    [loader] = status["progress"]["loaders"]
    assert (loader["phase"], loader["bytesTotal"]) == ("transferring", status["source"]["selectedBytes"])
    assert 0 < loader["bytesDone"] < loader["bytesTotal"]
    [loading] = [c for c in status["conditions"] if c["type"] == "Loading"]
    assert (loading["status"], loading["reason"]) == ("True", "Loading")
    assert status["progress"]["summary"] in platform.kubectl(
        "-n", story.NAMESPACE, "get", "ckpt", "early", "-o", "wide"
    )
    pods = json.loads(platform.kubectl("-n", story.NAMESPACE, "get", "pods", "-l", "job-name=early", "-o", "json"))
    [volume] = [v for v in pods["items"][0]["spec"]["volumes"] if v["name"] == "preheat"]
    assert parse_quantity(volume["emptyDir"]["sizeLimit"]) > 2 * status["check"]["outputBytes"]
    platform.kubectl("-n", story.NAMESPACE, "delete", "job", "early", "--wait=false")


def test_a_wrong_key_is_told_before_any_pod_asks_for_it(platform, checkpoint):
    story.declare_pipeline(platform, name="early-mistake", key="checkpoints/nothing-here.ckpt")
    story.wait_until(lambda: story.ready(platform, "early-mistake") == ("False", "NotFound"), "the check of the source")
    [ready] = [c for c in story.pipeline_status(platform, "early-mistake")["conditions"] if c["type"] == "Ready"]
    assert "nothing-here.ckpt" in ready["message"]


@pytest.fixture(scope="module")
def training(platform, checkpoint) -> story.Training:
    return story.finetune(platform)


def test_the_loader_is_injected_with_a_small_limit_that_holds(training):
    loader = next(c for c in training.pod["spec"]["initContainers"] if c["name"] == "preheat-loader")
    assert loader["resources"]["limits"]["memory"] == "128Mi"
    [status] = [s for s in training.pod["status"]["initContainerStatuses"] if s["name"] == "preheat-loader"]
    assert status["state"]["terminated"]["exitCode"] == 0
    assert status["restartCount"] == 0


def test_the_loader_left_the_optimizers_state_behind(training):
    [status] = [s for s in training.pod["status"]["initContainerStatuses"] if s["name"] == "preheat-loader"]
    outcome = json.loads(status["state"]["terminated"]["message"])
    assert outcome["outcome"] == "loaded"
    assert outcome["fetchedBytes"] < outcome["source"]["sizeBytes"] / 2.5


def test_weights_are_in_before_the_first_step_and_frozen_ones_stay(training, checkpoint):
    story.compare(training, checkpoint)


def test_the_report_names_what_kept_its_initial_value(training):
    [line] = [line for line in training.training_log.splitlines() if line.startswith("preheat.report ")]
    report = json.loads(line.removeprefix("preheat.report "))
    assert set(report["leftInitial"]) == {"head.weight", "head.bias"}


def test_the_status_tells_source_version_sizes_and_pods(platform, training):
    status = story.show_status(platform)
    [ready] = [c for c in status["conditions"] if c["type"] == "Ready"]
    assert ready["status"] == "True"
    assert status["source"]["uri"] == "s3://models/checkpoints/language-model.ckpt"
    assert status["source"]["version"]
    assert status["source"]["selectedBytes"] < status["source"]["sizeBytes"]
    assert status["pods"]["loaded"] >= 1


def test_a_second_pod_on_the_claim_finds_the_bundle(platform, training):
    again = story.second_pod(platform)
    [status] = [s for s in again.pod["status"]["initContainerStatuses"] if s["name"] == "preheat-loader"]
    outcome = json.loads(status["state"]["terminated"]["message"])
    assert outcome["outcome"] == "reused"
    assert again.before == training.before


def test_a_label_that_names_no_pipeline_is_refused_by_name(platform):
    message = story.unknown_pipeline(platform)
    assert "finetuen" in message
    assert "finetune" in message.replace("finetuen", "")  # the pipelines there are


def test_a_wrong_key_is_told_by_pod_and_resource(platform, checkpoint):
    failure = story.wrong_key(platform)
    assert failure["reason"] == "NotFound"
    assert "nothing-here.ckpt" in failure["message"]


def test_a_truncated_checkpoint_is_refused_with_its_byte_range(platform, checkpoint, work):
    failure = story.truncated(platform, work)
    assert failure["reason"] == "Truncated"
    assert "byte" in failure["message"]


def test_kubectl_preheat_says_what_became_of_the_training(platform, training):
    found = kubectl_preheat.explained(platform, "job/finetune")
    [pod] = [each for each in found.values() if each.get("workload") == "job/finetune"]
    assert (pod["verdict"], pod["loader"]["phase"]) == ("injected", "loaded")
    assert found["job/finetune"]["given"]["version"] == pod["loader"]["version"]
    assert found["job/finetune"]["settingsFrom"] == "deployment preheat-system/preheat-webhook"
    assert found["job/finetune"]["given"]["image"] == pod["given"]["image"]


def test_kubectl_preheat_finds_a_forgotten_label_and_a_missed_pod(platform, training):
    kubectl_preheat.forget_the_label(platform)
    kubectl_preheat.make_a_missed_pod(platform)
    found = kubectl_preheat.explained(platform, "deployment/forgotten", "pod/missed")
    assert found["deployment/forgotten"]["rule"] == "LabelOnWorkload"
    assert found["deployment/forgotten"]["remedy"] == "Move it to spec.template.metadata.labels"
    assert (found["pod/missed"]["verdict"], found["pod/missed"]["rule"]) == ("missed", "NotSeen")
    code, status = kubectl_preheat.preheat(platform, "status", "finetune")
    assert code == 0
    assert {each["name"]: each["loader"]["phase"] for each in status["pods"]}["missed"] == "missed"


def test_kubectl_preheat_tells_a_viewer_what_it_may_not_read(platform, training, tmp_path):
    viewer = kubectl_preheat.as_a_viewer(platform, tmp_path)
    found = kubectl_preheat.explained(platform, "job/finetune", "--kubeconfig", viewer)["job/finetune"]
    assert found["verdict"] == "injected"
    assert "MutatingWebhookConfigurations" in " ".join(found["notes"])
    assert found["settingsFrom"] == "the chart's defaults"
