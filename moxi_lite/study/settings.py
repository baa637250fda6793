"""What a study is asked for: its arguments, checked and in the form in which they are stored."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from moxi_lite.attribution import METHODS, SAMPLING_METHODS, SHAPLEY_SAMPLERS
from moxi_lite.curves import checked_points
from moxi_lite.errors import index_of, unknown_name, whole_number, whole_pair
from moxi_lite.games import rising_numbers
from moxi_lite.models import Classifier, load_model
from moxi_lite.patches import MASKINGS, resolve_masking
from moxi_lite.search import MODES

Samples = int | Iterable[int] | Mapping[str, int | Iterable[int]]
ModelSource = str | Classifier | Callable[[], Classifier]

STUDY_METHODS = ("moxi", *METHODS)
_DTYPES = ("float32", "mixed", "bfloat16", "float16", "float64")
_MOST_PATCHES = 2**15 - 1  # steps are stored as int16


@dataclass(frozen=True)
class Settings:
    """Everything but the images that determines the table; see `run_study`."""

    model: str
    weights_sha256: str
    input_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    methods: tuple[str, ...]
    modes: tuple[str, ...]
    budget: dict[str, int | None]
    masking: str
    grid: tuple[int, int]
    dtype: str
    n_samples: dict[str, int | tuple[int, ...]]
    random_state: int
    only_correct: bool
    points: tuple[int, ...] | None = None

    def curve_names(self, method: str) -> tuple[str, ...]:
        """Names of the curves that a method draws: one, or one for each number or random order."""
        draws = self.n_samples.get(method)
        if method == "random" and isinstance(draws, int):
            draws = tuple(range(1, draws + 1))
        return tuple(f"{method}-{n}" for n in draws) if isinstance(draws, tuple) else (method,)


def checked_names(
    methods: Iterable[str], modes: Iterable[str], masking: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return methods and modes; unknown names are refused before a model is loaded."""
    checked = _names("method", methods, STUDY_METHODS), _names("mode", modes, MODES)
    if masking not in MASKINGS:
        raise unknown_name("masking", masking, MASKINGS)
    return checked


def make_settings(
    model: Classifier,
    methods: tuple[str, ...],
    modes: tuple[str, ...],
    *,
    budget: int | Mapping[str, int | None] | None,
    masking: str,
    grid: int | tuple[int, int] | None,
    dtype: torch.dtype | str | None,
    n_samples: Samples | None,
    random_state: int,
    only_correct: bool,
    points: Iterable[int] | None,
) -> Settings:
    """Check the arguments of `run_study` that depend on the model; errors as it says."""
    rows, columns = whole_pair("grid", model.grid if grid is None else grid)
    n = whole_number(
        f"the number of patches of grid {(rows, columns)}", rows * columns, 1, _MOST_PATCHES
    )
    precision = "float32" if dtype is None else str(dtype).removeprefix("torch.")
    if precision not in _DTYPES:
        raise unknown_name("dtype", precision, _DTYPES)
    return Settings(
        model=model.name,
        weights_sha256=model.weights_sha256,
        input_size=model.input_size,
        mean=model.mean,
        std=model.std,
        methods=methods,
        modes=modes,
        budget=_budgets(budget, modes, n),
        masking=str(resolve_masking(model, masking, (rows, columns))),
        grid=(rows, columns),
        dtype=precision,
        n_samples={} if n_samples is None else _samples(n_samples, methods),
        random_state=whole_number("random_state", random_state, 0),
        only_correct=bool(only_correct),
        points=None if points is None else tuple(checked_points(list(points), n).tolist()),
    )


def load_source(source: ModelSource, device: str | None) -> Classifier:
    """Load a model by its name or its function; raises TypeError for anything else."""
    if isinstance(source, str):
        return load_model(source, device=device)
    model = source
    if callable(source) and not isinstance(source, torch.nn.Module | Classifier):
        model = source()
    if not isinstance(model, Classifier):
        raise TypeError(
            "model must be a name, a Classifier or a function without arguments that returns a "
            f"Classifier; got {type(model).__name__}. load_model wraps a torch.nn.Module."
        )
    return model


def _names(kind: str, given: Iterable[str], allowed: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names in the order in which they are known, which settings do not depend on."""
    if isinstance(given, str) or not isinstance(given, Iterable):
        example = given if isinstance(given, str) else allowed[0]
        raise TypeError(
            f"{kind}s must be a sequence of names, such as [{example!r}], not {given!r}."
        )
    wanted = list(given)
    for name in wanted:
        if name not in allowed:
            raise unknown_name(kind, name, allowed)
        if wanted.count(name) > 1:
            raise ValueError(f"{kind} {name!r} is listed twice.")
    if not wanted:
        raise ValueError(f"{kind}s is empty: expected one or more of {', '.join(allowed)}.")
    return tuple(name for name in allowed if name in wanted)


def _budgets(
    budget: int | Mapping[str, int | None] | None, modes: tuple[str, ...], n: int
) -> dict[str, int | None]:
    given = budget if isinstance(budget, Mapping) else dict.fromkeys(modes, budget)
    for mode, k in given.items():
        if mode not in modes:
            raise unknown_name("mode of budget", mode, modes)
        if k is not None:
            whole_number(f"the budget for {mode}", k, 1, n)
    return {mode: None if (k := given.get(mode)) is None else index_of(k) for mode in modes}


def _samples(n_samples: Samples, methods: tuple[str, ...]) -> dict[str, int | tuple[int, ...]]:
    drawing = [method for method in (*SAMPLING_METHODS, "random") if method in methods]
    if not isinstance(n_samples, Mapping):
        shapley = [method for method in drawing if method in SHAPLEY_SAMPLERS]
        if not shapley:
            raise ValueError(
                f"n_samples={n_samples} is for {' and '.join(SHAPLEY_SAMPLERS)}, which are not "
                'among the methods: leave it out, or name the method, as in {"rise": 1000}.'
            )
        n_samples = dict.fromkeys(shapley, _draws(shapley[0], n_samples))  # a generator gives once
    for method in n_samples:
        if method not in drawing:
            raise unknown_name("method of n_samples among those that draw", method, drawing)
    return {method: _draws(method, n_samples[method]) for method in drawing if method in n_samples}


def _draws(method: str, given: int | Iterable[int]) -> int | tuple[int, ...]:
    name = f"n_samples of {method}"
    if method == "rise":
        number = whole_number(name, given, 2)
        if number % 2:
            raise ValueError(f"{name} must be even, not {number}: masks come in pairs.")
        return number
    if method == "random":
        return whole_number(name, given, 1)
    try:
        index_of(given)
    except TypeError:
        if isinstance(given, Iterable):
            return tuple(rising_numbers(name, given))
    return whole_number(name, given, 1)
