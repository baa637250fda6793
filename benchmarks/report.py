"""The measurements as one table: what, how much, what was aimed at."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from moxi_lite.search import MODES

Row = tuple[str, float, str, float | None]  # what, value, how to print it, least value aimed at

# Aims hold on a CPU with two cores and no other work.
_PEAK_AIMS = {"fp32": 0.80, "bf16": 0.55}
_SPEED_AIMS = {
    ("insertion", "fp32"): 4.0,
    ("insertion", "mixed"): 7.0,
    ("deletion", "fp32"): 2.5,
    ("deletion", "mixed"): 4.0,
}


def rows_of(results: dict[str, Any]) -> Iterator[Row]:
    """List everything measured."""
    real = results["real_weights"]
    if searches := results.get("searches"):
        yield from _of_searches(searches, results["machine"]["device"] == "cpu")
    if flip := results.get("flip"):
        median, full = flip["median"], "to the flip: reference's full insertion"
        fp32, mixed, stopping = (
            median[f"{name}times_faster_than_{rival}"]
            for name, rival in (
                ("", "full_reference"),
                ("mixed_", "full_reference"),
                ("", "reference_to_the_flip"),
            )
        )
        yield "patches to the flip, median image", median["patches"], "{:.0f}", None
        yield f"{full} / fp32, median image", fp32, "{:.0f}x", 50.0 if real else None
        yield f"{full} / mixed, median image", mixed, "{:.0f}x", None
        what = "to the flip: reference stopping there too / fp32, first image"
        yield what, stopping, "{:.1f}x", None
    if found := results.get("agreement"):
        what = f"mixed chooses as fp32 ({found['n_steps']} steps)"
        yield what, found["share"], "{:.1%}", 0.95 if real else None
        yield "largest loss of mixed (log-odds)", found["largest_loss"], "{:.4f}", None
        yield "fp32's choice when screened, lowest place", found["largest_rank"], "{}", None
        yield "the same, gap to the top (log-odds)", found["largest_gap"], "{:.3f}", None
    if scaling := results.get("scaling"):
        fit, error = scaling["fit"], "fit of both terms, worst error"
        yield "cubic term (linear layers)", fit["gflop_per_s_cubic"], "{:.0f} GFLOP/s", None
        yield "quartic term (attention)", fit["gflop_per_s_quartic"], "{:.0f} GFLOP/s", None
        for label, each in (("", fit), (", processor time", scaling["cpu_fit"])):
            yield error + label, each["largest_relative_error"], "{:.0%}", None
        for point in scaling["points"]:
            what = f"full {point['mode']}, {point['n']} patches"
            yield what, point["seconds"], "{:.1f} s", None
    for name, shares in results.get("profile", {}).items():
        for kind, share in shares.items():
            yield f"time of a {name} step in {kind}", share, "{:.0%}", None
    for name, found in results.get("gpu", {"results": {}})["results"].items():
        yield f"GPU, full {name}", found["images_per_s"], "{:.2f} images/s", None
        yield f"GPU, full {name}: share of peak", found["share_of_peak"], "{:.2f}", None
        if found["memory_gib"] is not None:
            yield f"GPU, full {name}: memory", found["memory_gib"], "{:.1f} GiB", None


def _of_searches(searches: dict[str, Any], on_cpu: bool) -> Iterator[Row]:
    for prefix, label in (("", ""), ("cpu_", ", processor time")):
        has_aim = on_cpu and not prefix
        for name, aim in _PEAK_AIMS.items():
            peak = searches[f"{prefix}peak_flop_per_s"][name]
            rates, what = searches[f"{prefix}flop_per_s"][name], f"searches / product, {name}"
            executed, plain = rates["executed"] / peak, rates["plain"] / peak
            yield f"large product, {name}{label}", peak / 1e9, "{:.0f} GFLOP/s", None
            yield f"{what}, FLOPs that run{label}", executed, "{:.2f}", aim if has_aim else None
            yield f"{what}, FLOPs of plain forwards{label}", plain, "{:.2f}", None
        seconds = searches[f"{prefix}seconds"]
        for mode in MODES:
            for name in ("fp32", "mixed", "bf16"):
                what = f"full {mode}: reference / {name}{label}"
                ratio = seconds["reference"][mode] / seconds[name][mode]
                yield what, ratio, "{:.1f}x", _SPEED_AIMS.get((mode, name)) if has_aim else None
    for name, mib in (searches["memory"] or {}).items():
        yield f"peak memory of a step: {name[:-4]}", mib, "{:.0f} MiB", None


def table(results: dict[str, Any]) -> str:
    """Lay the rows out as text."""
    lines = []
    for what, value, form, aim in rows_of(results):
        verdict = ""
        if aim is not None:
            verdict = f"aim {form.format(aim)}: {'met' if value >= aim else 'MISSED'}"
        lines.append(f"{what:<64}{form.format(value):>16}   {verdict}".rstrip())
    return "\n".join(lines)
