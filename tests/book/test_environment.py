"""Which caches a run uses, and when it asks the hub."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import environment
import pytest


def never(url: str) -> bool:
    raise AssertionError(f"asked {url}")


def shared_folder(tmp_path: Path, *names: str) -> Path:
    for name in names:
        (tmp_path / "shared" / name).mkdir(parents=True)
    return tmp_path / "shared"


def test_caches_beside_the_repository_are_used_without_asking_the_hub(tmp_path: Path) -> None:
    shared = shared_folder(tmp_path, "data", "hf-hub")
    added, lines = environment.describe({}, shared, never)
    assert added == {
        "MOXI_LITE_DATA_DIR": str(shared / "data"),
        "HF_HUB_CACHE": str(shared / "hf-hub"),
        "HF_HUB_OFFLINE": "1",
    }
    assert any("../shared/data" in line for line in lines)


def test_only_the_caches_that_exist_are_set(tmp_path: Path) -> None:
    added, _ = environment.describe({}, shared_folder(tmp_path, "data"), lambda url: True)
    assert set(added) == {"MOXI_LITE_DATA_DIR"}


def test_what_the_user_has_set_stays(tmp_path: Path) -> None:
    own = {"MOXI_LITE_DATA_DIR": "mine", "HF_HUB_CACHE": "mine", "HF_HUB_OFFLINE": "0"}
    added, _ = environment.describe(own, shared_folder(tmp_path, "data", "hf-hub"), never)
    assert added == {}
    added, _ = environment.describe(
        {"HF_HUB_OFFLINE": "0"}, shared_folder(tmp_path / "b", "hf-hub"), never
    )
    assert added == {"HF_HUB_CACHE": str(tmp_path / "b" / "shared" / "hf-hub")}


def test_without_the_hub_it_is_switched_off_and_said(tmp_path: Path) -> None:
    added, lines = environment.describe({}, tmp_path / "none", lambda url: False)
    assert added == {"HF_HUB_OFFLINE": "1"}
    assert any("no answer" in line for line in lines)


def test_the_users_endpoint_is_the_one_asked(tmp_path: Path) -> None:
    asked: list[str] = []
    environment.describe(
        {"HF_ENDPOINT": "https://mirror.example"}, tmp_path, lambda url: not asked.append(url)
    )
    assert asked == ["https://mirror.example"]


def test_a_silent_server_costs_no_more_than_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, but never answers
        start = time.monotonic()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert not environment.hub_answers(url, wait=0.3)
        assert time.monotonic() - start < 2
