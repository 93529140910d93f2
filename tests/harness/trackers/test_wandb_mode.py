"""W&B's mode is settled once, without its package, and without waiting long for anybody."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from harness.trackers import resolve_wandb_mode, settle_wandb_mode
from harness.trackers.wandb_mode import why_unreachable
from tests.wandb_server import KEY, WandbServer


@pytest.mark.parametrize(
    ("flag", "env", "expected"),
    [
        (None, {}, "offline"),
        (None, {"WANDB_API_KEY": KEY}, "online"),
        (None, {"WANDB_API_KEY": ""}, "offline"),
        (None, {"WANDB_API_KEY": KEY, "WANDB_MODE": "offline"}, "offline"),
        (None, {"WANDB_API_KEY": KEY, "WANDB_MODE": "dryrun"}, "offline"),
        (None, {"WANDB_MODE": "disabled"}, "disabled"),
        (None, {"WANDB_MODE": "online"}, "online"),
        ("offline", {"WANDB_MODE": "online", "WANDB_API_KEY": KEY}, "offline"),
        ("online", {"WANDB_MODE": "disabled"}, "online"),
    ],
)
def test_flag_then_environment_then_credential(
    flag: str | None, env: dict[str, str], expected: str
) -> None:
    assert resolve_wandb_mode(flag, env, None) == expected


@pytest.mark.parametrize(
    ("netrc", "base_url", "expected"),
    [
        (f"machine api.wandb.ai login user password {KEY}", None, "online"),
        (f"machine api.forge.coreweave.com login user password {KEY}", None, "online"),
        (f"machine api.wandb.ai login user password {KEY}", "https://w.example", "offline"),
        (f"machine w.example:8080 login user password {KEY}", "http://w.example:8080", "online"),
        (f"machine github.com login user password {KEY}", None, "offline"),
        (f"default login user password {KEY}", None, "offline"),
        ("machine api.wandb.ai {{{ nonsense", None, "offline"),
    ],
)
def test_netrc_counts_for_the_host_of_the_base_url(
    tmp_path: Path, netrc: str, base_url: str | None, expected: str
) -> None:
    path = tmp_path / "netrc"
    path.write_text(netrc + "\n")
    env = {} if base_url is None else {"WANDB_BASE_URL": base_url}

    assert resolve_wandb_mode(None, env, path) == expected
    assert resolve_wandb_mode(None, env, tmp_path / "absent") == "offline"


def test_an_unknown_mode_is_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="WANDB_MODE is 'of'; use online, offline or disabled"):
        resolve_wandb_mode(None, {"WANDB_MODE": "of"}, None)


# Asking the server, once.


@pytest.fixture
def logged_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Have a key and nothing else that would decide the mode or the server."""
    for name in ("MODE", "BASE_URL", "DIR", "CONFIG_DIR", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.chdir(tmp_path)
    return monkeypatch


@pytest.fixture
def closed_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_a_server_that_answers_anything_is_left_to_the_sdk(logged_in: pytest.MonkeyPatch) -> None:
    """A refusal is an answer too: the path below this address is none of the server's."""
    warnings: list[str] = []
    with WandbServer() as server:
        for url in (server.url, f"{server.url}/proxied"):
            logged_in.setenv("WANDB_BASE_URL", url)

            assert settle_wandb_mode(None, warnings.append) == "online"
    assert server.unknown == ["/proxied/graphql"]
    assert warnings == []


def test_a_server_that_is_not_there_means_offline_and_one_warning(
    logged_in: pytest.MonkeyPatch, closed_port: int
) -> None:
    warnings: list[str] = []
    url = f"http://127.0.0.1:{closed_port}"
    logged_in.setenv("WANDB_BASE_URL", url)
    began = time.monotonic()

    assert settle_wandb_mode("online", warnings.append) == "offline"
    assert time.monotonic() - began < 5
    assert len(warnings) == 1
    assert warnings[0].startswith(f"W&B is not reachable ({url}: ")
    assert "Connection refused" in warnings[0]
    assert "wandb sync" in warnings[0]


def test_a_server_that_never_answers_is_given_up(logged_in: pytest.MonkeyPatch) -> None:
    with WandbServer(silent_after="") as server:
        began = time.monotonic()

        reason = why_unreachable([server.url], seconds=0.3)

        assert reason == f"no answer from {server.url} within 0.3 s"
        assert time.monotonic() - began < 2


def test_one_answer_of_several_is_enough(logged_in: pytest.MonkeyPatch, closed_port: int) -> None:
    with WandbServer() as server:
        assert why_unreachable([f"http://127.0.0.1:{closed_port}", server.url]) is None


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_nobody_is_asked_unless_online(logged_in: pytest.MonkeyPatch, mode: str) -> None:
    with WandbServer() as server:
        logged_in.setenv("WANDB_BASE_URL", server.url)

        assert settle_wandb_mode(mode) == mode
        assert server.operations == []


def test_the_server_may_be_named_in_the_settings_of_the_sdk(
    tmp_path: Path, logged_in: pytest.MonkeyPatch
) -> None:
    """That is where `wandb login --host` writes it."""
    with WandbServer() as server:
        (tmp_path / ".config/wandb").mkdir(parents=True)
        (tmp_path / ".config/wandb/settings").write_text(f"[default]\nbase_url = {server.url}\n")

        assert settle_wandb_mode(None) == "online"
        assert server.operations == ["Viewer"]
