# What a launch wants of this host, looked at before anything is made.
# shellcheck shell=bash disable=SC2034,SC2154  # variables of scripts/qemu

# in_use PORT: does a socket of this host listen there?
in_use() {
    awk -v port="$(printf ':%04X' "$1")" '
        $4 == "0A" && substr($2, length($2) - 4) == port { found = 1 }
        END { exit !found }' <(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null)
}

# choose_port: the agent's port, or one of the range when another VM has it.
choose_port() {
    local port
    for port in "${value[HOST_FWD_AGENT]}" $(seq "$first" "$last"); do
        if ! in_use "$port"; then
            echo "$port"
            return
        fi
    done
    die "cannot forward a port: ${value[HOST_FWD_AGENT]} and $first-$last are all in use"
}

# need_folder DIR
need_folder() {
    [[ -d $1 && -r $1 && -x $1 ]] || die "cannot share $1: not a readable folder"
}

# check_host: what is run is checked first, so that whatever is wrong with it is one line.
check_host() {
    local pair share missing
    [[ -d ${TMPDIR:-/var/tmp} ]] || die "cannot use TMPDIR=$TMPDIR: no such folder"
    if is_aarch64; then need "${value[BIN_PATH]}" qemu-system-arm; else need "${value[BIN_PATH]}" qemu-system-x86; fi
    [[ ! $disk$volume ]] || need qemu-img qemu-utils
    [[ ! $tpm ]] || need swtpm swtpm
    [[ ${value[USE_SUDO]} == false ]] || need sudo sudo
    [[ ! $disk ]] || need_file "${value[SRC_DISK_FILE]}" "make it with scripts/image and name it with --disk"
    [[ ! $layers ]] || need jq jq
    [[ ! $layers ]] || need_file "$layers/layers.json" "make it with scripts/layers"
    for pair in "${data[@]}"; do
        need_file "${pair%:*}" "docs/disks.md says how to make it: 'Further verified data'"
    done
    if [[ $boot == kernel ]]; then
        need_file "${value[DISK_IMG_KERNEL_FILE]}" "name it with MANAGER_QEMU_DISK_IMG_KERNEL_FILE"
        need_file "${value[DISK_IMG_ROOTFS_FILE]}" "name it with MANAGER_QEMU_DISK_IMG_ROOTFS_FILE"
    fi
    need_firmware
    for share in "${value[CERTS_MOUNT]}" "${value[ENV_MOUNT]}"; do
        [[ ! $share ]] || need_folder "$share"
    done
    if [[ $tee != none ]]; then
        missing=$(missing_for "$tee")
        [[ ! $missing ]] || die "cannot launch with --tee $tee: $missing"
    fi
    for pair in "${forward[@]}"; do
        ! in_use "${pair%%:*}" || die "cannot forward port ${pair%%:*}: it is in use"
    done
    ((${#forward[@]})) || value[HOST_FWD_AGENT]=$(choose_port)
}

# choose_kvm: in $kvm, whether the guest has the host's processors or is emulated.
choose_kvm() {
    kvm=yes
    [[ ${value[ENABLE_KVM]} != false ]] || kvm=
    [[ $tee == none && $kvm ]] || return 0
    ! kvm_works || return 0
    if [[ ${value[ENABLE_KVM]} != true ]]; then
        note "no KVM here: the guest is emulated, which is slow"
        kvm=
    elif [[ ! $dry_run ]]; then
        die "cannot use KVM, which MANAGER_QEMU_ENABLE_KVM=true asks for: /proc/cpuinfo has neither svm nor vmx, or /dev/kvm does not open"
    fi
}
