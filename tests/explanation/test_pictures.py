"""Pictures: colours on actual arrays, labels, and what happens at the edges."""

import itertools

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from skimage.color import rgb2lab

from moxi_lite.explanation import (
    ABSENT_GREY,
    METHOD_COLORS,
    Explanation,
    figure1_strip,
    heat_colors,
    plot_explanation,
    plot_trace,
)
from moxi_lite.games import SetSumGame
from moxi_lite.search import explain

CAT, DOG = 3, 7


def make(mode="insertion", order=(5, 0, 3, 2), predictions=(DOG, CAT, CAT, CAT), **changes):
    """A 2x3 grid on a 20x30 image whose pixels all differ from the grey of absent patches."""
    k = len(order)
    image = np.full((20, 30, 3), (200, 60, 20), dtype=np.uint8)
    fields = dict(
        order=np.array(order, dtype=np.int64),
        values=np.linspace(-2, 3, 4)[:k],
        f_empty=-4.0,
        f_full=3.5,
        n_players=6,
        n_evaluations=18,
        mode=mode,
        stop_reason="budget",
        predictions=np.array(predictions, dtype=np.int64),
        confidences=np.linspace(0.3, 0.9, 4)[:k],
        start_prediction=DOG,
        start_confidence=0.2,
        target=CAT,
        grid=(2, 3),
        labels={CAT: "tiger cat, a cat", DOG: "dog"},
        image=image,
        model="tiny",
        masking="drop",
    )
    return Explanation(**(fields | changes))


def cell(picture, player):
    row, column = divmod(player, 3)
    return picture[10 * row : 10 * row + 10, 10 * column : 10 * column + 10].astype(float)


def redness(pixels):
    return (pixels[..., 0] - pixels[..., 1:].mean(axis=-1)).mean()


@pytest.mark.parametrize("mode", ["insertion", "deletion"])
def test_earlier_patches_are_redder_and_others_grey(mode):
    picture = make(mode).overlay(steps=4)
    assert picture.dtype == np.uint8 and picture.shape == (20, 30, 3)
    reds = [redness(cell(picture, player)) for player in (5, 0, 3, 2)]
    assert reds == sorted(reds, reverse=True) and reds[0] > reds[-1] + 20
    greens = [cell(picture, player)[..., 1].mean() for player in (5, 0, 3, 2)]
    assert greens == sorted(greens), "yellow must come last"
    for player in (1, 4):
        assert redness(cell(picture, player)) == 0


def test_patches_are_numbered_where_they_are():
    ex = make()
    for numbers, expected in (("order", ["1", "2"]), ("patch", [str(p) for p in ex.order[:2]])):
        ax = plot_explanation(ex, numbers=numbers)
        assert [text.get_text() for text in ax.texts] == expected
        height, width = ex.image.shape[:2]
        rows, columns = ex.grid
        for text, patch in zip(ax.texts, ex.order, strict=False):
            x, y = text.get_position()
            assert (int(y // (height / rows)), int(x // (width / columns))) == divmod(
                patch, columns
            )
    with pytest.raises(ValueError, match='"order", "patch" or None'):
        plot_explanation(ex, numbers="player")


def test_heat_falls_in_lightness_too():
    colors = np.array([to_rgb(color) for color in heat_colors(8)])
    lightness = rgb2lab(colors[None])[0, :, 0]
    assert (np.diff(lightness) > 0).all()
    assert heat_colors(0) == []


def test_heatmap_stops_at_success_or_failure():
    assert make().patches_to_flip() == 2
    picture = make().overlay()
    assert redness(cell(picture, 0)) > 0 and redness(cell(picture, 3)) == 0
    deletion = make("deletion", predictions=(CAT, CAT, DOG, CAT), start_prediction=CAT)
    assert deletion.patches_to_flip() == 3
    assert redness(cell(deletion.overlay(), 3)) > 0 and redness(cell(deletion.overlay(), 2)) == 0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"predictions": (DOG,) * 4}, None),
        ({"start_prediction": CAT}, 0),
        ({"target": None}, None),
    ],
)
def test_patches_to_flip_at_the_edges(changes, expected):
    assert make(**changes).patches_to_flip() == expected


def test_visible_image_shows_exactly_the_present_patches():
    ex = make()
    assert (ex.visible_image(0) == ABSENT_GREY).all()
    two = ex.visible_image(2)
    for player in range(6):
        shown = (cell(two, player) == cell(ex.image, player)).all()
        assert shown == (player in (5, 0))
    deleted = make("deletion")
    assert (deleted.visible_image(0) == deleted.image).all()
    assert (cell(deleted.visible_image(1), 5) == ABSENT_GREY).all()
    with pytest.raises(IndexError):
        ex.visible_image(5)


def test_uneven_patches_follow_the_masking():
    image = np.full((7, 7, 3), 200, dtype=np.uint8)
    ex = make(order=(0,), predictions=(CAT,), image=image)
    assert (ex.visible_image(1)[..., 0] == 200).sum() == 4 * 3


def test_plot_explanation_says_what_red_means():
    ax = Figure().add_subplot()
    assert plot_explanation(make(), ax) is ax
    assert ax.get_title() == "2 of 6 patches inserted"
    bar = ax.figure.axes[1]
    assert "1 = inserted first" in bar.get_ylabel()
    assert bar.get_ylim()[0] > bar.get_ylim()[1], "the first patch stands at the top"
    assert plot_explanation(make("deletion"), title="mine").get_title() == "mine"
    with pytest.raises(ValueError, match=r"0\.\.4"):
        plot_explanation(make(), ax, steps=5)


def test_no_step_is_drawn_with_a_note():
    empty = dict(order=(), predictions=())
    ax = Figure().add_subplot()
    plot_explanation(make(start_prediction=CAT, **empty), ax)
    assert "empty image" in ax.texts[0].get_text()
    ax = Figure().add_subplot()
    plot_explanation(make("deletion", **empty), ax)
    assert "does not count as tiger cat" in ax.texts[0].get_text()
    plot_trace(make(**empty), Figure().add_subplot())


def test_plain_game_becomes_bars():
    ex = explain(SetSumGame([2, 2, 1, 5]))
    ax = Figure().add_subplot()
    plot_explanation(ex, ax)
    assert [bar.get_height() for bar in ax.patches] == [5, 7, 8, 8]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["3", "0", "2", "1"]
    with pytest.raises(ValueError, match="no image"):
        ex.visible_image(0)


def test_trace_starts_before_the_first_step():
    ax = Figure().add_subplot()
    plot_trace(make(), ax, label="MoXI")
    steps, values = ax.lines[0].get_data()
    assert list(steps) == [0, 1, 2, 3, 4]
    assert values[0] == -4 and values[-1] == 3
    assert ax.lines[0].get_color() == METHOD_COLORS["MoXI"]
    assert ax.lines[1].get_xdata()[0] == 2, "the ring marks the flip"
    assert "of 6" in ax.get_xlabel() and "tiger cat" in ax.get_ylabel()
    ax = plot_trace(make("deletion"), Figure().add_subplot())
    assert ax.lines[0].get_ydata()[0] == 3.5


def test_figure1_strip():
    quick, slow = make(), make(order=(1,), predictions=(DOG,))
    figure = figure1_strip({"MoXI": quick, "Own": slow}, n_columns=2)
    axes = np.array(figure.axes).reshape(2, 3)
    assert [ax.get_title() for ax in axes[0, :2]] == ["1 inserted", "2 inserted"]
    assert axes[0, 0].get_xlabel() == "✗ dog 0.30"
    assert axes[0, 1].get_xlabel() == "✓ tiger cat 0.50"
    assert axes[1, 1].get_xlabel().endswith("(at 1)")
    assert (axes[0, 1].images[0].get_array() == quick.visible_image(2)).all()
    assert axes[0, 2].get_xlabel() == "2 of 6 patches inserted"
    figure.canvas.draw()
    assert len(figure1_strip({"MoXI": quick}).axes) == 4
    with pytest.raises(ValueError, match=r"one mode, not of \[\]"):
        figure1_strip({})
    with pytest.raises(ValueError, match="one mode"):
        figure1_strip({"a": quick, "b": make("deletion")})


def test_nothing_is_left_open_when_axes_are_given():
    import matplotlib.pyplot as plt

    plt.close("all")
    plot_explanation(make(), Figure().add_subplot())
    strip = figure1_strip({"MoXI": make()})
    assert plt.get_fignums() == []
    assert strip._repr_png_().startswith(b"\x89PNG"), "shown as the last line of a cell"
    make().plot()
    assert len(plt.get_fignums()) == 1
    plt.close("all")


# Linear-light matrices of Machado et al. (2009) at full severity.
SIGHTS = {
    "normal": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("sight", SIGHTS)
def test_method_colors_can_be_told_apart(sight):
    srgb = np.array([to_rgb(color) for color in METHOD_COLORS.values()])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(SIGHTS[sight]), 0, 1)
    seen = np.where(seen <= 0.0031308, 12.92 * seen, 1.055 * seen ** (1 / 2.4) - 0.055)
    lab = rgb2lab(seen[None])[0]
    distances = [np.linalg.norm(a - b) for a, b in itertools.combinations(lab, 2)]
    assert min(distances) > 12, "about five just noticeable differences"


def test_a_strip_wants_names_and_whole_steps():
    with pytest.raises(TypeError, match="takes a dict"):
        figure1_strip(make())
    with pytest.raises(TypeError, match="steps must be a whole number"):
        plot_explanation(make(), steps=1.5)


def test_the_style_sheet_comes_with_the_package():
    with plt.style.context("moxi_lite.book"):
        assert not plt.rcParams["axes.spines.top"] and not plt.rcParams["axes.spines.right"]
        assert not plt.rcParams["legend.frameon"] and plt.rcParams["figure.constrained_layout.use"]
        colors = plt.rcParams["axes.prop_cycle"].by_key()["color"]
        assert colors == list(METHOD_COLORS.values())
