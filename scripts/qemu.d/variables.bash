# The Manager's variables: which there are, and what they may hold.
# shellcheck shell=bash

# Each variable of the Manager: what follows MANAGER_QEMU_, its kind, its default (- is none)
# and what it says. An empty variable is an unset one, as in systemd's environment files.
variables="\
ENABLE_SEV_SNP             bool   -                             --tee snp; unset: when the host has it
ENABLE_TDX                 bool   -                             --tee tdx; unset: when the host has it
ENABLE_KVM                 bool   -                             unset: when it works, else emulation
BIN_PATH                   text   qemu-system-x86_64            QEMU
USE_SUDO                   bool   false                         run QEMU as root
MACHINE                    text   q35                           machine type
CPU                        text   EPYC                          host with TDX, max when emulated
SMP_COUNT                  count  4                             processors
SMP_MAXCPUS                count  64                            processors, with those plugged in later
MEMORY_SIZE                size   2048M                         memory
MEMORY_SLOTS               number 5                             slots for more memory
MAX_MEMORY                 size   30G                           memory, with that plugged in later
MEM_ID                     name   ram1                          name of the memory of SNP and TDX
ENABLE_DISK                bool   -                             false: --boot kernel, and no disk
SRC_DISK_FILE              text   img/disk.img                  the image, never written
DST_DISK_FILE              text   -                             its overlay; unset: a file in \$TMPDIR
DISK_FORMAT                qcow2  qcow2                         format of the overlay
DISK_ID                    name   disk0                         name of the drive
DISK_SCSI_ID               name   scsi0                         name of its controller
DISK_IMG_KERNEL_FILE       text   -                             kernel of --boot kernel; unset: bzImage beside the image
DISK_IMG_ROOTFS_FILE       text   -                             its initramfs; unset: rootfs.cpio.gz beside the image
OVMF_CODE_FILE             text   /usr/share/OVMF/OVMF_CODE.fd  firmware of a plain VM
OVMF_VARS_FILE             text   /usr/share/OVMF/OVMF_VARS.fd  its variables; the VM gets a copy
SEV_SNP_ID                 name   sev0                          name of the SNP object
SEV_SNP_CBITPOS            number 51                            place of the C-bit in an address
SEV_SNP_REDUCED_PHYS_BITS  number 1                             address bits that encryption takes
ENABLE_HOST_DATA           bool   false                         put HOST_DATA into the SNP report
HOST_DATA                  base64 -                             32 bytes, in base64
IGVM_ID                    name   igvm0                         name of the IGVM object
IGVM_FILE                  text   /root/coconut-qemu.igvm       firmware of an SNP VM
TDX_ID                     name   tdx0                          name of the TDX object
QUOTE_GENERATION_PORT      port   4050                          vsock port of the host's quoting service
OVMF_FILE                  text   /usr/share/ovmf/OVMF.fd       firmware of a TDX VM
VSOCK_ID                   name   vhost-vsock-pci0              name of a TDX VM's vsock
VSOCK_GUEST_CID            number 3                             its address; each VM needs its own
NETDEV_ID                  name   vmnic                         name of the network
HOST_FWD_AGENT             port   7020                          port of the host ...
GUEST_FWD_AGENT            port   7002                          ... that leads to this port of the guest
HOST_FWD_RANGE             range  6100-6200                     ports of the host to take when that is in use
VIRTIO_NET_PCI_DISABLE_LEGACY  text  on                         of the network card
VIRTIO_NET_PCI_IOMMU_PLATFORM  bool  true                       of the network card
VIRTIO_NET_PCI_ADDR        text   0x2                           of the network card
VIRTIO_NET_PCI_ROMFILE     text   -                             of the network card
NO_GRAPHIC                 bool   true                          the serial console is standard input and output
MONITOR                    text   pty                           where QEMU's monitor is
CERTS_MOUNT                text   -                             --certs
ENV_MOUNT                  text   -                             --env"

declare -A pattern=(
    [bool]='true|false'
    [number]='[0-9]{1,9}'
    [count]='[1-9][0-9]{0,8}'
    [port]='[1-9][0-9]{0,4}'
    [range]='[1-9][0-9]{0,4}-[1-9][0-9]{0,4}'
    [size]='[1-9][0-9]*[kKMGT]?'
    [name]='[A-Za-z][A-Za-z0-9._-]*'
    [base64]='[A-Za-z0-9+/]{43}='
    [qcow2]='qcow2'
    [text]='.+'
)

# is_port WORD
is_port() {
    [[ $1 =~ ^${pattern[port]}$ ]] && (($1 <= 65535))
}

# tell_variables: a line each, for --help.
tell_variables() {
    awk '{
        name = $1; default_ = $3 == "-" ? "" : $3; sub(/^[^ ]+ +[^ ]+ +[^ ]+ +/, "")
        printf "  %-30s %-29s %s\n", name, default_, $0
    }' <<<"$variables"
}

# of_this_host FILE: a default where this host has it. Debian 12 has its firmware for flash of 2 MiB, by
# which the Manager knows it, and of 4; later releases have only that.
of_this_host() {
    local larger=${1%.fd}_4M.fd
    [[ ! -e $1 && -e $larger ]] || larger=$1
    echo "$larger"
}

# read_variables: their values in $value, and the range of ports in $first and $last.
declare -A value
read_variables() {
    local name kind default meaning variable word
    while read -r name kind default meaning; do
        variable=MANAGER_QEMU_$name
        [[ $name != OVMF_*_FILE ]] || default=$(of_this_host "$default")
        word=${!variable:-${default#-}}
        # What Go's ParseBool takes.
        [[ $kind != bool || ! $word =~ ^(1|[tT]|TRUE|True)$ ]] || word=true
        [[ $kind != bool || ! $word =~ ^(0|[fF]|FALSE|False)$ ]] || word=false
        [[ ! $word || $word =~ ^(${pattern[$kind]})$ ]] || usage_error "$variable=$word is not a $kind: $meaning"
        value[$name]=$word
    done <<<"$variables"
    for name in HOST_FWD_AGENT GUEST_FWD_AGENT QUOTE_GENERATION_PORT; do
        is_port "${value[$name]}" || usage_error "MANAGER_QEMU_$name=${value[$name]} is not a port"
    done
    first=${value[HOST_FWD_RANGE]%-*} last=${value[HOST_FWD_RANGE]#*-}
    if ! is_port "$first" || ! is_port "$last" || ((first > last)); then
        usage_error "MANAGER_QEMU_HOST_FWD_RANGE=$first-$last is not a range of ports"
    fi
}
