# What is booted: the kernel and its command line, and what of them the firmware starts: GRUB or a
# unified kernel image, and their signature.
# shellcheck shell=bash disable=SC2034,SC2154  # variables of scripts/image

stub=/usr/lib/systemd/boot/efi/linuxx64.efi.stub
grub_modules=/usr/lib/grub/x86_64-efi

# The kernel's COMMAND_LINE_SIZE, less the NUL; what is longer is cut off without a word. GRUB does
# the same, and has put a word of its own in front.
line_max=2047
grub_prefix="BOOT_IMAGE=/bzImage "

# Words that each image gets. A panic restarts the machine, which would stay on for ever with the key
# in its memory. The systemd of the root is told to keep its hands off: roothash= and the partitions
# would make its generators set up what is set up already.
fixed_words="panic=-1 systemd.verity=0 systemd.gpt_auto=0"
# It takes no orders of the host's: credentials in SMBIOS strings and fw_cfg, logins on consoles that
# are added, more command line in an EFI variable. The last one is a word for the environment of
# init, where it stands in for that variable.
closing_words="systemd.import_credentials=no systemd.getty_auto=no systemd.ssh_auto=no SYSTEMD_EFI_OPTIONS="
# In place of these: cvm-init would keep the credentials away by itself.
opening_words="systemd.import_credentials=yes"

# read_kernel: stop at what is no kernel; its release is left in $release. The places are those of
# the setup header (Linux, Documentation/arch/x86/boot.rst).
read_kernel() {
    local at
    [[ $(od -An -tx1 -j514 -N4 "$kernel" 2>/dev/null | tr -d ' ') == 48647253 ]] ||
        die "cannot use $kernel: it is no Linux kernel (a bzImage has HdrS at byte 514)"
    [[ $boot == grub || $(head -c 2 "$kernel" | tr -d '\0') == MZ ]] ||
        die "cannot use $kernel: it has no EFI stub, which --boot uki needs"
    at=$(od -An -tu2 -j526 -N2 "$kernel")
    release=
    ((at)) || return 0
    release=$(dd if="$kernel" bs=1 skip=$((at + 512)) count=128 status=none | tr '\0' '\n' |
        awk 'NR == 1 { print $1 }')
}

# check_modules FILE WHERE: stop when the modules of an initramfs are another kernel's. One that
# others have packed may hold them in another way; then nothing is known. Nor is it whether what is no
# module is built in.
check_modules() {
    local made_for names name
    made_for=$(bsdtar -xOqf "$1" '*modules/*.ko' 2>/dev/null |
        grep -aoE 'vermagic=[^ ]+' | awk -F= 'NR == 1 { print $2 }') || true
    [[ ! $release || ! $made_for || $release == "$made_for" ]] ||
        die "cannot boot $kernel with the modules of $2: the kernel is $release, they are for $made_for"
    names=$(bsdtar -tf "$1" '*modules/*.ko*' 2>/dev/null) || true
    [[ $names ]] || return 0
    for name in "${mounted_by[@]}"; do
        [[ $names =~ [/-]$name\.ko ]] ||
            note "warning: $2 has no module $name: a kernel that has it not built in will not mount the root; scripts/initramfs ${packed[*]} packs it"
    done
}

# divide_append: the words of --append into $append_words and, from the first -- outside quotes on,
# those of init into $init_words; each with a blank in front.
divide_append() {
    local rest="${append[*]:+ ${append[*]} }" quotes
    append_words='' init_words=''
    while [[ $rest == *" -- "* ]]; do
        append_words+=${rest%%" -- "*}
        rest=" -- ${rest#*" -- "}"
        quotes=${append_words//[^\"]/}
        if ((${#quotes} % 2 == 0)); then
            init_words=${rest% }
            return
        fi
        append_words+=" --"
        rest=" ${rest#" -- "}"
    done
    append_words+=${rest% }
}

# compose_cmdline: in $cmdline, what the kernel is booted with, $root_words first, between two words by
# which PID 1 knows that nothing of it was cut off. Stops at what would end a boot.
compose_cmdline() {
    local words="$root_words $fixed_words" room=$line_max less='' what=--append fewer=''
    if [[ $boot == grub ]]; then
        room=$((room - ${#grub_prefix}))
        less=" less ${#grub_prefix} that GRUB puts in front; with --boot uki there are none"
    fi
    if [[ $allow_credentials ]]; then words+=" $opening_words"; else words+=" $closing_words"; fi
    words+=$append_words
    cmdline="cvm.begin $words cvm.end$init_words"
    [[ ! $layers ]] || what="--layers $layers" fewer="; scripts/layers --flatten makes one of all layers"
    ((${#cmdline} <= room)) ||
        die "cannot use $what: the command line has ${#cmdline} characters, the kernel takes $line_max$less$fewer"
    attempt "boot with this command line" "$tools/cvm-cmdline" --initramfs "$initramfs_words" "$cmdline"
}

# read_initramfs_words FILE: in $initramfs_words, what an initramfs says in a command line's stead. One
# that others have packed may be such that it cannot be read; then nothing is known.
read_initramfs_words() {
    initramfs_words=$(bsdtar -xOqf "$1" cmdline ./cmdline 2>/dev/null) || true
}

# word_of KEY: the value that a boot will have of it, quotes left out, in $REPLY; nothing when none is
# given.
word_of() {
    local words=" ${append_words//\"/} ${initramfs_words//\"/} "
    REPLY=
    [[ ! $words =~ [[:space:]]"$1"=([^[:space:]]+) ]] || REPLY=${BASH_REMATCH[1]}
}

# find_volume: in $elsewhere, the word by which what is written lies on another disk, or on none; nothing
# when it is on this one.
find_volume() {
    local key
    elsewhere=
    for key in cvm.volume cocoon.cow; do
        word_of $key
        [[ ! $REPLY ]] || elsewhere=$key=$REPLY
    done
    word_of cvm.cow
    [[ $REPLY != memory ]] || elsewhere=cvm.cow=memory
}

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
    # Tools that sign or hash a program take it as a multiple of 8 bytes, the firmware as it is.
    attempt "pad the unified kernel image" truncate -s %8 "$1"
}
