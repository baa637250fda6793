"""Draw the picture of the README, book/_static/readme.png: one photograph explained both ways."""

from __future__ import annotations

import argparse

import matplotlib.pyplot as plt
from _common import ROOT

import moxi_lite as moxi

PICTURE = ROOT / "book" / "_static" / "readme.png"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photo", default="camera", choices=moxi.SAMPLE_PHOTOS)
    parser.add_argument("--model", default="vit_tiny_patch16_224")
    options = parser.parse_args()

    model = moxi.load_model(options.model)
    game = moxi.PatchGame(model, moxi.sample_photo(options.photo), grid=(7, 7))
    inserted = moxi.explain(game, "insertion", stop="flip", show_progress=True)
    deleted = moxi.explain(game, "deletion", stop="flip", show_progress=True)

    figure, axes = plt.subplots(1, 4, figsize=(14, 4), layout="constrained")
    name = model.class_name(game.target).split(",")[0]
    axes[0].imshow(game.display)
    axes[0].set_title(f"a photograph: “{name}”")
    axes[1].imshow(inserted.visible_image(len(inserted)))
    axes[1].set_title(f"{len(inserted)} of {game.n_players} patches suffice")
    for ax, ex in ((axes[2], inserted), (axes[3], deleted)):
        moxi.plot_explanation(ex, ax=ax)
    for ax in axes:
        ax.axis("off")
    figure.savefig(PICTURE, dpi=80)
    print(f"wrote {PICTURE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
