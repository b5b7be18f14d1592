# A measured guest: its root, its disk, and how it is booted and heard.
# shellcheck shell=bash disable=SC2154  # variables of scripts/bench

# What all guests have in common; 2 GiB, because argon2 of luksFormat may take half of it. QEMU before 8.0
# gives cmpxchg16b wrong flags, of which a kernel can die.
machine=(
    -machine q35 -accel "tcg,thread=multi" -cpu "max,-cx16" -smp 2 -m 2G
    -nodefaults -display none -no-reboot
    -device virtio-serial-pci
    # Without an id it makes no events.
    -device "virtserialport,chardev=report,name=cvm.bench,id=port"
    -kernel "$kernel/vmlinuz"
)

# What attaches the disk of a root on partitions, which is called disk0; statistics are of a disk of that
# name.
# shellcheck disable=SC2034  # for scripts/bench
root_disk=(
    -device "virtio-scsi-pci,id=scsi0,disable-legacy=on,iommu_platform=true"
    -device "scsi-hd,bus=scsi0.0,drive=disk0"
)

# Of the kernel command line of each.
append=(
    # Messages of the kernel are kept, but not on the console: an emulated one takes its time.
    console=ttyS0 quiet
    panic=-1
    # On a busy machine an emulated timer can be so late that the kernel takes it for broken.
    no_timer_check
    # Or, where it does not find emulated processors' clocks to differ, it patches code that they run,
    # which QEMU lets them run into.
    tsc=unstable
    # Each exec is stamped, by a clock that all processors share: guest/report.
    trace_event=sched:sched_process_exec trace_clock=global
    init=/sbin/measure
)

# make_root DIR [NAME...]: busybox, the measuring init, what a boot mounts on, and programs.
make_root() {
    local dir=$1 module
    shift
    mkdir -p "$dir"/{bin,cocos,dev,lib/bench,proc,run,sbin,sys,tmp,var} "$dir"/etc/{certs,cocos}
    cp -r "$here/demo-root/cocos_init" "$dir"
    cp "$here/demo-root/etc/fstab" "$dir/etc"
    # systemd takes no root without it.
    echo 'ID=bench' >"$dir/etc/os-release"
    cp "$parts/guest/report" "$dir/sbin"
    cp "$parts/guest/"{jobs.fio,choices} "$dir/lib/bench"
    build "$parts/guest/measure.c" "$dir/sbin/measure"
    build "$parts/guest/writers.c" "$dir/lib/bench/writers"
    # What scripts/image asks of a root; the guests have init=/sbin/measure.
    ln -s measure "$dir/sbin/init"
    for module in drivers/char/virtio_console fs/overlayfs/overlay; do
        cp "$kernel/modules/kernel/$module.ko" "$dir/lib/bench"
    done
    ((!$#)) || add_programs "$dir" "$@"
    add_busybox "$dir"
    chmod -R u=rwX,go=rX "$dir"
}

# make_disk ROOT MIB: the disk in $disks/ROOT-MIB with this much of partition 4.
make_disk() {
    [[ ! -e $disks/$1-$2 ]] || return 0
    note "making a disk with $2 MiB of partition 4"
    quietly "$here/image" --rootfs "$scratch/$1" --kernel "$kernel/vmlinuz" \
        --initramfs "$ramfs/cvm-init.modules" --cocos-size "$2M" \
        --append "${append[*]}" -o "$disks/$1-$2"
}

guest_pid=
end_guest() {
    [[ ! $guest_pid ]] || kill "$guest_pid" 2>/dev/null || true
}

# ask COMMAND: of the QEMU that runs. It may end at any time, and then its answers do too.
ask() {
    { printf '{"execute": "%s"}\n' "$1" >&"$to_guest"; } 2>/dev/null || true
}

# boot_guest INITRAMFS WORDS DISK_ARGUMENT...: leaves $scratch/report, which the guest wrote, and
# $scratch/disk.json, QEMU's statistics of disk0 when the new init opened the port to report
# on (moment "open"), and when it closed it, all caches written out ("closed"). Everything comes
# through QEMU's own protocol (QMP), as it happens.
boot_guest() {
    local line what moment="" status=0 initramfs=$1 words=$2
    shift 2
    rm -f "$scratch/report"
    : >"$scratch/disk.json"
    coproc guest {
        exec timeout "$limit" qemu-system-x86_64 "${machine[@]}" -qmp stdio \
            -initrd "$initramfs" -append "$words" "$@" \
            -serial "file:$out/serial.log" \
            -chardev "file,id=report,path=$scratch/report" 2>"$scratch/log"
    }
    guest_pid=$!
    # bash takes away the names of its own when the guest ends.
    exec {from_guest}<&"${guest[0]}" {to_guest}>&"${guest[1]}"
    while read -r line <&"$from_guest"; do
        what=$(jq -r '
            if .QMP then "greeting"
            elif .event == "VSERPORT_CHANGE" then if .data.open then "open" else "closed" end
            elif .return | type == "array" then "statistics"
            else "" end' <<<"$line") || die "cannot understand what QEMU says: $line"
        case $what in
            greeting) ask qmp_capabilities ;;
            open | closed) moment=$what; ask query-blockstats ;;
            statistics)
                jq -c --arg moment "$moment" '
                    .return[] | select(.device == "disk0").stats
                    | { ($moment): { bytes: .wr_bytes, requests: .wr_operations, flushes: .flush_operations } }' \
                    <<<"$line" >>"$scratch/disk.json"
                [[ $moment != closed ]] || ask quit
                ;;
        esac
    done
    exec {from_guest}<&- {to_guest}>&-
    wait "$guest_pid" || status=$?
    guest_pid=
    case $status:$moment in
        0:closed) ;;
        0:*) failed_guest "the guest stopped without a report" ;;
        124:*) failed_guest "the guest did not report within $limit seconds (see --timeout)" ;;
        *) cat "$scratch/log" >&2; failed_guest "cannot run the guest: QEMU ended with status $status" ;;
    esac
}

# failed_guest WHY: stops, and keeps what it said.
failed_guest() {
    note "the end of its console, which is in $out/serial.log:"
    tail -n 20 "$out/serial.log" >&2
    [[ ! -s $scratch/report ]] || cp "$scratch/report" "$out/report"
    die "$1"
}
