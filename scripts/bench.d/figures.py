#!/usr/bin/python3
"""Sums up the runs of scripts/bench: medians with their spread, as one JSON document.

usage: figures.py FACTS FOOTPRINTS RUNS >FIGURES

FACTS says where and with what was measured, FOOTPRINTS how large each initramfs is, RUNS what
guest and QEMU said about each boot; one JSON object a line. Times are in microseconds unless
a name ends otherwise.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

Run = dict[str, Any]
Row = dict[str, Any]
Spread = dict[str, float]

# The ways whose time grows with the partition: they wipe it.
EXTRAPOLATED = ("shell",)

# What fio measures: the name of the job, which side of it counts, and in what.
JOBS = (
    ("sequential-write", "write", "MiB/s"),
    ("sequential-read", "read", "MiB/s"),
    ("random-read", "read", "IOPS"),
    ("random-write", "write", "IOPS"),
    ("fsync", "write", "IOPS"),
)


def spread(values: Iterable[float | None]) -> Spread | None:
    """Median, lowest and highest; nothing where a run has no value."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"median": median(known), "min": min(known), "max": max(known)}


def grouped(runs: Iterable[Run], key: Callable[[Run], Hashable]) -> list[list[Run]]:
    """Runs of the same key, in the order of their first."""
    groups: dict[Hashable, list[Run]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    return list(groups.values())


def of_job(runs: list[Run], job: str) -> list[Run]:
    return [run for run in runs if run["job"] == job]


def boot_us(run: Run) -> int:
    """From the kernel's event that it has executed /init to that of the new init."""
    start, end = (round(float(stamp) * 1_000_000) for stamp in run["stamps"].split())
    return end - start


def is_module(effect: Row) -> bool:
    return str(effect["id"]).startswith("load:/modules/")


def loading(run: Run) -> list[tuple[int, int]]:
    """When modules were being loaded, one or several at a time: from, to, in us since /init's start."""
    spans: list[tuple[int, int]] = []
    loads = [effect for effect in run["boot"]["effects"] if is_module(effect)]
    for start, us in sorted((effect["at_us"], effect["us"]) for effect in loads):
        if spans and start <= spans[-1][1]:
            start, us = spans[-1][0], max(spans[-1][1], start + us) - spans.pop()[0]
        spans.append((start, start + us))
    return spans


def modules_us(run: Run) -> int | None:
    """How long modules were being loaded; only where /init says what it does."""
    if run["boot"] is None:
        return None
    return sum(end - start for start, end in loading(run))


def stages_of(run: Run) -> dict[str, int]:
    """How long each stage took without the time in which modules were being loaded beside it."""
    took, start = {}, 0
    for stage in run["boot"]["stages"]:
        end = start + stage["us"]
        beside = sum(max(0, min(end, to) - max(start, begin)) for begin, to in loading(run))
        took[stage["stage"]] = stage["us"] - beside
        start = end
    return took


def measured(run: Run) -> Row:
    """What a timed boot has one number of."""
    total, modules = boot_us(run), modules_us(run)
    return {
        "total_us": total,
        "modules_us": modules,
        "rest_us": None if modules is None else total - modules,
        "written_bytes": run["disk"]["open"]["bytes"],
        "written_requests": run["disk"]["open"]["requests"],
        "flushes": run["disk"]["open"]["flushes"],
        "written_after_sync_bytes": run["disk"]["closed"]["bytes"],
        "user_us": run["self"]["user_us"] + run["children"]["user_us"],
        "peak_kib": run["boot"]["peak_memory_kib"] if run["boot"] else run["self"]["peak_kib"],
        "children_peak_kib": run["children"]["peak_kib"] or None,
    }


def stages(runs: list[Run]) -> list[Row]:
    """Each stage of the boot, without the kernel modules that are loaded beside it."""
    if runs[0]["boot"] is None:
        return []
    rows = [{"stage": "modules", "us": spread(modules_us(run) for run in runs)}]
    each = [stages_of(run) for run in runs]
    return rows + [{"stage": name, "us": spread(took[name] for took in each)} for name in each[0]]


def memory(run: Run) -> Row | None:
    """The most that the volume can come to take of the guest's memory, as /init has worked it out."""
    facts = (run["boot"] or {}).get("volume") or {}
    keys = ("tags_memory_max", "metadata_memory_max", "inodes")
    return {key: facts[key] for key in keys} if "metadata_memory_max" in facts else None


def provisioning_row(runs: list[Run]) -> Row:
    all_measured = [measured(run) for run in runs]
    return {
        "way": runs[0]["way"],
        "partition_mib": runs[0]["partition_mib"],
        "runs": len(runs),
        "extrapolated": False,
        **{key: spread(row[key] for row in all_measured) for key in all_measured[0]},
        "stages": stages(runs),
        "memory": memory(runs[0]),
    }


def extrapolate(rows: list[Row], sizes_mib: list[int]) -> list[Row]:
    """A row for each size above those measured, on the line through the two largest of them."""
    if len(rows) < 2:
        return []
    near, far = sorted(rows, key=lambda row: row["partition_mib"])[-2:]
    added = []
    for mib in sizes_mib:
        if mib <= far["partition_mib"]:
            continue
        steps = (mib - far["partition_mib"]) / (far["partition_mib"] - near["partition_mib"])
        row: Row = {
            "way": far["way"],
            "partition_mib": mib,
            "runs": 0,
            "extrapolated": True,
            "stages": [],
        }
        for key in ("total_us", "rest_us", "written_bytes"):
            last = far[key]["median"]
            value = round(last + steps * (last - near[key]["median"]))
            row[key] = {"median": value, "min": value, "max": value}
        added.append(row)
    return added


def provisioning(runs: list[Run], sizes_mib: list[int]) -> list[Row]:
    groups = grouped(of_job(runs, "provisioning"), lambda run: (run["way"], run["partition_mib"]))
    rows = [provisioning_row(group) for group in groups]
    for way in EXTRAPOLATED:
        rows += extrapolate([row for row in rows if row["way"] == way], sizes_mib)
    return sorted(rows, key=lambda row: row["partition_mib"])


def effects(runs: list[Run]) -> list[Row]:
    """What a boot of cvm-init does and how long it takes, the costliest first.

    Of the smallest partition that was measured; the modules count as one.
    """
    boots = [run for run in of_job(runs, "provisioning") if run["way"] == "cvm-memory"]
    if not boots:
        return []
    smallest = min(run["partition_mib"] for run in boots)
    boots = [run for run in boots if run["partition_mib"] == smallest]
    took: dict[str, list[float]] = defaultdict(list)
    for run in boots:
        count = sum(is_module(effect) for effect in run["boot"]["effects"])
        took[f"load {count} kernel modules"].append(modules_us(run) or 0)
        for effect in run["boot"]["effects"]:
            if not is_module(effect):
                took[effect["doing"]].append(effect["us"])
    rows = [{"doing": doing, "us": spread(us)} for doing, us in took.items()]
    return sorted(rows, key=lambda row: -row["us"]["median"])


def cost(runs: list[Run]) -> Row:
    """System calls and processor time of one way, from boots in which the kernel counted."""
    per_call: dict[str, int] = defaultdict(int)
    for entry in runs[0]["calls"]:
        per_call[entry["call"]] += entry["count"]
    return {
        "way": runs[0]["way"],
        "partition_mib": runs[0]["partition_mib"],
        "runs": len(runs),
        "system_calls": spread(sum(entry["count"] for entry in run["calls"]) for run in runs),
        "programs": len({entry["program"] for entry in runs[0]["calls"]}),
        "user_us": spread(run["self"]["user_us"] for run in runs),
        "kernel_us": spread(run["runtime_us"] - run["self"]["user_us"] for run in runs),
        "children_user_us": spread(run["children"]["user_us"] for run in runs),
        "children_kernel_us": spread(run["children"]["kernel_us"] for run in runs),
        "calls": dict(sorted(per_call.items(), key=lambda item: (-item[1], item[0]))),
    }


def volume(run: Run) -> Row:
    """Which volume it is, as the guest itself said."""
    facts = (run["boot"] or {}).get("volume") or {}
    return {"way": run["way"], **{key: facts.get(key) for key in ("cipher", "integrity", "tags")}}


def throughput(reports: Iterable[Row]) -> list[Row]:
    """What fio's reports have of each job that it was asked for."""
    done = [job for report in reports for job in report["jobs"]]
    rows = []
    for name, side, unit in JOBS:
        values = [
            job[side]["bw_bytes"] / 2**20 if unit == "MiB/s" else job[side]["iops"]
            for job in done
            if job["jobname"] == name
        ]
        if values:
            rows.append({"job": name, "unit": unit, "runs": len(values), "value": spread(values)})
    return rows


def data(runs: list[Run]) -> list[Row]:
    return [
        {**volume(run), **row} for run in of_job(runs, "data") for row in throughput([run["fio"]])
    ]


def writers(runs: list[Run]) -> list[Row]:
    """Files a second of many writers at once; nothing of a volume that one of the tries has killed."""
    rows = []
    for run in of_job(runs, "data"):
        tries = run["writers"]
        died = next((each["died"] for each in tries if "died" in each), None)
        files = None if died else spread(each["files_s"] for each in tries)
        rows.append({**volume(run), "runs": len(tries), "files_s": files, "died": died})
    return rows


def unpack_seconds(tries: list[Row]) -> Row:
    """How long an image takes, and how long when another one was removed before."""
    return {
        "seconds": spread(each.get("unpack_s") for each in tries),
        "again_seconds": spread(each.get("again_s") for each in tries),
    }


def unpacked(runs: list[Run]) -> list[Row]:
    return [
        {
            **volume(group[0]),
            "runs": len(group),
            **unpack_seconds(group),
            "disk_errors": sum(run["disk_errors"] for run in group),
        }
        for group in grouped(of_job(runs, "unpack"), lambda run: run["way"])
    ]


def choice(tries: list[Row]) -> Row:
    """One choice of mount, file system or dm-crypt, or the kernel's word why it cannot be made."""
    return {
        "choice": tries[0]["choice"],
        "refused": tries[0].get("refused"),
        "runs": len(tries),
        **unpack_seconds(tries),
        "written_bytes": spread(each.get("written_bytes") for each in tries),
        "files_s": spread((each.get("writers") or {}).get("files_s") for each in tries),
        "fio": throughput(each["fio"] for each in tries if "fio" in each),
    }


def choices(runs: list[Run]) -> list[Row]:
    tries = [each for run in of_job(runs, "choices") for each in run["choices"]]
    return [choice(group) for group in grouped(tries, lambda each: each["choice"])]


def layered(runs: list[Run]) -> list[Row]:
    """From the start of the kernel, which counts from there, to the new init of an image's guest."""
    return [
        {
            "way": group[0]["way"],
            "layers": group[0]["layers"],
            "runs": len(group),
            "total_us": spread(round(float(run["stamps"].split()[1]) * 1_000_000) for run in group),
            "init_us": spread(boot_us(run) for run in group),
            "written_bytes": spread(run["disk"]["open"]["bytes"] for run in group),
        }
        for group in grouped(of_job(runs, "layers"), lambda run: (run["layers"], run["way"]))
    ]


def lines(path: str) -> list[Row]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def main() -> None:
    facts_path, footprints_path, runs_path = sys.argv[1:]
    facts, runs = json.loads(Path(facts_path).read_text()), lines(runs_path)
    figures = {
        "made": facts,
        "provisioning": provisioning(runs, facts["sizes_mib"]),
        "effects": effects(runs),
        "costs": [cost(group) for group in grouped(of_job(runs, "costs"), lambda run: run["way"])],
        "footprints": lines(footprints_path),
        "data": data(runs),
        "writers": writers(runs),
        "unpack": unpacked(runs),
        "choices": choices(runs),
        "layers": layered(runs),
        "all": runs,
    }
    json.dump(figures, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()
