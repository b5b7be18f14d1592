# Which VM it is, what it boots, by which firmware, and what of that anybody can attest.
# shellcheck shell=bash disable=SC2034,SC2154  # variables of scripts/qemu

# Where a distribution puts EDK2's AmdSev build, which has a place for the hashes of kernel, initramfs
# and command line in memory that the launch digest covers, and starts nothing that differs.
hashing_files=(/usr/share/ovmf/OVMF.amdsev.fd /usr/share/edk2/ovmf/OVMF.amdsev.fd)
where_hashing="EDK2's AmdSev build is in Debian's package ovmf-amdsev (sid; none of Debian 12 or 13) and in Fedora's edk2-ovmf; name it with --ovmf"

# What Debian 12's does not.
extended="both by a firmware that has TdTcg2Dxe: Debian 13's OVMF.fd, not Debian 12's"

# missing_for TEE: what this host lacks for it; nothing when it has all.
missing_for() {
    local flag parameter devices device
    case $1 in
        snp) flag=sev_snp parameter=kvm_amd/parameters/sev_snp devices='/dev/kvm /dev/sev' ;;
        tdx) flag=tdx_host_platform parameter=kvm_intel/parameters/tdx devices='/dev/kvm /dev/vhost-vsock' ;;
    esac
    if ! grep -qw "$flag" /proc/cpuinfo; then
        echo "/proc/cpuinfo has no flag $flag"
    elif [[ $(cat "/sys/module/$parameter" 2>/dev/null) != Y ]]; then
        echo "/sys/module/$parameter does not say Y"
    else
        for device in $devices; do
            [[ -e $device ]] || { echo "there is no $device"; return; }
        done
    fi
}

# choose_tee: in $tee, what flag, variables or host say.
choose_tee() {
    if [[ ! $tee ]]; then
        case ${value[ENABLE_SEV_SNP]}/${value[ENABLE_TDX]} in
            true/true) usage_error "a VM is either SNP or TDX: MANAGER_QEMU_ENABLE_SEV_SNP and MANAGER_QEMU_ENABLE_TDX are both true" ;;
            true/*) tee=snp ;;
            */true) tee=tdx ;;
            *)
                tee=none
                [[ ${value[ENABLE_TDX]} || $(missing_for tdx) ]] || tee=tdx
                [[ ${value[ENABLE_SEV_SNP]} || $(missing_for snp) ]] || tee=snp
                ;;
        esac
    fi
    [[ $tee =~ ^(none|snp|tdx)$ ]] || usage_error "--tee $tee is none of none, snp, tdx"
    if [[ $tee != none && ${value[ENABLE_KVM]} == false ]]; then
        usage_error "--tee $tee needs KVM, and MANAGER_QEMU_ENABLE_KVM is false"
    fi
}

# choose_boot: in $boot, what is started; in $disk, whether there is an image's disk; and the volume that
# goes with layers.
choose_boot() {
    if [[ $layers ]]; then
        [[ ${boot:-kernel} == kernel ]] || usage_error "--layers is for --boot kernel: no firmware starts anything from a layer"
        boot=kernel
        : "${volume:=10G:cocoon-cow}"
    fi
    if [[ ! $boot ]]; then
        boot=disk
        [[ ${value[ENABLE_DISK]} != false ]] || boot=kernel
    fi
    [[ $boot =~ ^(disk|kernel)$ ]] || usage_error "--boot $boot is neither disk nor kernel"
    # Without a disk, the image is all initramfs.
    disk=yes
    [[ $boot != kernel || ${value[ENABLE_DISK]} != false ]] || disk=
    [[ ! $layers ]] || disk=
}

# choose_firmware: in $firmware, how QEMU is given one, and in $firmware_file which: flash, of a plain VM;
# hashes, an SNP VM's that checks what is booted directly; igvm, another SNP VM's; tdvf, a TDX VM's;
# nothing: QEMU's own, which is SeaBIOS.
choose_firmware() {
    local named=${igvm:+--igvm}
    # A Manager's file of variables has it as a rule; --ovmf wins over it.
    [[ $named || ! ${MANAGER_QEMU_IGVM_FILE-} || $ovmf ]] || named=MANAGER_QEMU_IGVM_FILE
    case $tee/$boot in
        none/disk) firmware=flash ;;
        # SeaBIOS boots it faster, and measures none of it into a TPM.
        none/kernel) [[ $ovmf || $tpm ]] && firmware=flash || firmware= ;;
        snp/disk) firmware=igvm ;;
        snp/kernel)
            firmware=hashes
            [[ ! $measured_by_vtpm ]] || firmware=igvm
            [[ ! $named || $firmware == igvm ]] ||
                usage_error "$named is not for --boot kernel: QEMU puts no hashes of kernel, initramfs and command line into an IGVM file, so that the launch digest covers none of them; leave it out for a firmware that checks hashes (--ovmf), or say --measured-by-vtpm when the file has COCONUT-SVSM and its vTPM is attested"
            ;;
        tdx/*) firmware=tdvf ;;
    esac
    [[ ! $measured_by_vtpm || $tee/$boot == snp/kernel ]] ||
        usage_error "--measured-by-vtpm is for --tee snp --boot kernel, not for --tee $tee --boot $boot"
    [[ ! $igvm || $tee == snp ]] || usage_error "--igvm is for --tee snp, not for --tee $tee"
    [[ ! $ovmf || $firmware != igvm ]] ||
        usage_error "--ovmf is not for --tee $tee --boot $boot${measured_by_vtpm:+ --measured-by-vtpm}, whose firmware is in an IGVM file: --igvm"
    [[ ! $tpm || $tee == none ]] ||
        usage_error "--tpm is for --tee none: a TPM of this host's proves nothing of an SNP or TDX VM; SNP's is in its IGVM file"
    [[ ! $igvm ]] || value[IGVM_FILE]=$igvm
    case $firmware in
        flash) firmware_file=${ovmf:-${value[OVMF_CODE_FILE]}} ;;
        igvm) firmware_file=${value[IGVM_FILE]} ;;
        tdvf) firmware_file=${ovmf:-${value[OVMF_FILE]}} ;;
        hashes) firmware_file=${ovmf:-$(find_hashing)} ;;
        *) firmware_file= ;;
    esac
}

# find_hashing: the first of the usual places where there is such a firmware; else the first.
find_hashing() {
    local file
    for file in "${hashing_files[@]}"; do
        [[ ! -e $file ]] || { echo "$file"; return; }
    done
    echo "${hashing_files[0]}"
}

# need_firmware: stop when it is not there, or not for what is booted.
need_firmware() {
    local hint="name it with --ovmf, or install it with 'apt-get install ovmf'"
    case $firmware in
        '') return ;;
        igvm) hint="name it with --igvm" ;;
        hashes) hint=$where_hashing ;;
    esac
    need_file "$firmware_file" "$hint"
    case $firmware in
        flash) need_file "${value[OVMF_VARS_FILE]}" "name it with MANAGER_QEMU_OVMF_VARS_FILE, or install it with 'apt-get install ovmf'" ;;
        hashes) has_place_for_hashes "$firmware_file" || die "cannot use $firmware_file: it has no place for the hashes of kernel, initramfs and command line; $where_hashing" ;;
    esac
}

# has_place_for_hashes FILE: its table of GUIDs ends 32 bytes before its end. An entry has its data in
# front: here the address of the place, which is zero in builds that check nothing, and its size; then its
# own length, 26, and its GUID, 7255371f-3a3b-4b04-927b-1da6efa8d454. (tools/src/measure/ovmf.rs reads
# all of the table; a launch builds nothing.)
has_place_for_hashes() {
    local hex
    hex=$(tail -c 4096 "$1" | od -An -v -tx1 | tr -d ' \n')
    [[ $hex =~ (.{8}).{8}1a001f3755723b3a044b927b1da6efa8d454 && ${BASH_REMATCH[1]} != 00000000 ]]
}

# tell_chain: what of this boot is measured, by what.
tell_chain() {
    local told="by nothing that proves it to others: a plain VM"
    case $firmware/$boot in
        hashes/*) told="firmware, kernel, initramfs and command line in the launch digest; 'scripts/measure --ovmf $firmware_file $beside' tells it" ;;
        igvm/*) told="$firmware_file in the launch digest, and nothing else; all that it boots in the TPM that it offers, if it does: docs/svsm.md" ;;
        tdvf/kernel) told="firmware in MRTD, kernel in RTMR1, initramfs and command line in RTMR2, $extended" ;;
        tdvf/disk) told="firmware in MRTD, boot loader in RTMR1, what that boots in RTMR2, $extended" ;;
    esac
    [[ ! $tpm ]] || told="into the TPM in $tpm, which is this host's and proves nothing to others; 'scripts/measure $beside' tells its registers"
    note "measured: $told"
}
