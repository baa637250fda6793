"""Interactive HTML: safe, self-contained, labelled; in a real browser where there is one."""

import dataclasses
import html.parser
import json
import re
import shutil
import subprocess

import numpy as np
import pytest

from moxi_lite.explanation import (
    Explanation,
    SliderHTML,
    reveal,
    set_sum_dashboard,
    set_sum_playground,
)
from moxi_lite.games import SetSumGame, self_context_interaction, self_context_shapley
from moxi_lite.search import explain

NASTY = """</script><img src=x onerror=alert(1)> "double" & 'single' <!-- @@DATA@@"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def make(mode="insertion", name="tiger cat", n_steps=3, seed=0):
    rng = np.random.default_rng(seed)
    return Explanation(
        order=np.array([5, 0, 3])[:n_steps],
        values=np.array([-1.0, 0.5, 2.0])[:n_steps],
        f_empty=-4.0,
        f_full=3.5,
        n_players=6,
        n_evaluations=15,
        mode=mode,
        stop_reason="budget",
        predictions=np.array([7, 3, 3])[:n_steps],
        confidences=np.array([0.3, 0.6, 0.9])[:n_steps],
        start_prediction=7,
        start_confidence=0.2,
        target=3,
        grid=(2, 3),
        labels={3: name, 7: "dog"},
        image=rng.integers(0, 255, (20, 31, 3), dtype=np.uint8),
        model="tiny",
        masking="drop",
    )


class Page(html.parser.HTMLParser):
    """Collects elements, and the texts of scripts."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.scripts, self.open = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in {"input", "meta", "link", "br", "image"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if self.open and self.open[-1] == "script":
            self.scripts.append(text)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def data(self):
        return json.loads(self.scripts[0])


def pieces():
    return {
        "insertion": reveal(make()),
        "deletion": reveal(make("deletion")),
        "plain game": reveal(explain(SetSumGame([2, 2, 1]))),
        "no step": reveal(make(n_steps=0)),
        "playground": set_sum_playground([2, 2, 1]),
    }


@pytest.mark.parametrize("kind", pieces())
def test_every_piece_is_well_formed_and_self_contained(kind):
    piece = pieces()[kind]
    page = Page(piece._repr_html_())
    assert page.open == []
    assert "@@" not in piece.html
    assert len(page.scripts) == 2
    outside = re.sub(r"http://www\.w3\.org/2000/svg", "", piece.html)  # a name, never fetched
    assert not re.search(r"https?:|//\w+\.\w+|@import|url\(", outside)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    root = page.elements[0][1]
    assert root["role"] == "group" and root["aria-label"] == piece.title
    assert any(attributes.get("aria-live") == "polite" for _, attributes in page.elements)
    assert all(attributes["type"] == "button" for attributes in page.all("button"))


def test_slider_is_native_labelled_and_starts_at_the_flip():
    page = Page(reveal(make()).html)
    slider, order = page.all("input")
    assert (slider["type"], slider["min"], slider["max"], slider["value"]) == (
        "range",
        "0",
        "3",
        "2",
    )
    assert order["type"] == "checkbox"
    inside_label = [tag for tag, _ in page.elements]
    assert inside_label.index("label") < inside_label.index("input")
    picture = next(a for a in page.all("svg") if "mx-picture" in a["class"])
    assert picture["role"] == "img" and picture["aria-label"]
    assert page.all("image")[0]["href"].startswith("data:image/jpeg;base64,")


def test_slider_data_are_those_of_the_explanation():
    data = Page(reveal(make()).html).data
    assert data["order"] == [5, 0, 3]
    assert data["f"] == [-4, -1, 0.5, 2]
    assert data["classes"] == [[7, "dog"], [7, "dog"], [3, "tiger cat"], [3, "tiger cat"]]
    assert data["probabilities"] == [0.2, 0.3, 0.6, 0.9]
    assert data["flip"] == 2 and data["size"] == [20, 31]
    assert Page(reveal(make("deletion")).html).data["f"][0] == 3.5
    game = Page(reveal(explain(SetSumGame([2, 2, 1]))).html).data
    assert game["classes"] is None and game["numbered"] and game["grid"] == [1, 3]


def test_names_cannot_break_out():
    piece = reveal(make(name=NASTY))
    page = Page(piece.html)
    assert page.data["classes"][3] == [3, NASTY]
    assert page.elements[0][1]["aria-label"].startswith(NASTY)
    assert page.all("img") == []
    assert piece.html.count("</script>") == 2
    assert Page(reveal(make(), title=NASTY).html).elements[0][1]["aria-label"] == NASTY


def test_saved_page_is_complete(tmp_path):
    path = reveal(make(name=NASTY)).save(tmp_path / "page.html")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>") and page.open == []
    assert page.all("html") == [{"lang": "en"}]
    assert "title" in dict(page.elements) and page.all("img") == []
    assert [file.name for file in tmp_path.iterdir()] == ["page.html"]
    with pytest.raises(FileNotFoundError):
        reveal(make()).save(tmp_path / "none" / "page.html")


def test_repr_is_short_and_output_repeats():
    piece = reveal(make())
    assert len(repr(piece)) < 120
    assert piece == reveal(make())
    token = re.compile(r'data-moxi="(\w+)"')
    assert token.search(piece.html)[1] != token.search(reveal(make(seed=1)).html)[1]
    with pytest.raises(dataclasses.FrozenInstanceError):
        piece.html = ""


def test_playground_tables_are_the_package_s():
    game = SetSumGame([2, 2, 1])
    data = Page(set_sum_playground([2, 2, 1]).html).data
    assert data["f"] == [0, 2, 2, 2, 1, 3, 3, 3]
    assert data["phi"] == self_context_shapley(game).tolist() == [2, 2, 1]
    assert data["interaction"][0b001] == [None, -2, 0]
    assert data["interaction"][0b100] == [*self_context_interaction(game, [2])[:2], None]
    assert data["choice"] == [0, 2, 2, 2, 0, None, None, None][:5] + [1, 0, None]


def test_playground_compares_the_orders():
    text = set_sum_playground([2, 2, 1, 5]).html
    rows = re.findall(r'<tr><th scope="row">(\d)</th>(.*?)</tr>', text)
    third = re.findall("<td>(.*?)</td>", rows[2][1])
    assert third == ["1 (φ = 1)", "7", "2", "8", "{0, 2, 3}", "8"]


def test_playground_refuses_large_games():
    with pytest.raises(ValueError, match="at most 8"):
        set_sum_playground(range(9))
    with pytest.raises(TypeError):
        set_sum_playground([0.5])
    assert isinstance(set_sum_playground(list(range(8))), SliderHTML)


def test_dashboard_follows_its_buttons():
    box = set_sum_dashboard([2, 2, 1])
    toggles, add, report = box.children
    assert "f(S) = 0" in report.value
    add.click()
    assert toggles.children[0].value and "S = {0}, f(S) = 2" in report.value
    add.click()
    assert toggles.children[2].value and "S = {0, 2}, f(S) = 3" in report.value
    toggles.children[1].value = True
    assert add.disabled


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_in_a_browser(tmp_path):
    """Two copies, another slider and a playground share a page; each follows its own controls."""
    probe = """<pre id="log"></pre><script>
    const log = {errors: []}, all = (s) => [...document.querySelectorAll(s)];
    window.onerror = (message) => { log.errors.push(message); };
    const text = (root, s) => root.querySelector(s).textContent;
    const state = () => all(".moxi-reveal").map((root) => [text(root, ".mx-facts"), text(root, ".mx-class"),
      root.querySelectorAll('.mx-picture rect[fill-opacity="0"]').length]);
    const move = (root, value) => { const range = root.querySelector("input"); range.value = value;
      range.dispatchEvent(new Event("input")); };
    const [first, copy, deletion] = all(".moxi-reveal"), play = document.querySelector(".moxi-playground");
    log.before = state();
    move(first, 3); move(deletion, 1);
    log.after = state();
    log.valuetext = first.querySelector("input").getAttribute("aria-valuetext");
    log.label = first.querySelector("svg").getAttribute("aria-label");
    const button = first.querySelector("button");
    button.click(); log.playing = [button.textContent, first.querySelector("[aria-live]").getAttribute("aria-live")];
    button.click(); log.paused = button.textContent;
    const status = () => text(play, "p[aria-live]");
    log.play = [status()];
    play.querySelector("button").click(); log.play.push(status());
    play.querySelectorAll("input")[2].click(); log.play.push(status());
    log.globals = Object.keys(window).filter((key) => /moxi|start|data/i.test(key) && !key.startsWith("on"));
    document.getElementById("log").textContent = JSON.stringify(log);
    </script>"""  # noqa: E501
    first = reveal(make(name=NASTY))
    parts = [first, first, reveal(make("deletion")), set_sum_playground([2, 2, 1])]
    body = "\n".join(part.html for part in parts) + probe
    page = tmp_path / "probe.html"
    page.write_text(f"<!DOCTYPE html><html><meta charset=utf-8><body>{body}", encoding="utf-8")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    flags = ["--headless", "--no-sandbox", "--disable-gpu", profile, "--dump-dom"]
    done = subprocess.run(
        [CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    found = re.search(r'<pre id="log">(.*?)</pre>', done.stdout, re.DOTALL)
    log = json.loads(html.unescape(found[1]))
    assert log["errors"] == [] and log["globals"] == []
    facts = [facts for facts, _, _ in log["before"]]
    assert facts[0] == facts[1] == "2 of 6 patches visible (33.3 %); reward f = 0.50."
    assert facts[2] == "6 of 6 patches visible (100.0 %); reward f = 3.50."
    assert [shown for _, _, shown in log["before"]] == [2, 2, 6]
    assert [shown for _, _, shown in log["after"]] == [3, 2, 5], "the copy stays where it was"
    assert NASTY in log["after"][0][1] and "90.0 %" in log["after"][0][1]
    assert "✗ not tiger cat" in log["after"][2][1]
    assert log["valuetext"] == "3 of 3 patches inserted"
    assert log["label"].endswith("3 of 6 patches visible (50.0 %)")
    assert log["playing"] == ["Pause", "off"] and log["paused"] == "Play"
    assert "greedy choice is player 0" in log["play"][0]
    assert "f(S) = 2" in log["play"][1] and "f(S) = 3" in log["play"][2]
