"""The ledger: tolerances, stored entries, statuses, and the list of claims itself."""

import json
import math
import re
from importlib.resources import files

import pytest

from moxi_lite import ledger
from moxi_lite.curves import Estimate
from moxi_lite.ledger import CLAIMS, Claim, Entry, LedgerError, verdicts
from moxi_lite.ledger import entries as entries_module


def make_claim(**changes):
    facts = {
        "id": "toy",
        "section": "Sec. 5.1",
        "statement": "A toy.",
        "value": 90,
        "unit": "%",
        "n": 1000,
        "tolerance": (80, 100),
        "chapter": "01_set_sum",
        "remark": "Not run.",
    }
    return Claim(**{**facts, **changes})


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Put one claim of our own in place of the paper's and send entries to a fresh folder."""

    def use(**changes):
        claim = make_claim(**changes)
        monkeypatch.setattr(entries_module, "CLAIMS", {"toy": claim})
        return claim

    monkeypatch.setenv("MOXI_LITE_LEDGER_DIR", str(tmp_path / "ledger"))
    use()
    return use


def status_of(entries):
    (row,) = ledger.table(entries)
    return row.status


def status_in(claim, value):
    """The status of a claim of the list, whether or not it is known to differ."""
    return verdicts.status_of(claim, Entry(claim.id, value))


# recording


@pytest.mark.parametrize("value", [80, 90, 100])
def test_the_ends_of_a_tolerance_belong_to_it(toy, value):
    assert ledger.record("toy", value, n=1000) == Entry("toy", float(value), n=1000)


def test_an_estimate_waits_for_enough_images(toy, tmp_path, capsys):
    enough = Estimate(90.0, 80, 97)
    assert ledger.record("toy", enough, n=19, at_least=20) is None
    assert "n = 19 and should be at least 20" in capsys.readouterr().out
    unknown = Estimate(90.0, float("nan"), float("nan"))
    assert ledger.record("toy", unknown, n=3) is None
    assert "toy: not entered, as there is no interval" in capsys.readouterr().out
    assert not (tmp_path / "ledger").exists()
    with pytest.raises(LedgerError, match="75"):
        ledger.record("toy", Estimate(75.0, 60, 89), n=30)
    assert not (tmp_path / "ledger").exists()
    ledger.record("toy", Estimate(75.0, 60, 91), n=30)  # holds the paper's number
    assert "75 % (60 to 91), n = 30 of 1,000 (paper: 90 %): undecided" in capsys.readouterr().out
    entry = ledger.record("toy", enough, n=20, at_least=20, note="Few.", scaled=True)
    assert entry == Entry("toy", 90, 20, (80, 97), "Few.", True)
    assert ledger.record("toy", Estimate(90.0, 80, 97, n=33)).n == 33


@pytest.mark.parametrize("value", [79.999, 100.001, 0.9, float("nan"), float("inf")])
def test_a_value_outside_is_refused_and_not_stored(toy, tmp_path, value):
    with pytest.raises(LedgerError, match="toy"):
        ledger.record("toy", value, n=1000)
    assert not (tmp_path / "ledger").exists()


def test_the_refusal_names_claim_value_and_interval(toy):
    with pytest.raises(LedgerError) as caught:
        ledger.record("toy", 79.25, n=1000)
    assert isinstance(caught.value, ValueError)
    for part in ("'toy'", "79.25 %", "80 to 100"):
        assert part in str(caught.value)


def test_an_unknown_claim_lists_near_names():
    with pytest.raises(ValueError, match="'insertion-moxi-4pct'"):
        ledger.record("insertion-moxi-5pct", 90, n=60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value": 90}, "pass n="),
        ({"value": Estimate(90, 95, 85), "n": 9}, "does not hold the value 90"),
        ({"value": Estimate(90, 0.85, 0.95), "n": 9}, "does not hold the value 90"),
    ],
)
def test_bad_arguments_are_refused(toy, arguments, message):
    with pytest.raises(ValueError, match=message):
        ledger.record("toy", **arguments)


def test_a_claim_without_a_number_takes_any_finite_value(toy):
    toy(value=None, tolerance=None, n=None)
    assert ledger.record("toy", -3).value == -3


def test_one_line_is_printed(toy, capsys):
    ledger.record("toy", Estimate(91.7, 83, 97), n=60)
    assert capsys.readouterr().out == (
        "Ledger: toy: 91.7 % (83 to 97), n = 60 of 1,000 (paper: 90 %): agrees, smaller sample\n"
    )


def test_without_a_folder_nothing_is_written(toy, monkeypatch, tmp_path):
    monkeypatch.delenv("MOXI_LITE_LEDGER_DIR")
    ledger.record("toy", 90, n=1000)
    assert list(tmp_path.iterdir()) == []


# stored entries


def test_entries_come_back_as_they_were(toy, tmp_path):
    entry = ledger.record("toy", Estimate(91.7, 83, 97), n=60, note="Größe", scaled=True)
    assert ledger.read_entries(tmp_path) == [entry]


def test_recording_again_replaces_the_file_and_leaves_no_other(toy, tmp_path):
    ledger.record("toy", 85, n=1000)
    ledger.record("toy", 95, n=1000)
    assert [path.name for path in (tmp_path / "ledger").iterdir()] == ["toy.json"]
    assert ledger.read_entries(tmp_path)[0].value == 95


def test_a_failed_write_keeps_the_former_entry(toy, tmp_path, monkeypatch):
    ledger.record("toy", 85, n=1000)

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        ledger.record("toy", 95, n=1000)
    assert [path.name for path in (tmp_path / "ledger").iterdir()] == ["toy.json"]
    assert ledger.read_entries(tmp_path)[0].value == 85


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        ledger.read_entries(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["{", "[]", '{"claim": "toy"}', '{"interval": null, "x": 1}'])
def test_a_broken_entry_is_named(tmp_path, text):
    (tmp_path / "broken.json").write_text(text)
    with pytest.raises(LedgerError, match=r"broken\.json"):
        ledger.read_entries(tmp_path)


# statuses and the table

DIRECTION = {"value": None, "n": None, "tolerance": (0.1, 100)}


@pytest.mark.parametrize(
    ("claim", "entry", "status"),
    [
        ({}, None, "not attempted"),
        ({}, {"value": 91, "n": 1000}, "agrees"),
        ({}, {"value": 91, "n": 800}, "agrees"),
        ({}, {"value": 91, "n": 799}, "agrees, smaller sample"),
        ({}, {"value": 91, "n": 1000, "scaled": True}, "agrees, smaller sample"),
        ({"n": None}, {"value": 91, "n": 5}, "agrees"),
        ({"value": None, "n": None, "correction": "Minus."}, {"value": 90}, "corrected"),
        ({"correction": "Minus."}, None, "not attempted"),
        ({}, {"value": 75, "n": 60, "interval": (60, 90)}, "undecided"),
        ({}, {"value": 85, "n": 60, "interval": (60, 95)}, "agrees, smaller sample"),
        (DIRECTION, {"value": 3, "interval": (1, 5)}, "agrees"),
        (DIRECTION, {"value": 3, "interval": (-1, 7)}, "undecided"),
        (DIRECTION, {"value": -3, "interval": (-7, 1)}, "undecided"),
        (DIRECTION | {"correction": "No."}, {"value": 3, "interval": (-1, 7)}, "undecided"),
        (DIRECTION | {"differs": True}, {"value": -3, "interval": (-5, -1)}, "differs"),
        (DIRECTION | {"differs": True}, {"value": -3, "interval": (-7, 1)}, "undecided"),
        ({"differs": True}, {"value": 75, "n": 60, "interval": (60, 89)}, "differs"),
        ({"value": None, "tolerance": None}, None, "description"),
        ({"value": None, "tolerance": None}, {"value": 3, "n": 1000}, "description"),
    ],
)
def test_the_status_follows_from_claim_and_entry(toy, claim, entry, status):
    toy(**claim)
    assert status_of([] if entry is None else [Entry("toy", **entry)]) == status


def test_a_claim_known_to_differ_stops_where_it_no_longer_does(toy, tmp_path):
    toy(differs=True)
    assert ledger.record("toy", Estimate(75.0, 60, 89), n=60).value == 75
    with pytest.raises(LedgerError, match="no longer"):
        ledger.record("toy", Estimate(91.0, 80, 97), n=60)
    assert ledger.read_entries(tmp_path)[0].value == 75


def test_the_fullest_entry_counts(toy):
    small, full = Entry("toy", 91, n=60), Entry("toy", 92, n=1000)
    scaled = Entry("toy", 93, n=1000, scaled=True)
    for entries in ([small, full, scaled], [scaled, full, small]):
        (row,) = ledger.table(entries)
        assert row.entry is full


def test_a_stored_value_is_checked_again(toy):
    for interval in (None, (40.0, 89.9)):
        with pytest.raises(LedgerError, match="outside"):
            ledger.table([Entry("toy", 50, n=1000, interval=interval)])


def test_the_table_has_every_claim_in_order():
    rows = ledger.table([Entry("set-sum-example", 3)])
    assert [row.claim.id for row in rows] == list(CLAIMS)
    status = {row.claim.id: row.status for row in rows if row.claim.tolerance}
    assert status.pop("set-sum-example") == "agrees" and set(status.values()) == {"not attempted"}


def test_markdown_counts_links_and_escapes(toy):
    toy(statement="a | b")
    text = ledger.markdown_table(ledger.table([Entry("toy", 91, n=60, note="Four | five.")]))
    lines = text.splitlines()
    assert lines[0] == (
        "**1 claims (agrees: 0; agrees, smaller sample: 1; differs: 0; undecided: 0; corrected: 0; "
        "not attempted: 0) and 0 descriptions.**"
    )
    assert lines[-1] == (
        r"| **Sec. 5.1.** a \| b | 90 | 80 to 100 % | 91, n = 60 of 1,000 | "
        r"**agrees, smaller sample.** "
        r"Four \| five. Not run. [Chapter 01](../notebooks/01_set_sum.ipynb). |"
    )
    assert {len(re.split(r"(?<!\\)\|", line)) for line in lines[2:]} == {7}


def test_markdown_says_what_is_missing_where_nothing_was_recorded(toy):
    row = "| 90 | 80 to 100 % | – | **not attempted.** "
    assert ledger.markdown_table(ledger.table([])).endswith(row + "Not run. |\n")
    toy(remark="")
    assert row + "Not checked in this build." in ledger.markdown_table(ledger.table([]))


def test_descriptions_are_counted_apart(toy):
    toy(value=None, tolerance=None)
    text = ledger.markdown_table(ledger.table([Entry("toy", 3, n=7)]))
    assert text.startswith("**0 claims (agrees: 0; ") and ") and 1 descriptions.**" in text
    assert "| – | – | 3 %, n = 7 of 1,000 | **description.** " in text


@pytest.mark.parametrize(
    ("unit", "of_range", "alone"),
    [("%", "% ", "91 %"), ("% of games", "% of games ", "91 % of games"), ("", "", "91"),
     ("patches", "patches ", "91 (patches)")],
)  # fmt: skip
def test_a_row_names_its_unit_once(toy, unit, of_range, alone):
    toy(unit=unit, n=None)
    shown = f"| 90 | 80 to 100 {of_range}| 91 |"
    assert shown in ledger.markdown_table(ledger.table([Entry("toy", 91)]))
    toy(unit=unit, n=None, value=None, tolerance=None)
    assert f"| – | – | {alone} |" in ledger.markdown_table(ledger.table([Entry("toy", 91)]))


# the list of claims


ATTAINABLE = {  # by how the unit begins: the values that could come out, and that of "no effect"
    "%": (0, 100, None),
    "percentage points": (-100, 100, 0),
    "evaluations": (0, math.inf, None),
    "largest deviation": (0, math.inf, None),
    "rank correlation": (-1, 1, None),
    "nats": (-math.inf, math.inf, 0),
    "times": (0, math.inf, 1),
    "": (0, math.inf, None),  # the reward of a game of numbers
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=list(CLAIMS))
def test_a_claim_is_complete(claim):
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", claim.id)
    assert re.match(r"(Sec\. \d|Appendix [A-H])", claim.section)
    assert len(claim.statement.split()) > 4
    assert claim.statement.endswith(".") and claim.remark[-1:] in ("", ".")
    assert claim.chapter is None or re.fullmatch(r"\d\d_[a-z0-9_]+", claim.chapter)
    assert claim.remark or not claim.differs, "say why it differs"
    if claim.n is not None:
        assert claim.n >= 1
    if claim.tolerance is None:  # a description claims nothing
        assert claim.value is None and claim.correction is None and not claim.differs


@pytest.mark.parametrize(
    "claim", [claim for claim in CLAIMS.values() if claim.tolerance], ids=lambda claim: claim.id
)
def test_a_claim_can_fail(claim):
    low, high = claim.tolerance
    kind = max((kind for kind in ATTAINABLE if claim.unit.startswith(kind)), key=len)
    lowest, highest, no_effect = ATTAINABLE[kind]
    assert kind or not claim.unit, f"what values can {claim.unit!r} take?"
    assert lowest <= low <= high <= highest
    outside = [value for value in (low - 1e-6, high + 1e-6) if lowest <= value <= highest]
    assert outside, "every attainable value would bear it out"
    for value in outside:
        assert status_in(claim, value) == "differs"
    assert no_effect is None or not low <= no_effect <= high, "no effect would bear it out"
    if claim.value is not None:
        assert low <= claim.value <= high
    if claim.correction is not None:
        assert low > 0, "our check must exclude that the printed form never fails"


def test_the_range_of_an_accuracy_follows_from_the_papers_number_of_images():
    for claim in CLAIMS.values():
        if claim.value is not None and claim.unit == "%":
            share = claim.value / 100
            two_samples = 196 * math.sqrt(2 * share * (1 - share) / claim.n)  # differ by, 95 %
            expected = (max(claim.value - 2 * two_samples, 0), claim.value + 2 * two_samples)
            assert claim.tolerance == pytest.approx(expected, abs=0.5)


def test_ids_are_unique_and_values_plain():
    text = (files("moxi_lite.ledger") / "claims.json").read_text(encoding="utf-8")
    assert [item["id"] for item in json.loads(text)] == list(CLAIMS)


def test_the_headline_numbers_are_the_papers():
    headline = {
        "insertion-moxi-4pct": 90,
        "insertion-shapley-4pct": 25,
        "insertion-rollout-4pct": 4,
        "insertion-gradcam-4pct": 2,
        "deletion-moxi-10pct": 16,
        "deletion-gradcam-10pct": 79,
        "deletion-rollout-10pct": 79,
        "set-sum-example": 3,
    }
    assert {name: CLAIMS[name].value for name in headline} == headline


def test_all_figures_and_appendices_are_listed():
    where = " ".join(claim.section for claim in CLAIMS.values())
    for number in range(1, 8):
        assert f"Fig. {number}" in where
    for letter in "ABCDEFGH":
        assert f"Appendix {letter}" in where
