#!/usr/bin/python3
"""Draws the figures of scripts/bench.

usage: plot.py FIGURES DIR

DIR gets an SVG for each picture that there are figures for. The same figures make the same bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

Row = dict[str, Any]

# Readable on a page of any colour: dark on a white ground of its own, and as paths, because a
# reader's machine may lack the font. The salt takes the place of a random one in names.
STYLE = {
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "font.size": 12,
    "axes.titlesize": 13,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "cvm-init",
    "svg.fonttype": "path",
}

# Each way with a colour that is told apart in grey and by the colour-blind (Okabe and Ito).
WAYS = {
    "shell": ("shell", "#d55e00", "s"),
    "tuned": ("shell, tuned", "#e69f00", "D"),
    "dracut": ("dracut, no volume", "#999999", "^"),
    "cvm-disk": ("cvm-init, tags on disk", "#56b4e9", "o"),
    "cvm-memory": ("cvm-init, tags in memory", "#0072b2", "v"),
}

STAGES = {
    "modules": "#bbbbbb",
    "platform": "#56b4e9",
    "config": "#000000",
    "disk": "#009e73",
    "root": "#f0e442",
    "data": "#d55e00",
    "volume": "#0072b2",
    "runtime": "#e69f00",
    "measure": "#999933",
    "handoff": "#cc79a7",
}

PLACES = {"memory": "in memory", "disk": "on disk"}

THOUSANDS = FuncFormatter(lambda value, _: f"{value:,g}")

JOB_COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73")


def size(mib: int) -> str:
    for unit, name in ((1 << 20, "TiB"), (1 << 10, "GiB")):
        if mib >= unit:
            return f"{mib / unit:g} {name}"
    return f"{mib} MiB"


def errors(spreads: list[Row]) -> list[list[float]]:
    """How far the lowest and the highest are from the median."""
    return [
        [spread["median"] - spread["min"] for spread in spreads],
        [spread["max"] - spread["median"] for spread in spreads],
    ]


def scaled(spread: Row, unit: float) -> Row:
    return {key: value / unit for key, value in spread.items()}


def draw_provisioning(figures: Row) -> Figure | None:
    """Time against size of all ways: what was measured filled, what is extrapolated hollow."""
    rows = figures["provisioning"]
    if not rows:
        return None
    figure, axes = plt.subplots(figsize=(9, 5.5))
    for way, (label, colour, marker) in WAYS.items():
        of_way = [row for row in rows if row["way"] == way]
        timed = [row for row in of_way if not row["extrapolated"]]
        if not timed:
            continue
        spreads = [scaled(row["rest_us"] or row["total_us"], 1e6) for row in timed]
        axes.errorbar(
            [row["partition_mib"] for row in timed],
            [spread["median"] for spread in spreads],
            errors(spreads),
            label=label + (", with modules" if timed[0]["rest_us"] is None else ""),
            color=colour,
            marker=marker,
            capsize=4,
        )
        further = timed[-1:] + [row for row in of_way if row["extrapolated"]]
        if len(further) > 1:
            axes.plot(
                [row["partition_mib"] for row in further],
                [row["rest_us"]["median"] / 1e6 for row in further],
                color=colour,
                linestyle="--",
                marker=marker,
                markerfacecolor="white",
                label=f"{label}, extrapolated",
                zorder=0,
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    sizes = sorted({row["partition_mib"] for row in rows})
    axes.xaxis.set_major_locator(FixedLocator(sizes))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda mib, _: size(round(mib))))
    axes.yaxis.set_major_formatter(THOUSANDS)
    axes.set_xlabel("size of partition 4")
    axes.set_ylabel("seconds")
    axes.grid(which="major", color="#dddddd")
    axes.set_title("From /init to the new init, without loading kernel modules")
    axes.legend(frameon=False)
    return figure


def draw_bars(axes: Axes, rows: list[Row], labels: list[str]) -> None:
    """Stages one behind the other, with the whole time at the end of each bar."""
    seen = set()
    for place, row in enumerate(rows):
        left = 0.0
        for stage in row["stages"]:
            name, ms = stage["stage"], stage["us"]["median"] / 1000
            axes.barh(
                place,
                ms,
                left=left,
                color=STAGES[name],
                edgecolor="white",
                linewidth=0.5,
                hatch="//" if name == "modules" else None,
                label=None if name in seen else name,
            )
            seen.add(name)
            left += ms
        axes.annotate(f" {left:,.0f} ms", (left, place), va="center")
    axes.set_yticks(range(len(rows)), labels)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.xaxis.set_major_formatter(THOUSANDS)
    axes.set_xlabel("milliseconds")


def draw_timeline(figures: Row) -> Figure | None:
    """Where the time of a boot goes: cvm-init by size; the shell ways, on a scale of their own."""
    rows = [row for row in figures["provisioning"] if row["stages"]]
    ours = [row for way in ("cvm-memory", "cvm-disk") for row in rows if row["way"] == way]
    smallest = min((row["partition_mib"] for row in rows), default=0)
    others = [row for row in rows if row not in ours and row["partition_mib"] == smallest]
    panels = [panel for panel in (ours, others) if panel]
    if not panels:
        return None
    figure, all_axes = plt.subplots(
        len(panels),
        figsize=(9, 2 + 0.45 * sum(len(panel) + 2 for panel in panels)),
        height_ratios=[len(panel) + 1 for panel in panels],
        squeeze=False,
        layout="constrained",
    )
    for axes, panel in zip(all_axes[:, 0], panels, strict=True):
        names = [f"{WAYS[row['way']][0]}, {size(row['partition_mib'])}" for row in panel]
        draw_bars(axes, panel, names)
    all_axes[0, 0].set_title("Stages of a boot; hatched: loading kernel modules")
    handles, names = all_axes[0, 0].get_legend_handles_labels()
    # Below the figure: what is saved grows with it.
    figure.legend(
        handles, names, loc="upper center", bbox_to_anchor=(0.5, 0), ncol=4, frameon=False
    )
    return figure


def volume(row: Row) -> str:
    if row["cipher"] is None:
        return WAYS[row["way"]][0]
    integrity = "" if row["integrity"] == "aead" else f"\n{row['integrity']}"
    place = "" if row["integrity"] == "none" else f", tags {PLACES[row['tags']]}"
    return f"{row['cipher']}{integrity}{place}"


def draw_data(figures: Row) -> Figure | None:
    """A panel for each unit, because requests and megabytes share no axis."""
    rows = figures["data"]
    if not rows:
        return None
    volumes = list(dict.fromkeys(volume(row) for row in rows))
    units = list(dict.fromkeys(row["unit"] for row in rows))
    figure, all_axes = plt.subplots(
        1, len(units), sharey=True, figsize=(11, 1.5 + 0.75 * len(volumes)), layout="constrained"
    )
    colours = dict(zip(dict.fromkeys(row["job"] for row in rows), JOB_COLOURS, strict=True))
    for axes, unit in zip(all_axes, units, strict=True):
        jobs = list(dict.fromkeys(row["job"] for row in rows if row["unit"] == unit))
        height = 0.8 / len(jobs)
        for nth, job in enumerate(jobs):
            of_job = {volume(row): row["value"] for row in rows if row["job"] == job}
            spreads = [of_job[name] for name in volumes]
            axes.barh(
                [place - 0.4 + height * (nth + 0.5) for place in range(len(volumes))],
                [spread["median"] for spread in spreads],
                height=height,
                xerr=errors(spreads),
                capsize=2,
                color=colours[job],
                label=job.replace("-", " "),
            )
        axes.set_xlabel(unit)
        axes.xaxis.set_major_formatter(THOUSANDS)
        axes.grid(axis="x", color="#dddddd")
        axes.set_axisbelow(True)
    all_axes[0].set_yticks(range(len(volumes)), volumes)
    all_axes[0].set_ylim(len(volumes) - 0.5, -0.5)
    figure.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncol=5, frameon=False)
    return figure


PICTURES = {
    "provisioning": draw_provisioning,
    "timeline": draw_timeline,
    "data": draw_data,
}


def main() -> None:
    figures = json.loads(Path(sys.argv[1]).read_text())
    with mpl.rc_context(STYLE):
        for name, draw in PICTURES.items():
            figure = draw(figures)
            if figure is not None:
                path = Path(sys.argv[2]) / f"{name}.svg"
                figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
                plt.close(figure)


if __name__ == "__main__":
    main()
