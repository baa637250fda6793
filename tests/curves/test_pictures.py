"""Pictures of averaged curves: figures, and HTML with a slider."""

import json
import re
import shutil
import subprocess

import matplotlib

matplotlib.use("Agg")

import numpy as np
import pytest
from matplotlib.colors import to_hex

from moxi_lite.curves import (
    Curve,
    Estimate,
    average_curves,
    average_curves_html,
    plot_average_curves,
    plot_forest,
    wilson,
)
from moxi_lite.explanation import METHOD_COLORS


def averaged(metric="correct", mode="insertion", n_patches=4, switch=(1, 2)):
    """Two images whose curves jump from 0 to 1 at the given steps, or from 1 to 0."""
    curves = []
    for step in switch:
        on = np.arange(n_patches + 1) >= step
        on = on if mode == "insertion" else ~on
        fraction = np.arange(n_patches + 1) / n_patches
        curves.append(Curve(fraction, on, 0.8 * on, 10.0 * on - 5, mode, 0))
    return average_curves(curves, metric)


class TestAverageCurves:
    def test_lines_are_in_per_cent_with_the_colours_and_numbers_of_the_methods(self):
        curves = {"MoXI": averaged(), "own": averaged(switch=(3,))}
        ax = plot_average_curves(curves)
        solid = [line for line in ax.lines if line.get_linestyle() == "-"]
        assert [line.get_label() for line in solid] == ["MoXI (n = 2)", "own (n = 1)"]
        assert solid[0].get_color() == METHOD_COLORS["MoXI"]
        assert solid[0].get_xdata().tolist() == [0, 25, 50, 75, 100]
        assert solid[0].get_ydata().tolist() == [0, 50, 100, 100, 100]
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("patches inserted (%)", "accuracy (%)")
        assert solid[0].get_zorder() > solid[1].get_zorder()

    def test_the_ranked_part_is_dotted_and_joins_the_exact_one(self):
        ax = plot_average_curves({"MoXI": averaged()}, exact={"MoXI": 0.5})
        solid, dotted = ax.lines
        assert (solid.get_linestyle(), dotted.get_linestyle()) == ("-", ":")
        assert solid.get_xdata().tolist() == [0, 25, 50]
        assert dotted.get_xdata().tolist() == [50, 75, 100]

    def test_intervals_of_some_curves_only(self):
        curves = {"MoXI": averaged(), "own": averaged(switch=(1, 3))}
        for bands, n_bands in ((None, 2), (["own"], 1), ((), 0)):
            assert len(plot_average_curves(curves, bands=bands).collections) == n_bands
        with pytest.raises(ValueError, match="unknown label 'other'"):
            plot_average_curves(curves, bands=["other"])

    def test_a_label_without_a_curve_is_refused(self):
        with pytest.raises(ValueError, match="Did you mean 'MoXI'"):
            plot_average_curves({"MoXI": averaged()}, exact={"Moxi": 0.5})

    def test_log_odds_keep_their_unit_and_deletion_its_verb(self):
        ax = plot_average_curves({"MoXI": averaged("log_odds", "deletion")})
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("patches removed (%)", "log-odds (nats)")
        assert ax.lines[0].get_ydata().tolist() == [5, 0, -5, -5, -5]

    @pytest.mark.parametrize(
        "curves",
        [
            {},
            {"a": averaged(), "b": averaged(mode="deletion")},
            {"a": averaged(), "b": averaged("probability")},
        ],
    )
    def test_what_does_not_belong_together_is_refused(self, curves):
        with pytest.raises(ValueError, match="one mode and metric"):
            plot_average_curves(curves)


class TestAverageCurvesHTML:
    def curves(self, metric="correct"):
        return {"MoXI": averaged(metric), "<b>own": averaged(metric, switch=(3,))}

    def test_the_data_are_those_of_the_curves(self):
        page = average_curves_html(self.curves(), self.curves("probability"), start=0.5).html
        data = json.loads(re.search(r'application/json">(.*?)</script>', page, re.S)[1])
        assert (data["points"], data["start"], data["verb"]) == ([0, 1, 2, 3, 4], 2, "inserted")
        assert data["methods"] == ["MoXI", "<b>own"] and data["images"] == [2, 1]
        assert data["colors"] == [METHOD_COLORS["MoXI"].lower(), to_hex("C1")]  # as in the figure
        mean, low, high = data["metrics"]["accuracy"][0]
        assert mean == [0, 0.5, 1, 1, 1]
        ends = [[round(wilson(k, 2)[end], 4) for k in (0, 1, 2, 2, 2)] for end in (1, 2)]
        assert [low, high] == ends
        assert data["metrics"]["probability"][1][0] == [0, 0, 0, 0.8, 0.8]

    def test_it_is_safe_and_needs_no_other_file(self):
        shown = average_curves_html(self.curves(), title='</script>"<')
        page = shown._repr_html_()
        assert "<b>own" not in page and "@@" not in page
        assert 'aria-label="&lt;/script&gt;&quot;&lt;"' in page
        assert not re.search(r"""(src|href)=|@import|url\(""", page)
        assert shown.title == '</script>"<'
        assert average_curves_html(self.curves()).title == "Insertion curves: accuracy"

    @pytest.mark.parametrize(
        "metrics",
        [
            (),
            ({},),
            ({"a": averaged("log_odds")},),
            ({"a": averaged()}, {"a": averaged()}),
            ({"a": averaged()}, {"b": averaged("probability")}),
            ({"a": averaged()}, {"a": averaged("probability", "deletion")}),
            ({"a": averaged(), "b": averaged(n_patches=5)},),
        ],
    )
    def test_what_does_not_belong_together_is_refused(self, metrics):
        with pytest.raises(ValueError, match=r"^one (slider|picture) shows"):
            average_curves_html(*metrics)

    @pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
    def test_a_browser_fills_in_the_values_of_the_step(self, tmp_path):
        shown = average_curves_html(self.curves(), self.curves("probability"), start=0.25)
        path = shown.save(tmp_path / "page.html")
        command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        done = subprocess.run(
            [*command, f"--user-data-dir={tmp_path}", path.as_uri()],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "1 of 4 patches inserted (25.0 %)" in done.stdout
        assert "50 (9 to 91)" in done.stdout and "40 (0 to 80)" in done.stdout
        assert "&lt;b&gt;own" in done.stdout
        assert done.stdout.count("<polyline") == 2


class TestForest:
    def test_rows_in_the_order_given_the_first_on_top(self):
        estimates = {"Grad-CAM": Estimate(50, 40, 60, n=12), "own": Estimate(1, -3, 4)}
        ax = plot_forest(estimates, xlabel="points of area")
        assert [text.get_text() for text in ax.get_yticklabels()] == ["Grad-CAM (n = 12)", "own"]
        assert ax.get_ylim()[0] > ax.get_ylim()[1] and ax.get_xlabel() == "points of area"
        interval, point, *_, zero = ax.lines
        assert interval.get_xdata().tolist() == [40, 60] and point.get_xdata() == [50]
        assert interval.get_color() == METHOD_COLORS["Grad-CAM"]
        assert zero.get_xdata() == [0, 0]
        smoothed = plot_forest({"Grad-CAM, smoothed": Estimate(1, 0, 2)}).lines[0]
        assert smoothed.get_color() == METHOD_COLORS["Grad-CAM"]
        assert len(plot_forest(estimates, reference=None).lines) == 4
