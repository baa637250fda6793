"""Which caches a run uses, and when it asks the hub."""

from __future__ import annotations

import http.server
import socket
import threading
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
    assert any("without asking the hub" in line for line in lines)


def test_a_hub_that_the_user_allows_is_not_said_to_be_left_alone(tmp_path: Path) -> None:
    for folder in (shared_folder(tmp_path, "hf-hub"), tmp_path / "none"):
        _, lines = environment.describe({"HF_HUB_OFFLINE": "0"}, folder, never)
        assert not any("without asking" in line or "not tried" in line for line in lines)
        assert any("HF_HUB_OFFLINE=0" in line for line in lines)
    _, lines = environment.describe({"HF_HUB_OFFLINE": "1"}, tmp_path / "none", never)
    assert any("not tried, HF_HUB_OFFLINE=1" in line for line in lines)


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


@pytest.mark.parametrize("status", [200, 403, 404, 405, 429, 503])
def test_any_answer_counts(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert environment.hub_answers(f"http://127.0.0.1:{server.server_port}")


def test_an_address_that_is_none_is_no_answer() -> None:
    assert not environment.hub_answers("http://127.0.0.1/a b")


def test_a_silent_server_costs_no_more_than_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as server:  # accepts, but never answers
        start = time.monotonic()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        assert not environment.hub_answers(url, wait=0.3)
        assert time.monotonic() - start < 2
