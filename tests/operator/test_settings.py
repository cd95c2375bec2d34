"""Settings: the defaults, every variable, and refusals that name what is wrong."""

import pytest

from preheat_operator.settings import Settings, SettingsError

REQUIRED = {"PREHEAT_NAMESPACE": "preheat-system", "PREHEAT_LOADER_IMAGE": "example.org/loader:1"}


def test_two_variables_are_enough() -> None:
    settings = Settings.from_environment(REQUIRED)
    assert (settings.namespace, settings.loader_image) == ("preheat-system", "example.org/loader:1")
    assert (settings.port, settings.health_port, settings.log_format) == (8443, 8080, "json")
    assert settings.loader_resources["limits"] == {"cpu": "1", "memory": "128Mi"}


def test_every_field_is_a_variable() -> None:
    settings = Settings.from_environment(
        REQUIRED
        | {
            "PREHEAT_SERVICE_NAME": "hook",
            "PREHEAT_SECRET_NAME": "pair",
            "PREHEAT_WEBHOOK_CONFIGURATION_NAME": "pods.preheat",
            "PREHEAT_CERTIFICATES": "given",
            "PREHEAT_INJECTION": "policy",
            "PREHEAT_PORT": "9443",
            "PREHEAT_HEALTH_PORT": "9080",
            "PREHEAT_IMAGE_PULL_POLICY": "Always",
            "PREHEAT_LOADER_RESOURCES": '{"limits": {"cpu": 2}}',
            "PREHEAT_LOADER_ENVIRONMENT": '{"HTTPS_PROXY": "http://proxy:3128"}',
            "PREHEAT_CHECK": "false",
            "PREHEAT_PROGRESS": "false",
            "PREHEAT_STALL_SECONDS": "90",
            "PREHEAT_LOG_LEVEL": "debug",
            "PREHEAT_LOG_FORMAT": "console",
        }
    )
    assert settings == Settings(
        "preheat-system", "example.org/loader:1", "hook", "pair", "pods.preheat", "given", "policy", 9443, 9080,
        "Always", {"limits": {"cpu": "2"}}, {"HTTPS_PROXY": "http://proxy:3128"}, False, False, 90, "debug", "console",
    )  # fmt: skip


def test_an_empty_variable_is_an_absent_one() -> None:
    assert Settings.from_environment(REQUIRED | {"PREHEAT_LOG_LEVEL": " "}).log_level == "info"


def test_variables_that_kubernetes_adds_are_left_alone() -> None:
    assert Settings.from_environment(REQUIRED | {"PREHEAT_WEBHOOK_SERVICE_HOST": "10.96.0.7"})


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("PORT", "tcp://10.96.0.7:443", "is not a port"),
        ("HEALTH_PORT", "0", "is not a port"),
        ("IMAGE_PULL_POLICY", "Sometimes", "is not one of Always, IfNotPresent, Never"),
        ("LOADER_RESOURCES", "{", "is not JSON"),
        ("LOADER_RESOURCES", '{"limit": {}}', '"requests" and "limits"'),
        ("LOADER_RESOURCES", '{"limits": []}', "does not map resource names to amounts"),
        ("LOADER_RESOURCES", '{"limits": {"ephemeral-storage": "1Gi"}}', "names ephemeral-storage: a loader has cpu"),
        ("LOADER_RESOURCES", '{"limits": {"memory": "1 GB"}}', "'1 GB' is not a quantity"),
        ("LOADER_ENVIRONMENT", "A=b", "is not JSON"),
        ("LOADER_ENVIRONMENT", '{"A": 1}', "does not map names to strings"),
        ("LOADER_ENVIRONMENT", '{"A-B": "", "PREHEAT_SHIM": ""}', "names A-B, PREHEAT_SHIM: not a variable"),
        ("INJECTION", "magic", "is not one of webhook, policy"),
        ("LOG_LEVEL", "loud", "is not one of debug, info, warning, error"),
        ("LOG_FORMAT", "xml", "is not one of json, console"),
    ],
)
def test_a_value_that_cannot_be_meant_is_refused_by_name(name: str, text: str, why: str) -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_environment(REQUIRED | {f"PREHEAT_{name}": text})
    assert f"PREHEAT_{name}={text!r}" in str(refusal.value)
    assert why in str(refusal.value)


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(SettingsError) as refusal:
        Settings.from_environment({"PREHEAT_PORT": "x", "PREHEAT_LOG_LEVEL": "y"})
    for part in (
        "PREHEAT_NAMESPACE is not set",
        "PREHEAT_LOADER_IMAGE is not set",
        "PREHEAT_PORT",
        "PREHEAT_LOG_LEVEL",
    ):
        assert part in str(refusal.value)
