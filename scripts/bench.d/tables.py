#!/usr/bin/python3
"""Makes Markdown of the figures of scripts/bench.

usage: tables.py FIGURES           on standard output
       tables.py FIGURES PAGE      in PAGE, between the two lines of MARKERS
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Row = dict[str, Any]

MARKERS = ("<!-- figures: written by scripts/bench --publish -->", "<!-- figures: end -->")

# How each way to boot is called.
WAYS = {
    "cvm-memory": "cvm-init, tags in memory",
    "cvm-disk": "cvm-init, tags on disk",
    "tuned": "shell, tuned",
    "shell": "shell",
    "dracut": "dracut",
}
# Which initramfs a way has.
INITRAMFS = {"cvm-memory": "cvm-init", "cvm-disk": "cvm-init", "tuned": "shell"}

PICTURES = {
    "provisioning": "Time to the new init by size of partition 4, log-log",
    "timeline": "Stages of a boot",
    "data": "Throughput of the volume, by cipher and place of the tags",
}

# What is published is whole.
SECTIONS = ("provisioning", "effects", "costs", "data", "unpack", "choices")

# What is tried in guest/choices.
CHOICES = {
    "base": "as cvm-init does it",
    "metadata-on-disk": "metadata on the disk, no journal",
    "no-journal": "no journal",
    "journal-4": "a journal of 4 MiB",
    "journal-16": "a journal of 16 MiB",
    "journal-64": "a journal of 64 MiB",
    "ordered": "`data=ordered`",
    "fast-commit": "`fast_commit`",
    "relatime": "times of access, `relatime`",
    "barrier": "with flushes, `barrier`",
    "workqueues": "dm-crypt `no_read_workqueue no_write_workqueue`",
    "discard": "`discard`, dm-crypt and dm-integrity `allow_discards`",
}


def size(mib: int) -> str:
    for unit, name in ((1 << 20, "TiB"), (1 << 10, "GiB")):
        if mib >= unit:
            return f"{mib / unit:g} {name}"
    return f"{mib} MiB"


def number(value: float) -> str:
    """Three digits at least."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def middle(spread: Row | None, unit: float = 1) -> str:
    return "-" if spread is None else number(spread["median"] / unit)


def whole(spread: Row | None, unit: float = 1) -> str:
    return "-" if spread is None else f"{spread['median'] / unit:,.0f}"


def figure(spread: Row | None, unit: float = 1) -> str:
    """The median, with the lowest and highest where they differ."""
    if spread is None:
        return "-"
    text = number(spread["median"] / unit)
    if spread["min"] == spread["max"]:
        return text
    return f"{text} ({number(spread['min'] / unit)}-{number(spread['max'] / unit)})"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Iterator[str]:
    head = list(head)
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def paragraph(text: str) -> Iterator[str]:
    yield from textwrap.wrap(text, 100, break_long_words=False, break_on_hyphens=False)
    yield ""


def volume(row: Row) -> str:
    if row["cipher"] is None:
        return WAYS[row["way"]]
    integrity = "" if row["integrity"] == "aead" else f" {row['integrity']}"
    place = "" if row["integrity"] == "none" else f", tags {in_place(row['tags'])}"
    return f"`{row['cipher']}{integrity}`{place}"


def in_place(tags: str) -> str:
    return {"memory": "in memory", "disk": "on disk"}[tags]


def by_size(rows: list[Row], cell: Callable[[Row], str]) -> Iterator[str]:
    """A row for each size, a column for each way that makes a volume."""
    ways = [way for way in WAYS if way != "dracut" and any(row["way"] == way for row in rows)]
    found = {(row["partition_mib"], row["way"]): row for row in rows}

    def text(mib: int, way: str) -> str:
        row = found.get((mib, way))
        if row is None:
            return "-"
        return cell(row) + (" (extrapolated)" if row["extrapolated"] else "")

    sizes = sorted({mib for mib, way in found if way in ways})
    yield from table(
        ["partition 4", *(WAYS[way] for way in ways)],
        ([size(mib), *(text(mib, way) for way in ways)] for mib in sizes),
    )


def provisioning(figures: Row) -> Iterator[str]:
    rows = figures["provisioning"]
    if any(row["way"] != "dracut" for row in rows):
        yield from paragraph(
            "Milliseconds from the start of `/init` to the new init without the time that kernel "
            "modules take to load (lowest and highest of the runs) + that time:"
        )

        def time(row: Row) -> str:
            modules = row.get("modules_us")
            return figure(row["rest_us"], 1000) + (f" + {whole(modules, 1000)}" if modules else "")

        yield from by_size(rows, time)
        yield from paragraph("KiB written to the disk meanwhile:")
        yield from by_size(rows, lambda row: whole(row["written_bytes"], 1024))


def memory(figures: Row) -> Iterator[str]:
    """Of each size, with tags in memory where that was measured."""
    ways = ("cvm-disk", "cvm-memory")
    rows = {
        row["partition_mib"]: row["memory"]
        for way in ways
        for row in figures["provisioning"]
        if row["way"] == way and row.get("memory")
    }
    if not rows:
        return

    def mib(value: int | None) -> str:
        return "-" if value is None else number(value / 2**20)

    yield from paragraph(
        "The most memory that the volume of a guest of 2 GiB can come to take, when every sector of "
        "it was written and every inode used:"
    )
    yield from table(
        ["partition 4", "tags in memory, MiB", "metadata, MiB", "inodes"],
        (
            [
                size(partition),
                mib(row["tags_memory_max"]),
                mib(row["metadata_memory_max"]),
                f"{row['inodes']:,}",
            ]
            for partition, row in sorted(rows.items())
        ),
    )


def costs(figures: Row) -> Iterator[str]:
    smallest = min((row["partition_mib"] for row in figures["provisioning"]), default=0)
    timed = {row["way"]: row for row in figures["provisioning"] if row["partition_mib"] == smallest}
    counted = {row["way"]: row for row in figures["costs"]}
    archives = {(row["initramfs"], row["modules"]): row for row in figures["footprints"]}
    ways = [way for way in WAYS if way in timed or way in counted]
    if not ways:
        return

    def time(key: str, unit: float) -> Callable[[str], str]:
        return lambda way: whole(timed.get(way, {}).get(key), unit)

    def bytes_of(key: str, *, modules: bool) -> Callable[[str], str]:
        def cell(way: str) -> str:
            row = archives.get((INITRAMFS.get(way, way), modules))
            return f"{row[key] / 1024:,.0f}" if row else "-"

        return cell

    def cpu(key: str) -> Callable[[str], str]:
        def cell(way: str) -> str:
            own, children = (counted.get(way, {}).get(prefix + key) for prefix in ("", "children_"))
            more = f" + {whole(children, 1000)}" if children and children["median"] else ""
            return whole(own, 1000) + more

        return cell

    def share(way: str) -> str:
        """Of user space in the processor time of PID 1."""
        user, kernel = (counted.get(way, {}).get(key) for key in ("user_us", "kernel_us"))
        if user is None or kernel is None:
            return "-"
        return number(100 * user["median"] / (user["median"] + kernel["median"]))

    measures = {
        "start to new init, ms": time("total_us", 1000),
        "initramfs, KiB": bytes_of("packed_bytes", modules=True),
        "initramfs, unpacked, KiB": bytes_of("unpacked_bytes", modules=True),
        "initramfs without kernel modules, KiB": bytes_of("packed_bytes", modules=False),
        "unpacked without kernel modules, KiB": bytes_of("unpacked_bytes", modules=False),
        "peak memory of PID 1, KiB": time("peak_kib", 1),
        "of the largest program that it ran, KiB": time("children_peak_kib", 1),
        "system calls": lambda way: whole(counted.get(way, {}).get("system_calls")),
        "processor time in user space, ms": cpu("user_us"),
        "processor time in the kernel, ms": cpu("kernel_us"),
        "share of user space in that of PID 1, %": share,
    }
    yield from paragraph(
        "What a boot costs with the smallest partition. Processor time is that of PID 1 and, after "
        "the +, of the programs that it ran, with all kernel modules; it and the system calls "
        "are counted in boots that are not timed:"
    )
    yield from table(
        [f"partition 4: {size(smallest)}" if smallest else "", *(WAYS[way] for way in ways)],
        ([name, *(cell(way) for way in ways)] for name, cell in measures.items()),
    )


def effects(figures: Row) -> Iterator[str]:
    rows = figures["effects"]
    if not rows:
        return
    yield from paragraph("The five costliest steps of a boot of cvm-init, ms:")
    yield from table(
        ["step", "time"], ([row["doing"], figure(row["us"], 1000)] for row in rows[:5])
    )


def data(figures: Row) -> Iterator[str]:
    rows = figures["data"]
    if not rows:
        return
    jobs = {row["job"]: row["unit"] for row in rows}
    volumes = list(dict.fromkeys(volume(row) for row in rows))
    found = {(volume(row), row["job"]): row for row in rows}
    made = figures["made"]
    yield from paragraph(
        f"fio on `/cocos`: a file of {made['fio_size'].removesuffix('M')} MiB written until it is "
        "on the disk; past the page cache, read 1 MiB at a time in sequence, and read and written 4 "
        "KiB at random; and 4 KiB written with an fsync after each:"
    )
    yield from table(
        ["volume", *(f"{job.replace('-', ' ')}, {unit}" for job, unit in jobs.items())],
        ([name, *(figure(found[name, job]["value"]) for job in jobs)] for name in volumes),
    )


def writers(figures: Row) -> Iterator[str]:
    rows = figures.get("writers")
    if not rows:
        return
    yield from paragraph(
        f"16 processes at once, each of which makes {figures['made']['writer_files']} files of 4 "
        "KiB in a directory of its own, until all is on the disk:"
    )
    yield from table(
        ["volume", "files a second"],
        (
            [volume(row), f"it died: {row['died']}" if row["died"] else figure(row["files_s"])]
            for row in rows
        ),
    )


def unpack(figures: Row) -> Iterator[str]:
    rows = figures["unpack"]
    if not rows:
        return
    layer = figures["made"]["layer"]
    yield from paragraph(
        f"An image of {layer['files']:,} files, {layer['bytes'] / 2**20:.0f} MiB, unpacked into an "
        "overlay whose layers lie on a new volume, and synced; all of it is read back and removed, "
        "and it is unpacked again:"
    )
    yield from table(
        ["volume", "seconds", "again, seconds", "errors of the disk in the kernel's log"],
        (
            [
                WAYS[row["way"]],
                figure(row["seconds"]),
                figure(row["again_seconds"]),
                str(row["disk_errors"]),
            ]
            for row in rows
        ),
    )


def choices(figures: Row) -> Iterator[str]:
    rows = figures["choices"]
    if not rows:
        return
    jobs = {each["job"]: each["unit"] for row in rows for each in row["fio"]}

    def cells(row: Row) -> list[str]:
        if row["refused"]:
            return [f"the kernel refuses: {row['refused']}", *["-"] * (3 + len(jobs))]
        of_job = {each["job"]: each["value"] for each in row["fio"]}
        return [
            figure(row["seconds"]),
            figure(row["again_seconds"]),
            figure(row["written_bytes"], 1 << 20),
            *(figure(of_job[job]) for job in jobs),
            figure(row["files_s"]),
        ]

    yield from paragraph(
        "What of that image lies below `/usr/share`, some of the jobs of fio, and 16 writers, with "
        "one other choice of journal, mount or dm-crypt at a time, on volumes that mke2fs makes one "
        "after the other in one boot. What is written to the disk is the image, what reading it back "
        "makes of it, and the image again:"
    )
    yield from table(
        [
            "choice",
            "image, seconds",
            "again, seconds",
            "written, MiB",
            *(f"{job.replace('-', ' ')}, {unit}" for job, unit in jobs.items()),
            "16 writers, files a second",
        ],
        ([CHOICES[row["choice"]], *cells(row)] for row in rows),
    )


def layers(figures: Row) -> Iterator[str]:
    rows = {(row["layers"], row["way"]): row for row in figures.get("layers", [])}
    if not rows:
        return

    def cells(count: int) -> Iterator[str]:
        ours, engine = rows[count, "layers"], rows[count, "engine"]
        yield str(count)
        for key in ("total_us", "init_us"):
            yield figure(ours[key], 1000)
            yield figure(engine[key], 1000)
            yield number(ratio(ours[key], engine[key]) or 0)
        yield middle(ours["written_bytes"], 1024)
        yield middle(engine["written_bytes"], 1024)

    yield from paragraph(
        "An OCI image of so many layers, from the start of the kernel and from that of /init to the new "
        "init: ours, with each layer proven and what is written encrypted, and the script of an engine's "
        "image in an initramfs of initramfs-tools, which does neither:"
    )
    yield from table(
        [
            "layers",
            "from the kernel, ms",
            "script, ms",
            "times",
            "from /init, ms",
            "script, ms",
            "times",
            "written, KiB",
            "script, KiB",
        ],
        (list(cells(count)) for count in sorted({count for count, _ in rows})),
    )


def ratio(over: Row | None, under: Row | None) -> float | None:
    if not over or not under or not under["median"]:
        return None
    return float(over["median"] / under["median"])


def ratios(figures: Row) -> Iterator[str]:
    """Each line is one way's figure over another's, of the same run."""
    rows = {(row["way"], row["partition_mib"]): row for row in figures["provisioning"]}
    ours = "cvm-memory" if any(way == "cvm-memory" for way, _ in rows) else "cvm-disk"

    def took(way: str, mib: int, what: str = "rest_us") -> Row | None:
        row: Row = rows.get((way, mib), {})
        return row.get(what)

    def gcm(way: str, section: str, what: str, job: str | None = None) -> Row | None:
        """Of the volume with the shell's cipher."""
        found = (
            row[what]
            for row in figures.get(section, [])
            if row["way"] == way
            and row["cipher"] in {"aes-gcm-random", None}
            and row.get("job") == job
        )
        return next(found, None)

    def written(way: str) -> Row | None:
        return gcm(way, "data", "value", "sequential-write")

    image: Row = next((row for row in figures["unpack"] if row["way"] == ours), {})
    lines = {
        "shell over cvm-init, 1 GiB, without modules": ratio(
            took("shell", 1 << 10), took(ours, 1 << 10)
        ),
        "tuned shell over cvm-init, 1 GiB, without modules": ratio(
            took("tuned", 1 << 10), took(ours, 1 << 10)
        ),
        "2 TiB over 64 MiB, cvm-init with tags on disk": ratio(
            took("cvm-disk", 2 << 20, "total_us"), took("cvm-disk", 64, "total_us")
        ),
        "2 TiB over 64 MiB, cvm-init with tags on disk, without modules": ratio(
            took("cvm-disk", 2 << 20), took("cvm-disk", 64)
        ),
        "sequential write, cvm-init over shell, both `aes-gcm-random`": ratio(
            written(ours), written("shell")
        ),
        "16 writers, files a second, cvm-init over shell, both `aes-gcm-random`": ratio(
            gcm(ours, "writers", "files_s"), gcm("shell", "writers", "files_s")
        ),
        "image unpacked again over the first time, cvm-init": ratio(
            image.get("again_seconds"), image.get("seconds")
        ),
    }
    known = {name: value for name, value in lines.items() if value is not None}
    if known:
        yield from paragraph("Ratios:")
        yield from table(["of", "times"], ([name, number(v)] for name, v in known.items()))


def made(figures: Row) -> Iterator[str]:
    facts = figures["made"]
    yield from paragraph(
        f"Made by `{facts['command']}` on {facts['date']}, on {facts['cores']} cores "
        f"({facts['cpu']}, load {facts['load']:g} before). QEMU {facts['qemu']} emulates the guest "
        f"(`{facts['guest']}`), so ratios tell more than seconds. Kernel {facts['kernel']}, "
        f"cryptsetup {facts['cryptsetup']}, e2fsprogs {facts['e2fsprogs']}, {facts['fio']}, dracut "
        f"{facts['dracut']} with systemd {facts['systemd']}. Medians of {facts['runs']}; the shell "
        "way is provisioned once a size. *shell* is a bash script with veritysetup, cryptsetup "
        "luksFormat, mkfs.ext4 and switch_root; *tuned* the same without wipe, journals and a slow "
        "key; *dracut* a distribution's initramfs that opens the same root by `roothash=`, makes "
        "no volume, and does not tell the loading of modules apart."
    )


SHOWN = (
    provisioning,
    memory,
    ratios,
    costs,
    effects,
    data,
    writers,
    unpack,
    choices,
    layers,
    made,
)


def document(figures: Row) -> list[str]:
    return [
        line
        for section in SHOWN
        for line in section(figures)
    ]


def published(figures: Row) -> list[str]:
    pictures = [f"![{text}](bench/{name}.svg)" for name, text in PICTURES.items()]
    between = [line for picture in pictures for line in (picture, "")]
    return [MARKERS[0], "", *between, *document(figures), MARKERS[1]]


def replaced(readme: str, lines: list[str]) -> str:
    """The text with what is between the markers, and they themselves, replaced."""
    start, end = (readme.find(f"{marker}\n") for marker in MARKERS)
    if start < 0 or end < start:
        sys.exit(f"tables.py: the lines {MARKERS[0]} and {MARKERS[1]} are not there")
    return readme[:start] + "\n".join(lines) + readme[end + len(MARKERS[1]) :]


def main() -> None:
    figures = json.loads(Path(sys.argv[1]).read_text())
    if len(sys.argv) == 2:
        print("\n".join(document(figures)))
        return
    missing = [section for section in SECTIONS if not figures[section]]
    if figures["made"]["quick"] or missing:
        why = "it was made with --quick" if not missing else f"it lacks {', '.join(missing)}"
        sys.exit(f"tables.py: not to be published: {why}")
    readme = Path(sys.argv[2])
    readme.write_text(replaced(readme.read_text(), published(figures)))


if __name__ == "__main__":
    main()
