"""The measurements as one table: what, how much, what was aimed at."""

from __future__ import annotations

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


def rows_of(results: dict[str, Any]) -> list[Row]:
    """List everything measured."""
    rows: list[Row] = []
    searches = results.get("searches")
    if searches:
        on_cpu = results["machine"]["device"] == "cpu"
        for prefix, label in (("", ""), ("cpu_", ", processor time")):
            for name, aim in _PEAK_AIMS.items():
                peak = searches[f"{prefix}peak_flop_per_s"][name]
                rates = searches[f"{prefix}flop_per_s"][name]
                what = f"searches / product, {name}"
                has_aim = on_cpu and not prefix
                rows += [
                    (f"large product, {name}{label}", peak / 1e9, "{:.0f} GFLOP/s", None),
                    (
                        f"{what}, FLOPs that run{label}",
                        rates["executed"] / peak,
                        "{:.2f}",
                        aim if has_aim else None,
                    ),
                    (
                        f"{what}, FLOPs of plain forwards{label}",
                        rates["plain"] / peak,
                        "{:.2f}",
                        None,
                    ),
                ]
        for kind, label in (("seconds", ""), ("cpu_seconds", ", processor time")):
            seconds = searches[kind]
            for mode in MODES:
                rows += [
                    (
                        f"full {mode}: reference / {name}{label}",
                        seconds["reference"][mode] / seconds[name][mode],
                        "{:.1f}x",
                        _SPEED_AIMS.get((mode, name)) if kind == "seconds" and on_cpu else None,
                    )
                    for name in ("fp32", "mixed", "bf16")
                ]
        if searches["memory"]:
            for name, mib in searches["memory"].items():
                rows.append((f"peak memory of a step: {name[:-4]}", mib, "{:.0f} MiB", None))
    if flip := results.get("flip"):
        median = flip["median"]
        rows += [
            ("patches to the flip, median image", median["patches"], "{:.0f}", None),
            (
                "to the flip: reference's full insertion / fp32, median image",
                median["times_faster_than_full_reference"],
                "{:.0f}x",
                50.0 if results["real_weights"] else None,
            ),
            (
                "to the flip: reference's full insertion / mixed, median image",
                median["mixed_times_faster_than_full_reference"],
                "{:.0f}x",
                None,
            ),
            (
                "to the flip: reference stopping there too / fp32, first image",
                median["times_faster_than_reference_to_the_flip"],
                "{:.1f}x",
                None,
            ),
        ]
    if agreement := results.get("agreement"):
        rows += [
            (
                f"mixed chooses as fp32 ({agreement['n_steps']} steps)",
                agreement["share"],
                "{:.1%}",
                0.95 if results["real_weights"] else None,
            ),
            ("largest loss of mixed (log-odds)", agreement["largest_loss"], "{:.4f}", None),
            ("fp32's choice when screened, lowest place", agreement["largest_rank"], "{}", None),
            ("the same, gap to the top (log-odds)", agreement["largest_gap"], "{:.3f}", None),
        ]
    if scaling := results.get("scaling"):
        fit = scaling["fit"]
        rows += [
            ("cubic term (linear layers)", fit["gflop_per_s_cubic"], "{:.0f} GFLOP/s", None),
            ("quartic term (attention)", fit["gflop_per_s_quartic"], "{:.0f} GFLOP/s", None),
            ("fit of both terms, worst error", fit["largest_relative_error"], "{:.0%}", None),
            (
                "fit of both terms, worst error, processor time",
                scaling["cpu_fit"]["largest_relative_error"],
                "{:.0%}",
                None,
            ),
        ]
        for point in scaling["points"]:
            what = f"full {point['mode']}, {point['n']} patches"
            rows.append((what, point["seconds"], "{:.1f} s", None))
    for name, shares in results.get("profile", {}).items():
        for kind, share in shares.items():
            rows.append((f"time of a {name} step in {kind}", share, "{:.0%}", None))
    if gpu := results.get("gpu"):
        for name, found in gpu["results"].items():
            rows += [
                (f"GPU, full {name}", found["images_per_s"], "{:.2f} images/s", None),
                (f"GPU, full {name}: share of peak", found["share_of_peak"], "{:.2f}", None),
            ]
            if found["memory_gib"] is not None:
                rows.append((f"GPU, full {name}: memory", found["memory_gib"], "{:.1f} GiB", None))
    return rows


def table(results: dict[str, Any]) -> str:
    """Lay the rows out as text."""
    lines = []
    for what, value, form, aim in rows_of(results):
        verdict = ""
        if aim is not None:
            verdict = f"aim {form.format(aim)}: {'met' if value >= aim else 'MISSED'}"
        lines.append(f"{what:<64}{form.format(value):>16}   {verdict}".rstrip())
    return "\n".join(lines)
