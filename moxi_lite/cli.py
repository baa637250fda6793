"""The command line: ``moxi-lite explain PHOTO``, ``moxi-lite study`` and ``moxi-lite models``.

Exit codes: 0 done; 1 the weights cannot be had, or the work failed (memory, device, disk, rewards
that are no numbers, images of a study); 2 wrong usage or input; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, cast
from urllib.parse import unquote, urlparse

from moxi_lite.cli_output import PatientOutput, complain, fail, shows_progress
from moxi_lite.cli_study import add_parser as add_study

# Everything heavy is imported inside the functions that need it, to keep --help quick.
if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from moxi_lite.explanation import Explanation
    from moxi_lite.models import Classifier
    from moxi_lite.patches import PatchGame

DEFAULT_MODEL = "vit_tiny_patch16_224"
MASKINGS = ("auto", "drop", "zero", "mean", "blur", "noise")


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line, like every other error of the program."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"moxi-lite: error: {message} (see: {self.prog} --help)\n")


class _ShowVersion(argparse.Action):
    """Looks the version up only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from moxi_lite import __version__

        print(f"moxi-lite {__version__}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        Exit code: 0 done, 1 weights not to be had or failed work, 2 wrong usage or input,
        130 Ctrl-C.
    """
    output = PatientOutput(sys.stdout)
    with contextlib.redirect_stdout(cast(TextIO, output)):
        code = _run(argv)
        output.flush()
    # A reader that has seen enough, such as `head`, is no failure.
    if output.problem is None or isinstance(output.problem, BrokenPipeError):
        return code
    reason = output.problem.strerror or str(output.problem)
    return fail(OSError(f"cannot write to the standard output: {reason}."), code or 1)


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = vars(_parser().parse_args(argv))
        command = options.pop("command")
        code: int = command(**options)
        return code
    except SystemExit as stop:  # argparse: --help, --version, wrong usage
        return stop.code if isinstance(stop.code, int) else 0
    except KeyboardInterrupt:
        complain("moxi-lite: stopped")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="moxi-lite",
        description="Which group of pixels does an image classifier rely on?",
    )
    parser.add_argument(
        "--version",
        action=_ShowVersion,
        nargs=0,
        default=argparse.SUPPRESS,
        help="show the version and exit",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    explain = commands.add_parser(
        "explain",
        help="find the patches that decide how a photo is classified",
        description="Find the patches that decide how a photo is classified; write a picture, "
        "the explanation as JSON, and a slider as a web page.",
    )
    explain.set_defaults(command=_explain)
    add = explain.add_argument
    add("photo", metavar="PHOTO", help="path or URL of an image")
    add("--model", metavar="NAME", help=f"see: moxi-lite models (default: {DEFAULT_MODEL})")
    add(
        "--mode",
        choices=("insertion", "deletion"),
        default="insertion",
        help="insert patches until the target is recognised, or remove them until it no longer "
        "is (default: insertion)",
    )
    add("--target", metavar="CLASS", help="index or name (default: the predicted class)")
    add(
        "--stop",
        choices=("flip", "none"),
        default="flip",
        help="flip: once the prediction turns; none: go on to the budget (default: flip)",
    )
    add("--budget", type=int, metavar="N", help="most patches to choose (default: all)")
    add(
        "--masking",
        default="auto",
        metavar="NAME",
        help=f"what absent means: {', '.join(MASKINGS)} (default: auto, that is drop where the "
        "model allows it, otherwise mean)",
    )
    add(
        "--grid",
        type=_grid,
        metavar="RxC",
        help="rows and columns of patches (default: the model's)",
    )
    add(
        "--out",
        type=Path,
        default=Path("moxi-out"),
        metavar="DIR",
        help="folder for the results, made if needed (default: moxi-out)",
    )
    add("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")

    add_study(commands)

    models = commands.add_parser(
        "models",
        help="list the models that can be explained",
        description="List the models that can be explained; nothing is downloaded.",
    )
    models.set_defaults(command=_models)
    models.add_argument(
        "pattern",
        nargs="?",
        default="*",
        metavar="PATTERN",
        help="part of a name, or a shell pattern such as 'vit_*_patch16_224'",
    )
    return parser


def _grid(text: str) -> tuple[int, int]:
    rows, cross, columns = text.lower().partition("x")
    if not (cross and rows.isdecimal() and columns.isdecimal() and int(rows) and int(columns)):
        raise argparse.ArgumentTypeError(f"expected rows x columns such as 14x14, not {text!r}")
    return int(rows), int(columns)


def _explain(
    *,
    photo: str,
    model: str | None,
    mode: str,
    target: str | None,
    stop: str,
    budget: int | None,
    masking: str,
    grid: tuple[int, int] | None,
    out: Path,
    device: str | None,
) -> int:
    """Explain one photo and write the results."""
    from moxi_lite.files import folder_for_results
    from moxi_lite.models import WeightsUnavailableError
    from moxi_lite.search import explain

    out = out.expanduser()
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(folder_for_results(out))
            _check_names(model, masking, budget)
            paths = _result_paths(out, f"{_stem(photo)}-{mode}")
            game = _load_game(photo, model, target, masking, grid, device)
            if budget is not None and budget > game.n_players:
                raise ValueError(f"--budget must be 1..{game.n_players}, the number of patches.")
        except (WeightsUnavailableError, MemoryError, RuntimeError) as error:
            return fail(error, 1)
        except (ValueError, TypeError, IndexError, OSError) as error:
            return fail(error, 2)

        try:
            _describe(photo, game)
            if old := [path.name for path in paths.values() if path.exists()]:
                print(f"replaces   {', '.join(old)}")
            sys.stdout.flush()
            ex = explain(
                game,
                mode,
                budget=budget,
                stop=None if stop == "none" else stop,
                show_progress=shows_progress(),
            )
            print(f"{mode:<10} {ex.summary()}")
            _write(ex, paths)
        except (ValueError, OSError, MemoryError, RuntimeError) as error:  # CUDA's are the last
            return fail(error, 1)
        for label, path in paths.items():
            print(f"{label:<10} {path}")
        return 0


def _check_names(model: str | None, masking: str | None, budget: int | None) -> None:
    from moxi_lite.errors import unknown_name
    from moxi_lite.models import check_model_name

    if model is not None:
        check_model_name(model)
    if masking not in MASKINGS:
        raise unknown_name("masking", masking, MASKINGS)
    if budget is not None and budget < 1:
        raise ValueError(f"--budget must be at least 1 patch, not {budget}.")


def _load_game(
    photo: str,
    model: str | None,
    target: str | None,
    masking: str,
    grid: tuple[int, int] | None,
    device: str | None,
) -> PatchGame:
    from moxi_lite.data import load_image
    from moxi_lite.models import load_model
    from moxi_lite.patches import PatchGame, deletion_problem

    image = load_image(photo)
    # A model asked for by name is that model or nothing; only the default has a fallback.
    if model is None:
        classifier = load_model(DEFAULT_MODEL, fallback="efficientnet_lite0", device=device)
    else:
        classifier = load_model(model, device=device)
    chosen = None if target is None else classifier.class_index(target)
    game = PatchGame(classifier, image, target=chosen, masking=masking, grid=grid)
    if masking == "auto" and game.masking == "mean":
        problem = deletion_problem(classifier.module, classifier.input_size, game.grid)
        print(f"masking    mean colour instead of token deletion: {problem}")
    return game


def _describe(photo: str, game: PatchGame) -> None:
    import numpy as np

    model = game.model
    confidence = game.outcome(np.ones(game.n_players, dtype=bool)).confidences[0]
    print(f"photo      {photo}")
    print(
        f"model      {model.name} on {model.device}, {game.grid[0]}x{game.grid[1]} patches, "
        f"masking {game.masking}"
    )
    print(f"weights    {model.source}")
    print(f"           SHA-256 {model.weights_sha256}")
    print(f"sees       {_class(model, game.predicted)}, probability {confidence:.3f}")
    if game.target != game.predicted:
        print(f"target     {_class(model, game.target)}")


def _class(model: Classifier, index: int) -> str:
    return f"{model.class_name(index)} (class {index})"


def _stem(photo: str) -> str:
    """Name of the photo without folder and extension, fit for a file name."""
    stem = Path(unquote(urlparse(photo).path) if "://" in photo else photo).stem
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)
    # File systems count bytes: three for most Chinese characters.
    return plain.encode()[:80].decode(errors="ignore") or "photo"


def _result_paths(out: Path, stem: str) -> dict[str, Path]:
    """Where the results go, by what they are; refuses a folder in the place of one."""
    endings = {"picture": "png", "data": "json", "slider": "html"}
    paths = {label: out / f"{stem}.{ending}" for label, ending in endings.items()}
    for label, path in paths.items():
        if path.is_dir():
            raise IsADirectoryError(
                f"{path} is a folder, but the {label} is to be written there. Move it, or choose "
                "another folder with --out."
            )
    return paths


def _write(ex: Explanation, paths: dict[str, Path]) -> None:
    from moxi_lite.explanation import reveal
    from moxi_lite.files import write_atomically

    buffer = io.BytesIO()
    _figure(ex).savefig(buffer, format="png", dpi=150)
    write_atomically(paths["picture"], buffer.getvalue())
    ex.save(paths["data"])
    reveal(ex).save(paths["slider"])


def _figure(ex: Explanation) -> Figure:
    """Draw all steps of the search, also those after the prediction has turned."""
    from matplotlib.figure import Figure

    from moxi_lite.explanation import plot_explanation

    figure = Figure(figsize=(6, 5), layout="constrained")
    ax = plot_explanation(ex, figure.add_subplot(), steps=len(ex))
    flip = ex.patches_to_flip()
    if flip and flip < len(ex):
        ax.set_title(f"{ax.get_title()}; the prediction turned at {flip}")
    return figure


def _models(*, pattern: str) -> int:
    """List models, grouped by what can be done with them."""
    import timm

    from moxi_lite.errors import unknown_name
    from moxi_lite.models import PACKAGED_MODEL, SET_SUM_MODELS, available_models

    wanted = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    names = available_models(wanted.lower())
    if not names:
        return fail(unknown_name("model", pattern, available_models()), 2)
    # The architectures of these two files of timm are plain ViTs, except for those that pool
    # by attention; asking the built models themselves would take a minute.
    plain = {*timm.list_models(module="vision_transformer"), *timm.list_models(module="deit")}
    pooled = {n for n in plain if "_map_" in n or ("siglip" in n and "gap" not in n)}
    deletes = plain - pooled
    groups = {
        "weights come with a package, no network needed (masking mean)": [
            n for n in names if n == PACKAGED_MODEL
        ],
        "plain Vision Transformers: tokens can be deleted (masking drop)": [
            n for n in names if n in deletes
        ],
        "others: pixels are masked (masking mean)": [
            n for n in names if n not in {*deletes, *SET_SUM_MODELS, PACKAGED_MODEL}
        ],
        "of moxi-lite itself, for composites of digits (masking drop)": [
            n for n in names if n in SET_SUM_MODELS
        ],
    }
    for title, members in groups.items():
        if members:
            print(f"{title}: {len(members)}")
            print("".join(f"  {name}\n" for name in members))
    return 0


if __name__ == "__main__":
    sys.exit(main())
