"""The command line: ``moxi-lite explain PHOTO``, ``curves PHOTO``, ``study`` and ``models``.

Exit codes: 0 done; 1 the weights are unavailable, or the work failed (memory, device, disk, rewards
that are no numbers, images of a study); 2 wrong usage or input; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO
from urllib.parse import unquote, urlparse

from moxi_lite import __version__

# Everything heavy is imported inside the functions that need it, to keep --help quick.
if TYPE_CHECKING:
    from concurrent.futures import Executor

    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from moxi_lite.explanation import Explanation
    from moxi_lite.models import Classifier
    from moxi_lite.patches import PatchGame

DEFAULT_MODEL = "vit_tiny_patch16_224"


class _Failure(Exception):
    """Work that failed although the input was right."""


class _Parser(argparse.ArgumentParser):
    """Reports wrong usage in one line, like every other error of the program."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"moxi-lite: error: {message} (see: {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line with the arguments of the process, or others, and return its exit code.

    That is 0 done, 1 weights unavailable or failed work, 2 wrong usage or input, 130 Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal may lack a character of a file name
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = _run(argv)
        _say(end="")  # flushes what argparse has printed
        return code
    except KeyboardInterrupt:
        _complain("moxi-lite: stopped")
        return 130
    except (ValueError, TypeError, IndexError) as error:
        return _fail(error, 2)
    except (_Failure, OSError, MemoryError, RuntimeError, ImportError) as error:
        from moxi_lite.models import WeightsUnavailableError

        wrong_input = isinstance(error, OSError) and not isinstance(error, WeightsUnavailableError)
        return _fail(error, 2 if wrong_input else 1)


def _run(argv: Sequence[str] | None) -> int:
    try:
        options = vars(_parser().parse_args(argv))
        command = options.pop("command")
        code: int = command(**options)
        return code
    except SystemExit as stop:  # argparse: --help, --version, wrong usage
        return stop.code if isinstance(stop.code, int) else 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="moxi-lite", description="Which group of pixels does an image classifier rely on?"
    )
    parser.add_argument("--version", action="version", version=f"moxi-lite {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = _Parser(add_help=False)
    add = shared.add_argument
    add(
        "--masking",
        default="auto",
        metavar="NAME",
        help="what absent means: drop, zero, mean, blur, noise; or auto, that is drop where model "
        "and grid allow it, otherwise mean (default: auto)",
    )
    add("--grid", type=_grid, metavar="RxC", help="rows and columns (default: the model's)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")

    one_photo = _Parser(add_help=False)
    add = one_photo.add_argument
    add("photo", metavar="PHOTO", help="path or URL of an image")
    add("--model", metavar="NAME", help=f"see: moxi-lite models (default: {DEFAULT_MODEL})")
    add("--target", metavar="CLASS", help="index or name (default: the predicted class)")
    add(
        "--out",
        type=Path,
        default="moxi-out",
        metavar="DIR",
        help="folder for the results, made if needed (default: moxi-out)",
    )

    explain = commands.add_parser(
        "explain",
        parents=[one_photo, shared],
        help="find the patches that decide how a photo is classified",
        description="Find the patches that decide how a photo is classified; write a picture, "
        "the explanation as JSON, and a slider as a web page.",
    )
    explain.set_defaults(command=_explain)
    add = explain.add_argument
    add(
        "--mode",
        choices=("insertion", "deletion"),
        default="insertion",
        help="insert patches until the target is recognised, or remove them until it no longer "
        "is (default: insertion)",
    )
    add(
        "--stop",
        choices=("flip", "none"),
        default="flip",
        help="flip: once the prediction turns; none: go on to the budget (default: flip)",
    )
    add("--budget", type=int, metavar="N", help="most patches to choose (default: all)")

    curves = commands.add_parser(
        "curves",
        parents=[one_photo, shared],
        help="damage a photo patch by patch, in the order of a method",
        description="Corrupt the patches of a photo in the order in which a method would delete "
        "them; write the curve as JSON, and a picture of the photo under rising damage.",
    )
    curves.set_defaults(command=_curves)
    add = curves.add_argument
    add(
        "--method",
        default="moxi",
        metavar="NAME",
        help="moxi, gradcam, rollout, shapley, random or another of moxi-lite study "
        "(default: moxi)",
    )
    add(
        "--corruption",
        default="gaussian_noise",
        metavar="NAME",
        help="fog, frost, snow, motion_blur or another of ImageNet-C (default: gaussian_noise)",
    )
    add("--level", type=int, default=5, metavar="N", help="severity, 0 to 5 (default: 5)")
    add(
        "--budget",
        type=int,
        metavar="N",
        help="greedy steps of moxi, the rest is ranked by moxi- (default: all: minutes)",
    )
    add("--seed", type=int, default=0, metavar="N", help="for what is drawn (default: 0)")

    study = commands.add_parser(
        "study",
        parents=[shared],
        help="compare methods over many images, resumable and in parallel",
        description="Draw insertion and deletion curves of many images and methods into one table, "
        "DIR/NAME.parquet. Stopped at any moment and started again, it goes on where it was.",
    )
    study.set_defaults(command=_study)
    add = study.add_argument
    add("--model", metavar="NAME", required=True, help="see: moxi-lite models")
    add(
        "--images",
        metavar="IMAGE",
        nargs="+",
        default=[],
        help="ImageNet samples as numbers and ranges, such as 281 or 0-999:50 (every 50th), and "
        "paths or URLs of other images, for which the predicted class is the target",
    )
    add(
        "--labels",
        metavar="PATH",
        help="images with their classes: a CSV file with the columns image and label, or a folder "
        "with one folder a class",
    )
    add("--out", type=Path, metavar="DIR", required=True, help="folder of the study")
    add(
        "--methods",
        type=_list,
        default="moxi",
        metavar="A,B,...",
        help="moxi, gradcam, gradcam++, both also with -eigen and -paper, rollout, shapley, "
        "shapley-paper, rise, moxi-, random; or all (default: moxi)",
    )
    add(
        "--modes",
        type=_list,
        default="insertion,deletion",
        metavar="A,B",
        help="insertion, deletion (default: both)",
    )
    add(
        "--budget",
        type=_numbers,
        metavar="N",
        help="greedy steps of moxi, the rest is ranked; or insertion=N,deletion=M (default: all)",
    )
    add(
        "--dtype",
        default="float32",
        metavar="NAME",
        help="precision: float32, bfloat16, or mixed, where moxi screens candidates in bfloat16 "
        "and decides in float32 (default: float32)",
    )
    add(
        "--n-samples",
        type=_numbers,
        metavar="N",
        help="iterations of shapley and shapley-paper; or by method, shapley=10,rise=400; "
        "10:50:200 draws a Shapley curve for each number, for the price of the last",
    )
    add("--seed", type=int, default=0, metavar="N", help="for what methods draw (default: 0)")
    add(
        "--include-misclassified",
        action="store_true",
        help="also study images that the model misclassifies",
    )
    add("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")

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
    from moxi_lite.data import load_image
    from moxi_lite.errors import unknown_name, whole_number
    from moxi_lite.files import folder_for_results
    from moxi_lite.patches import MASKINGS, PatchGame
    from moxi_lite.search import explain

    out = out.expanduser()
    with folder_for_results(out):
        if masking not in MASKINGS:  # told before a model is loaded
            raise unknown_name("masking", masking, MASKINGS)
        endings = {"picture": "png", "data": "json", "slider": "html"}
        paths = {k: out / f"{_stem(photo)}-{mode}.{ending}" for k, ending in endings.items()}
        for label, path in paths.items():
            if path.is_dir():
                raise IsADirectoryError(
                    f"{path} is a folder, but the {label} is to be written there. Move it, or "
                    "choose another folder with --out."
                )
        image = load_image(photo)
        game = PatchGame(_model(model, device), image, target, masking, grid=grid)
        if budget is not None:
            whole_number("budget", budget, 1, game.n_players)
        try:
            _describe(photo, game, masking)
            if old := [path.name for path in paths.values() if path.exists()]:
                _say(f"replaces   {', '.join(old)}")
            ex = explain(
                game,
                mode,
                budget=budget,
                stop=None if stop == "none" else stop,
                show_progress=_shows_progress(),
            )
            _say(f"{mode:<10} {ex.summary()}")
            _write(ex, paths)
        except (ValueError, OSError) as error:
            raise _Failure(_message(error)) from error
        for label, path in paths.items():
            _say(f"{label:<10} {path}")
    return 0


def _curves(
    *,
    photo: str,
    model: str | None,
    method: str,
    corruption: str,
    level: int,
    target: str | None,
    budget: int | None,
    masking: str,
    grid: tuple[int, int] | None,
    seed: int,
    out: Path,
    device: str | None,
) -> int:
    """Damage one photo patch by patch and write the results."""
    import json

    from moxi_lite.attribution import METHODS
    from moxi_lite.corruption import CORRUPTIONS, corrupted_game, damage_strip
    from moxi_lite.curves import curves_of
    from moxi_lite.data import load_image
    from moxi_lite.errors import unknown_name, whole_number
    from moxi_lite.files import folder_for_results, write_atomically
    from moxi_lite.patches import MASKINGS, PatchGame

    out = out.expanduser()
    with folder_for_results(out):
        for kind, name, allowed in (  # told before a model is loaded
            ("method", method, ("moxi", *METHODS)),
            ("corruption", corruption, tuple(CORRUPTIONS)),
            ("masking", masking, MASKINGS),
        ):
            if name not in allowed:
                raise unknown_name(kind, name, allowed)
        whole_number("level", level, 0, len(CORRUPTIONS[corruption]))
        whole_number("seed", seed, 0)
        stem = f"{_stem(photo)}-{method}-{corruption}-{level}"
        paths = {"picture": out / f"{stem}.png", "data": out / f"{stem}.json"}
        image = load_image(photo)
        game = PatchGame(_model(model, device), image, target, masking, grid=grid)
        if budget is not None:
            whole_number("budget", budget, 1, game.n_players)
        damaged = corrupted_game(game, corruption, level, seed)
        try:
            _describe(photo, game, masking)
            order = _deletion_order(game, method, budget, seed)
            curve = curves_of(damaged, {method: order}, "deletion")[method]
            strip = damage_strip(game, order, corruption, level, random_state=seed)
            told = {
                "model": game.model.name,
                "weights_sha256": game.model.weights_sha256,
                "method": method,
                "corruption": corruption,
                "level": level,
                "seed": seed,
                "target": game.target,
                "class_name": game.model.class_name(game.target),
                "grid": game.grid,
                "order": order.tolist(),
                "fraction": curve.fraction.tolist(),
                "correct": curve.correct.tolist(),
                "probability": curve.probability.tolist(),
                "log_odds": curve.log_odds.tolist(),
            }
            write_atomically(paths["data"], json.dumps(told, indent=1).encode())
            buffer = io.BytesIO()
            strip.savefig(buffer, format="png", dpi=150)
            write_atomically(paths["picture"], buffer.getvalue())
        except (ValueError, OSError) as error:
            raise _Failure(_message(error)) from error
        flip = curve.patches_to_flip()
        lost = "never" if flip is None else f"after {flip} of {game.n_players} patches"
        _say(
            f"curve      class lost {lost}; probability {curve.probability[0]:.3f} to "
            f"{curve.probability[-1]:.3f}, mean {curve.auc():.3f}"
        )
        for label, path in paths.items():
            _say(f"{label:<10} {path}")
    return 0


def _deletion_order(
    game: PatchGame, method: str, budget: int | None, seed: int
) -> npt.NDArray[np.int64]:
    from moxi_lite.attribution import SAMPLING_METHODS, attribute
    from moxi_lite.search import complete_order, explain, order_of

    if method == "moxi":
        ex = explain(game, "deletion", budget=budget, show_progress=_shows_progress())
        return complete_order(ex.order, attribute(game, "moxi-", mode="deletion"))[0]
    drawn = seed if method in (*SAMPLING_METHODS, "random") else None
    return order_of(attribute(game, method, mode="deletion", random_state=drawn))


def _model(name: str | None, device: str | None) -> Classifier:
    """Load a model: one asked for by name or nothing; only the default has a fallback."""
    from moxi_lite.models import load_model

    if name is None:
        return load_model(DEFAULT_MODEL, fallback="efficientnet_lite0", device=device)
    return load_model(name, device=device)


def _describe(photo: str, game: PatchGame, masking: str) -> None:
    import numpy as np

    from moxi_lite.patches import deletion_problem

    model = game.model
    confidence = game.outcome(np.ones(game.n_players, dtype=bool)).confidences[0]
    _say(f"photo      {photo}")
    _say(
        f"model      {model.name} on {model.device}, {game.grid[0]}x{game.grid[1]} patches, "
        f"masking {game.masking}"
    )
    if masking == "auto" and game.masking == "mean":
        problem = deletion_problem(model.module, model.input_size, game.grid)
        _say(f"           mean colour instead of token deletion: {problem}")
    _say(f"weights    {model.source}")
    _say(f"           SHA-256 {model.weights_sha256}")
    seen = f"{model.class_name(game.predicted)} (class {game.predicted})"
    _say(f"sees       {seen}, probability {confidence:.3f}")
    if game.target != game.predicted:
        _say(f"target     {model.class_name(game.target)} (class {game.target})")


def _stem(photo: str) -> str:
    """Name of the photo without folder and extension, fit for a file name."""
    stem = Path(unquote(urlparse(photo).path) if "://" in photo else photo).stem
    plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in stem)
    # File systems count bytes: three for most Chinese characters.
    return plain.encode()[:80].decode(errors="ignore") or "photo"


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


def _study(
    *,
    images: list[str],
    labels: str | None,
    model: str,
    methods: list[str],
    modes: list[str],
    out: Path,
    jobs: int,
    seed: int,
    include_misclassified: bool,
    **settings: Any,  # those that the study knows by the same name
) -> int:
    """Run a study and say where its table is."""
    import warnings

    from moxi_lite.data import labelled_images
    from moxi_lite.errors import whole_number
    from moxi_lite.files import folder_for_results
    from moxi_lite.models import WeightsUnavailableError
    from moxi_lite.study import STUDY_METHODS, run_study

    whole_number("jobs", jobs, 1)
    if not images and labels is None:
        raise ValueError("a study needs images: pass --images, --labels or both.")
    wanted: list[Any] = [image for text in images for image in _images(text)]
    wanted += [] if labels is None else labelled_images(labels)
    with folder_for_results(out.expanduser()), _executor(jobs) as executor:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)  # failures are listed below
                result = run_study(
                    wanted,
                    model,
                    list(STUDY_METHODS) if methods == ["all"] else methods,
                    modes,
                    out,
                    executor,
                    random_state=seed,
                    only_correct=not include_misclassified,
                    show_progress=_shows_progress(),
                    **settings,
                )
        except (FileNotFoundError, IsADirectoryError, WeightsUnavailableError):
            raise
        except OSError as error:  # such as a full disk
            raise _Failure(_message(error)) from error
    n_studied = result.table["image"].nunique()
    _say(f"images     {n_studied} studied, {len(result.skipped)} misclassified and skipped")
    _say(f"table      {result.path} ({result.provenance['n_studied']} images in all)")
    _say(f"record     {result.path.with_suffix('.json')}")
    for name, reason in result.failed.items():
        _complain(f"failed     {name}: {' '.join(reason.split())}")
    if result.failed:
        _complain(f"details    {result.path.parent / 'failures'}")
    return 1 if result.failed else 0


@contextlib.contextmanager
def _executor(jobs: int) -> Iterator[Executor | None]:
    if jobs == 1:
        yield None
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, initializer=_start_worker, initargs=(threads,)) as pool:
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def _start_worker(threads: int) -> None:
    """Share the cores among the processes; Ctrl-C, which reaches all of them, ends one at once."""
    import signal
    import threading

    import torch
    from tqdm import tqdm

    signal.signal(signal.SIGINT, signal.SIG_DFL)  # whole images only are stored: nothing is lost
    tqdm.set_lock(threading.RLock())  # its own, a semaphore, would outlive a process that is ended
    torch.set_num_threads(threads)


def _models(*, pattern: str) -> int:
    from moxi_lite.errors import unknown_name
    from moxi_lite.models import available_models

    wanted = pattern if any(c in pattern for c in "*?[") else f"*{pattern}*"
    names = available_models(wanted.lower())
    if not names:
        raise unknown_name("model", pattern, available_models())
    _say(
        f"{len(names)} models. Tokens of absent patches are left out where that is defined (plain "
        "Vision Transformers); elsewhere the patches take the mean colour, and explain says so."
    )
    _say("\n".join(f"  {name}" for name in names))
    return 0


def _grid(text: str) -> tuple[int, int]:
    try:
        rows, columns = map(int, text.lower().split("x"))
    except ValueError:
        expected = f"expected rows x columns such as 14x14, not {text!r}"
        raise argparse.ArgumentTypeError(expected) from None
    return rows, columns


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> Any:
    """Read ``10``, ``10:50``, or such by name, as in ``shapley=10:50,rise=400``."""
    try:
        if "=" in text:
            pairs = [part.split("=") for part in _list(text)]
            return {name.strip(): _numbers(numbers) for name, numbers in pairs}
        return tuple(map(int, text.split(":"))) if ":" in text else int(text)
    except ValueError:
        expected = f"expected a number or NAME=NUMBER,..., not {text!r}"
        raise argparse.ArgumentTypeError(expected) from None


def _images(text: str) -> Sequence[int | str]:
    """Read ``281``, ``0-9``, ``0-999:50``; anything else is a path or an address."""
    found = re.fullmatch(r"(\d+)(?:-(\d+)(?::(\d+))?)?", text)
    if found is None:
        return [text]
    first, last, step = found.groups()
    numbers = range(int(first), int(last or first) + 1, int(step or 1) or 1)
    if not numbers or step == "0":
        raise ValueError(f"--images {text} is empty: write FIRST-LAST or FIRST-LAST:STEP.")
    return numbers


def _say(text: str = "", end: str = "\n") -> None:
    """Print at once; a reader that has seen enough, such as `head`, does not stop the work."""
    try:
        print(text, end=end, flush=True)
    except OSError as error:
        _mute(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            reason = f"cannot write to the standard output: {error.strerror}."
            raise _Failure(reason) from error


def _complain(line: str) -> None:
    if sys.stderr is not None:  # print would take the standard output in place of a closed one
        try:
            print(line, file=sys.stderr, flush=True)
        except OSError:
            _mute(sys.stderr)


def _mute(stream: TextIO) -> None:
    """Send what a stream still holds nowhere; Python would complain of it again on exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _shows_progress() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return f"out of memory. {error}" if isinstance(error, MemoryError) else str(error)


def _fail(error: Exception, code: int) -> int:
    message = " ".join(_message(error).split())
    _complain(f"moxi-lite: error: {message or type(error).__name__}")
    return code


if __name__ == "__main__":
    sys.exit(main())
