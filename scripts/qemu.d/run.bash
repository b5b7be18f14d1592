# A VM from its start to its end.
# shellcheck shell=bash disable=SC2154  # variables of scripts/qemu

# end_vm: QEMU ends at SIGTERM at once; one that hangs must not outlive its files.
end_vm() {
    local tries
    [[ $pid ]] || return 0
    "${as_root[@]}" kill "$pid" 2>/dev/null || true
    for ((tries = 0; tries < 100; tries++)); do
        [[ -d /proc/$pid ]] || return 0
        sleep 0.1
    done
    "${as_root[@]}" kill -KILL "$pid" 2>/dev/null || true
}
pid=

# keep_console: of what the console says only the end is kept, however much that is: a boot that is refused
# says so last, and what a guest says much later, or has said long before, is another matter.
keep_console() {
    [[ $console ]] || return 0
    mkfifo "$scratch/console"
    tail -c 8192 "$scratch/console" >"$scratch/end" &
    # Open for writing, or nothing would end tail when QEMU did not come to open it.
    exec {writer}>"$scratch/console"
}

# run_vm: until the VM ends.
run_vm() {
    local launch=(setpriv --pdeathsig TERM) status=0 newer=
    # When this script is killed, so is QEMU; not so by sudo, where Linux forgets that.
    ((!${#as_root[@]})) || launch=()
    # In the background, so that a signal to this script ends the VM at once.
    on_exit end_vm
    "${launch[@]}" "${qemu[@]}" <&0 &
    pid=$!
    wait "$pid" || status=$?
    pid=
    ((status)) || return 0
    case $firmware in
        hashes) newer="; --tee snp needs QEMU 9.1 or newer" ;;
        igvm | tdvf) newer="; --tee $tee needs QEMU 10.1 or newer" ;;
    esac
    note "cannot run the VM: QEMU ended with status $status$newer"
    exit "$status"
}

# tell_refusal: exit status 3 when the console ended in one.
tell_refusal() {
    local refused
    [[ $console ]] || return 0
    exec {writer}>&-
    wait
    refused=$(grep -ao 'cvm-init: FATAL: [[:print:]]*' "$scratch/end" | tail -n 1) || true
    [[ $refused ]] || return 0
    note "the guest refused to boot: ${refused#cvm-init: FATAL: }"
    exit 3
}
