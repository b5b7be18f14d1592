# What the firmware starts: GRUB or a unified kernel image, and their signature.
# shellcheck shell=bash disable=SC2154  # variables of scripts/image

stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub
grub_modules=/usr/lib/grub/x86_64-efi

# sign FILE: what the firmware is to start. The signature holds the time it was made at.
sign() {
    [[ $SB_KEY ]] || return 0
    attempt "sign ${1##*/}" faketime -f "$(date -d "@$epoch" '+%F %T')" \
        sbsign --key "$SB_KEY" --cert "$SB_CERT" --output "$1.signed" "$1"
    attempt "verify the signature of ${1##*/}" sbverify --cert "$SB_CERT" "$1.signed"
    mv "$1.signed" "$1"
}

# make_grub FILE: GRUB in one file; its modules are not looked for on the disk. With tpm it
# measures what it reads and runs, where there is a TPM.
make_grub() {
    attempt "make GRUB" grub-mkimage -O x86_64-efi -d $grub_modules -p /EFI/BOOT -o "$1" \
        part_gpt fat normal linux search tpm halt
}

# make_grub_cfg FILE: no menu and no timeout, and what fails ends in a halt: GRUB's shell
# would belong to whoever has the console. Quotes keep GRUB from expanding a word.
make_grub_cfg() {
    local words
    read -ra words <<<"$cmdline"
    {
        printf 'linux /bzImage'
        printf " '%s'" "${words[@]}"
        printf '\ninitrd /rootfs.cpio.gz\nboot\nhalt\n'
    } >"$1"
}

# make_uki FILE: systemd's stub, which finds what it starts in sections of its own.
make_uki() {
    local end=0 size at name sections=()
    [[ $(head -c 2 "$tree/bzImage" | tr -d '\0') == MZ ]] ||
        die "cannot use $kernel: it has no EFI stub, which --boot uki needs"
    while read -r size at; do
        ((end >= 0x$size + 0x$at)) || end=$((0x$size + 0x$at))
    done < <(objdump -h -w $stub | awk '$1 ~ /^[0-9]+$/ { print $3, $4 }')
    ((end)) || die "cannot read $stub: no sections"
    printf '%s' "$cmdline" >"$scratch/cmdline"
    # The kernel comes last: it may use memory beyond its end.
    for name in "cmdline=$scratch/cmdline" "initrd=$tree/rootfs.cpio.gz" "linux=$tree/bzImage"; do
        at=$(((end + block - 1) / block * block))
        sections+=(--add-section ".$name" --change-section-vma ".${name%%=*}=$(printf '%#x' $at)")
        end=$((at + $(stat -c %s "${name#*=}")))
    done
    # --preserve-dates: the header would get the time of now.
    attempt "make the unified kernel image" objcopy --preserve-dates "${sections[@]}" $stub "$1"
}
