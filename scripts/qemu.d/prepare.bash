# What a VM is given of its own: a folder, its firmware's variables, its disks, its TPM. With --dry-run
# each step is printed, and nothing is made.
# shellcheck shell=bash disable=SC2034,SC2154  # variables of scripts/qemu

# absolute FILE: a file as QEMU's block layer takes it: it would look for a relative one
# beside the overlay, and for a protocol before a colon.
absolute() {
    [[ $1 == /* ]] && printf '%s' "$1" || printf '%s' "$PWD/$1"
}

# quoted WORD: as a shell reads it, without quotes where they are not needed.
quoted() {
    [[ $1 =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] && printf '%s' "$1" || printf '%s' "${1@Q}"
}

# step WHAT COMMAND ARGUMENT...: prepare something for QEMU, or say how.
step() {
    local word line=
    if [[ $dry_run ]]; then
        for word in "${@:2}"; do
            line+=" $(quoted "$word")"
        done
        echo "${line# }"
    else
        attempt "$@"
    fi
}

# make_folder: $scratch, the files of this VM alone. Where QEMU puts temporary disks of its own, because
# /tmp is often in memory.
make_folder() {
    local folder=${TMPDIR:-/var/tmp}
    if [[ $dry_run ]]; then
        scratch=$(mktemp -u "$folder/.qemu.XXXXXX")
        step "make $scratch" mkdir -m 0700 -p "$scratch"
    else
        scratch_in "$folder"
    fi
}

# copy_firmware_variables: in $vars, those that the guest may write.
copy_firmware_variables() {
    vars=$scratch/OVMF_VARS.fd
    [[ $firmware == flash ]] || return 0
    step "copy ${value[OVMF_VARS_FILE]}" cp --no-preserve=mode "${value[OVMF_VARS_FILE]}" "$vars"
}

# need_partitions: a firmware looks for its loader for a minute where there can be none.
need_partitions() {
    local sector
    attempt "read $source" qemu-img dd -f "$format" -O raw bs=4096 count=2 "if=$source" "of=$scratch/head"
    for sector in 512 4096; do
        ! cmp -s -n 8 -i $sector:0 "$scratch/head" <(printf 'EFI PART') || return 0
    done
    die "cannot boot $source: it has no GPT; make an image with scripts/image"
}

# make_overlay: in $overlay, the image's disk as the guest may write it.
make_overlay() {
    local source format
    overlay=$scratch/disk.qcow2
    [[ $disk ]] || return 0
    source=$(absolute "${value[SRC_DISK_FILE]}")
    if [[ ${value[DST_DISK_FILE]} ]]; then
        overlay=$(absolute "${value[DST_DISK_FILE]}")
        if [[ ! $dry_run ]]; then
            # Fails when it exists: it may be the disk of another VM.
            (set -C && : >"$overlay") 2>/dev/null || die "cannot make $overlay: it exists, or its folder cannot be written"
            on_exit rm -f "$overlay"
        fi
    fi
    # Told by qcow2's magic number alone: QEMU's guess knows formats that name other files.
    format=raw
    ! cmp -s -n 4 "$source" <(printf 'QFI\xfb') || format=qcow2
    [[ $dry_run ]] || need_partitions
    step "make an overlay of $source" qemu-img create -q -f qcow2 -F "$format" -b "$source" "$overlay"
    # Room for /cocos to grow into.
    step "grow $overlay" qemu-img resize -q -f qcow2 "$overlay" +1G
}

# list_layers: in $layer_files, the disks of --layers.
list_layers() {
    local count number
    layer_files=()
    [[ $layers ]] || return 0
    # Only as many as layers.json has: a folder may hold those of an image before.
    count=$(jq -e '.layers | length' "$layers/layers.json") || die "cannot read $layers/layers.json: make it with scripts/layers"
    for ((number = 0; number < count; number++)); do
        [[ $dry_run ]] || need_file "$layers/layer$number.img" "make it with scripts/layers"
        layer_files+=("$layers/layer$number.img")
    done
}

make_volume() {
    [[ ! $volume ]] || step "make the disk for the volume" qemu-img create -q -f qcow2 "$scratch/volume.qcow2" "${volume%:*}"
}

# start_tpm: behind $tpm_socket, with its state in --tpm. It ends when QEMU has gone, or else with this
# script.
start_tpm() {
    local state
    tpm_socket=$scratch/tpm
    [[ $tpm ]] || return 0
    state=$(absolute "$tpm")
    step "make $tpm" mkdir -m 0700 -p "$state"
    if [[ ! $dry_run ]]; then
        # What struct sockaddr_un has room for, less the NUL.
        ((${#tpm_socket} <= 107)) || die "cannot use TMPDIR=$TMPDIR: the path of the TPM's socket in it would be longer than the 107 bytes that one can have; TMPDIR=/var/tmp is short"
        [[ -r $state && -w $state && -x $state ]] || die "cannot use $tpm: the state of a TPM cannot be written there"
        # The lock is that of the open file, which swtpm has, too.
        exec {lock}<"$state"
        flock -n "$lock" || die "cannot use $tpm: another VM has this TPM; name another folder with --tpm"
        on_exit end_tpm
    fi
    step "start a TPM" swtpm socket --tpm2 --tpmstate "dir=$state" --ctrl "type=unixio,path=$tpm_socket" \
        --pid "file=$scratch/tpm.pid" --terminate --daemon
}

# end_tpm: wait until its state is written. One that QEMU never came to speak to is told to end; its
# socket is there before its process number is.
end_tpm() {
    local tries
    for ((tries = 0; tries < 100; tries++)); do
        [[ -e $tpm_socket ]] || return 0
        [[ ! -s $scratch/tpm.pid ]] || kill "$(<"$scratch/tpm.pid")" 2>/dev/null || true
        sleep 0.1
    done
}
