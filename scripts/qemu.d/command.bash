# QEMU's command line.
# shellcheck shell=bash disable=SC2034,SC2154  # variables of scripts/qemu

# part FILE: a file within a list of QEMU options, in which a comma is doubled.
part() {
    local file
    file=$(absolute "$1")
    printf '%s' "${file//,/,,}"
}

# compose: in $qemu, all of it; in $console, the chardev of the guest's console, where it is looked at.
compose() {
    as_root=()
    [[ ${value[USE_SUDO]} == false ]] || as_root=(sudo)
    qemu=("${as_root[@]}" "${value[BIN_PATH]}")
    add_machine
    add_firmware
    add_network
    add_disks
    [[ $boot != kernel ]] || add_kernel
    add_shares
    add_tpm
    add_console
    qemu+=(-monitor "${value[MONITOR]}" "${more[@]}")
}

# is_aarch64: is QEMU the one for that architecture?
is_aarch64() {
    [[ ${value[BIN_PATH]##*/} == *aarch64* ]]
}

# add_machine: processors and memory, and what protects them from the host.
add_machine() {
    local cpu=${value[CPU]} machine=${value[MACHINE]} memory=${value[MEM_ID]}
    # QEMU before 8.0 gives cmpxchg16b wrong flags, of which a kernel can die; aarch64 has no such.
    [[ $kvm ]] || cpu=max,-cx16
    [[ $kvm ]] || ! is_aarch64 || cpu=max
    # No other model is one that TDX could attest.
    [[ $tee != tdx || ${MANAGER_QEMU_CPU-} ]] || cpu=host
    case $tee in
        snp) machine+=,confidential-guest-support=${value[SEV_SNP_ID]},memory-backend=$memory ;;
        tdx) machine+=,kernel_irqchip=split,confidential-guest-support=${value[TDX_ID]},memory-backend=$memory,hpet=off ;;
    esac
    [[ $firmware != igvm ]] || machine+=,igvm-cfg=${value[IGVM_ID]}
    [[ $kvm ]] && qemu+=(-enable-kvm) || qemu+=(-accel tcg)
    qemu+=(
        -machine "$machine"
        -cpu "$cpu"
        -smp "${value[SMP_COUNT]},maxcpus=${value[SMP_MAXCPUS]}"
        -m "${value[MEMORY_SIZE]},slots=${value[MEMORY_SLOTS]},maxmem=${value[MAX_MEMORY]}"
    )
    if [[ $tee != none ]]; then
        qemu+=(-object "memory-backend-memfd,id=$memory,size=${value[MEMORY_SIZE]},share=true,prealloc=false")
    fi
}

add_firmware() {
    local snp socket
    if [[ $tee == snp ]]; then
        snp=sev-snp-guest,id=${value[SEV_SNP_ID]},cbitpos=${value[SEV_SNP_CBITPOS]}
        snp+=,reduced-phys-bits=${value[SEV_SNP_REDUCED_PHYS_BITS]}
        [[ ${value[ENABLE_HOST_DATA]} == false ]] || snp+=,host-data=${value[HOST_DATA]}
        [[ $firmware != hashes ]] || snp+=,kernel-hashes=on
        qemu+=(-object "$snp")
    fi
    case $firmware in
        flash)
            qemu+=(
                -drive "if=pflash,format=raw,unit=0,file=$(part "$firmware_file"),readonly=on"
                -drive "if=pflash,format=raw,unit=1,file=$(part "$vars")"
            )
            ;;
        hashes) qemu+=(-bios "$firmware_file") ;;
        igvm) qemu+=(-object "igvm-cfg,id=${value[IGVM_ID]},file=$(part "$firmware_file")") ;;
        tdvf)
            # CID 2 is the host.
            socket="{\"type\":\"vsock\",\"cid\":\"2\",\"port\":\"${value[QUOTE_GENERATION_PORT]}\"}"
            qemu+=(
                -object "{\"qom-type\":\"tdx-guest\",\"id\":\"${value[TDX_ID]}\",\"quote-generation-socket\":$socket}"
                -bios "$firmware_file"
                -nodefaults
                -device "vhost-vsock-pci,id=${value[VSOCK_ID]},guest-cid=${value[VSOCK_GUEST_CID]}"
            )
            ;;
    esac
}

# add_network: before all other cards, which take the next free address.
add_network() {
    local pair net=user,id=${value[NETDEV_ID]}
    for pair in "${forward[@]}"; do
        net+=,hostfwd=tcp:$listen:${pair%%:*}-:${pair#*:}
    done
    local card=virtio-net-pci,disable-legacy=${value[VIRTIO_NET_PCI_DISABLE_LEGACY]}
    card+=,iommu_platform=${value[VIRTIO_NET_PCI_IOMMU_PLATFORM]},netdev=${value[NETDEV_ID]}
    card+=,addr=${value[VIRTIO_NET_PCI_ADDR]},romfile=${value[VIRTIO_NET_PCI_ROMFILE]}
    qemu+=(-netdev "$net" -device "$card")
}

add_disks() {
    local number pair
    if [[ $disk || $layers ]]; then
        qemu+=(-device "virtio-scsi-pci,id=${value[DISK_SCSI_ID]},disable-legacy=on,iommu_platform=true")
    fi
    if [[ $disk ]]; then
        qemu+=(
            -drive "file=$(part "$overlay"),if=none,id=${value[DISK_ID]},format=${value[DISK_FORMAT]}"
            -device "scsi-hd,bus=${value[DISK_SCSI_ID]}.0,drive=${value[DISK_ID]}"
        )
    fi
    for number in "${!layer_files[@]}"; do
        add_disk "layer$number" "cocoon-layer$number" "file=$(part "${layer_files[number]}"),format=raw,readonly=on"
    done
    [[ ! $volume ]] || add_disk volume "${volume#*:}" "file=$(part "$scratch/volume.qcow2"),format=qcow2"
    for number in "${!data[@]}"; do
        pair=${data[number]}
        add_disk "data$number" "${pair##*:}" "file=$(part "${pair%:*}"),format=raw,readonly=on"
    done
}

# add_disk NAME SERIAL DRIVE: beside the image's.
add_disk() {
    qemu+=(
        -drive "$3,if=none,id=$1"
        -device "scsi-hd,bus=${value[DISK_SCSI_ID]}.0,drive=$1,serial=$2"
    )
}

add_kernel() {
    local cmdline words=()
    if [[ $disk ]]; then
        cmdline=$(dirname "${value[SRC_DISK_FILE]}")/cmdline
        need_file "$cmdline" "scripts/image makes it"
        words=("$(<"$cmdline")")
    fi
    if [[ $layers ]]; then
        need_file "$layers/cmdline" "scripts/layers makes it"
        words=("$fixed_words $closing_words $(<"$layers/cmdline") cvm.volume=serial:${volume#*:}")
    fi
    words+=("${append[@]}")
    qemu+=(
        -kernel "${value[DISK_IMG_KERNEL_FILE]}"
        -initrd "${value[DISK_IMG_ROOTFS_FILE]}"
        -append "${words[*]}"
    )
}

add_shares() {
    if [[ ${value[CERTS_MOUNT]} ]]; then
        qemu+=(
            -fsdev "local,id=cert_fs,path=$(part "${value[CERTS_MOUNT]}"),security_model=mapped"
            -device "virtio-9p-pci,fsdev=cert_fs,mount_tag=certs_share"
        )
    fi
    if [[ ${value[ENV_MOUNT]} ]]; then
        qemu+=(
            -fsdev "local,id=env_fs,path=$(part "${value[ENV_MOUNT]}"),security_model=mapped"
            -device "virtio-9p-pci,fsdev=env_fs,mount_tag=env_share"
        )
    fi
}

# add_tpm: behind the interface that SeaBIOS, OVMF and each of Debian's kernels know without a module.
add_tpm() {
    [[ ! $tpm ]] || qemu+=(
        -chardev "socket,id=tpm_socket,path=$(part "$tpm_socket")"
        -tpmdev "emulator,id=tpm,chardev=tpm_socket"
        -device "tpm-tis,tpmdev=tpm"
    )
}

add_console() {
    console=
    if [[ ${value[NO_GRAPHIC]} == true ]]; then
        qemu+=(-nographic)
        [[ " ${more[*]}" == *" -serial "* ]] || console=stdio,id=console
    fi
    [[ $console ]] || return 0
    # On a terminal, mux takes Ctrl-A X, and without signals Ctrl-C is a key like others.
    [[ ! -t 0 ]] || console+=,mux=on,signal=off
    [[ $dry_run ]] || console+=,logfile=$(part "$scratch/console")
    qemu+=(-chardev "$console" -serial chardev:console)
}

# print_command: for a shell.
print_command() {
    local word line=
    for word in "${qemu[@]}"; do
        # A line for each option with its value.
        [[ $word != -* ]] || line+=$' \\\n   '
        line+=" $(quoted "$word")"
    done
    echo "${line# }"
}
