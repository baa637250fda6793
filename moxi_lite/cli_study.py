"""The command ``moxi-lite study``."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from moxi_lite.cli_output import complain, fail, in_shell_words, shows_progress

# Everything heavy is imported inside the functions that need it, to keep --help quick.
if TYPE_CHECKING:
    from concurrent.futures import Executor

    from moxi_lite.study import StudyResult

T = TypeVar("T")

_RANGE = re.compile(r"(\d+)(?:-(\d+)(?::(\d+))?)?")


def add_parser(subparsers: Any) -> None:
    """Add the command to those of ``moxi-lite``; its ``command`` takes the options by name."""
    parser = subparsers.add_parser(
        "study",
        help="compare methods over many images, resumable and in parallel",
        description="Draw insertion and deletion curves of many images and methods into one "
        "table, DIR/NAME.parquet. Stopped at any moment and started again, it goes on where it "
        "was; started several times at once with the same options, it shares the work.",
    )
    parser.set_defaults(command=_command)
    add = parser.add_argument
    add("--model", metavar="NAME", required=True, help="see: moxi-lite models")
    add(
        "--images",
        metavar="IMAGE",
        nargs="+",
        required=True,
        help="ImageNet samples as numbers and ranges, such as 281 or 0-999:50 (every 50th), and "
        "paths or URLs of other images, for which the predicted class is the target",
    )
    add("--out", type=Path, metavar="DIR", required=True, help="folder of the study")
    add(
        "--methods",
        type=_list,
        default=["moxi"],
        metavar="A,B,...",
        help="moxi, gradcam, gradcam++, both also with -eigen and -aug, rollout, shapley, "
        "shapley-paper, rise, moxi-, random; or all (default: moxi)",
    )
    add(
        "--modes",
        type=_list,
        default=["insertion", "deletion"],
        metavar="A,B",
        help="insertion, deletion (default: both)",
    )
    add(
        "--budget",
        type=_budget,
        metavar="N",
        help="greedy steps of moxi, the rest is ranked; or insertion=N,deletion=M (default: all)",
    )
    add(
        "--masking",
        default="drop",
        metavar="NAME",
        help="what absent means: drop, zero, mean, blur, noise (default: drop)",
    )
    add("--grid", type=_grid, metavar="RxC", help="rows and columns (default: the model's)")
    add(
        "--dtype",
        default="float32",
        metavar="NAME",
        help="precision: float32, bfloat16, or mixed, where moxi screens candidates in bfloat16 "
        "and decides in float32 (default: float32)",
    )
    add(
        "--n-samples",
        type=_samples,
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
    add("--device", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")


def run(options: argparse.Namespace) -> int:
    """Run the study.

    Parameters
    ----------
    options : argparse.Namespace
        What the parser of `add_parser` yields.

    Returns
    -------
    int
        0 done; 1 weights not to be had, images failed or a file could not be written; 2 wrong
        usage or input.
    """
    from moxi_lite.files import UnusableFolderError, folder_for_results
    from moxi_lite.study import METHODS, checked_names, run_study

    try:
        if options.jobs < 1:
            raise ValueError(f"--jobs must be at least 1, not {options.jobs}.")
        methods = list(METHODS) if options.methods == ["all"] else options.methods
        checked_names(methods, options.modes, options.masking)
        images = _images(options.images)
        with (
            folder_for_results(options.out.expanduser()),
            _executor(options.jobs) as executor,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", RuntimeWarning)  # failures are listed below
            result = run_study(
                images,
                options.model,
                methods,
                options.modes,
                options.out,
                executor,
                budget=options.budget,
                masking=options.masking,
                grid=options.grid,
                dtype=options.dtype,
                n_samples=options.n_samples,
                random_state=options.seed,
                only_correct=not options.include_misclassified,
                device=options.device,
                show_progress=shows_progress(),
            )
    except (ValueError, TypeError, IndexError) as error:
        return fail(error, 2)
    except (UnusableFolderError, FileNotFoundError, IsADirectoryError) as error:
        return fail(error, 2)
    except (OSError, MemoryError, RuntimeError, ImportError) as error:
        return fail(error, 1)
    _report(result)
    return 1 if result.failed else 0


def _command(**options: Any) -> int:
    return run(argparse.Namespace(**options))


def _report(result: StudyResult) -> None:
    n_studied = result.table["image"].nunique()
    print(f"images     {n_studied} studied, {len(result.skipped)} misclassified and skipped")
    print(f"table      {result.path} ({result.provenance['n_studied']} images in all)")
    print(f"record     {result.path.with_suffix('.json')}")
    for name, reason in result.failed.items():
        complain(f"failed     {name}: {in_shell_words(reason)}")
    if result.failed:
        complain(f"details    {result.path.parent / 'failures'}")


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
        workers = pool._processes
        try:
            yield pool
        except BaseException:  # such as Ctrl-C: whole images only are stored, so nothing is lost
            pool.shutdown(wait=False, cancel_futures=True)
            time.sleep(0.3)  # Python's thread behind the pool complains if it has not seen that yet
            for worker in list(workers.values()):
                worker.terminate()
            raise


def _start_worker(threads: int) -> None:
    """Share the cores among the processes, and end with the one that started them."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    import multiprocessing
    import threading

    import torch
    from tqdm import tqdm

    torch.set_num_threads(threads)
    tqdm.set_lock(threading.RLock())  # its own, a semaphore, would outlive a process that is ended
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)  # an idle worker would wait for ever for a parent that was killed

    threading.Thread(target=follow, daemon=True).start()


def _images(given: Sequence[str]) -> list[int | str]:
    images: list[int | str] = []
    for text in given:
        found = _RANGE.fullmatch(text)
        if found is None:
            images.append(text)
            continue
        first, last, step = found.groups()
        numbers = range(int(first), int(last or first) + 1, int(step or 1) or 1)
        if not numbers or step == "0":
            raise ValueError(f"--images {text} is empty: write FIRST-LAST or FIRST-LAST:STEP.")
        images.extend(numbers)
    return images


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _budget(text: str) -> int | dict[str, int]:
    """Read ``40`` or ``insertion=40,deletion=60``."""
    return _all_or_by_name(text, int)


def _samples(text: str) -> int | tuple[int, ...] | dict[str, int | tuple[int, ...]]:
    """Read ``10``, ``10:50``, or such by name, as in ``shapley=10:50,rise=400``."""
    return _all_or_by_name(text, _one_or_several)


def _one_or_several(text: str) -> int | tuple[int, ...]:
    return tuple(map(int, text.split(":"))) if ":" in text else int(text)


def _all_or_by_name(text: str, read: Callable[[str], T]) -> T | dict[str, T]:
    try:
        if "=" not in text:
            return read(text)
        pairs = [part.split("=") for part in _list(text)]
        return {name.strip(): read(value) for name, value in pairs}
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a number or NAME=NUMBER,..., not {text!r}"
        ) from None


def _grid(text: str) -> tuple[int, int]:
    rows, cross, columns = text.lower().partition("x")
    if not (cross and rows.isdecimal() and columns.isdecimal()):
        raise argparse.ArgumentTypeError(f"expected rows x columns such as 14x14, not {text!r}")
    return int(rows), int(columns)
