# What is booted: the kernel and its command line, and what of them the firmware starts: GRUB or a
# unified kernel image, and their signature.
# shellcheck shell=bash disable=SC2034,SC2154  # variables of scripts/image

stubs=/usr/lib/systemd/boot/efi
grub_modules=/usr/lib/grub/x86_64-efi

# The kernel's COMMAND_LINE_SIZE, less the NUL; what is longer is cut off without a word. GRUB does
# the same, and has put a word of its own in front.
line_max=2047
grub_prefix="BOOT_IMAGE=/bzImage "

# Words that each image gets, and why.
{ read -r fixed_words && read -r closing_words; } < <(grep -v '^#' "$root/scripts/image.d/words")
# In place of the latter: cvm-init would keep the credentials away by itself.
opening_words="systemd.import_credentials=yes"

# has BYTES-IN-HEX OFFSET FILE: are they there?
has() {
    [[ $(od -An -v -tx1 -j"$2" -N$((${#1} / 2)) "$3" 2>/dev/null | tr -d ' \n') == "$1" ]]
}

# read_kernel: stop at what is no kernel; its release is left in $release, and in $arch what it is for.
# The places are those of the kernel's headers (Linux, Documentation/arch/x86/boot.rst and
# Documentation/arch/arm64/booting.rst; include/linux/pe.h for what is packed).
read_kernel() {
    local at
    release=
    if has 48647253 514 "$kernel"; then
        arch=x86_64
        at=$(od -An -tu2 -j526 -N2 "$kernel")
        ((!at)) || release=$(dd if="$kernel" bs=1 skip=$((at + 512)) count=128 status=none | tr '\0' '\n' |
            awk 'NR == 1 { print $1 }')
    elif has 41524d64 56 "$kernel"; then
        arch=aarch64
        # Nothing in the header says it.
        release=$(grep -aoEm 1 'Linux version [^ ]+' "$kernel" | awk 'NR == 1 { print $3 }') || true
        [[ $boot == uki ]] || die "cannot use $kernel with --boot grub: it is for aarch64, whose images are made with --boot uki only"
    elif has 7a696d67 4 "$kernel"; then
        die "cannot use $kernel: it unpacks itself (EFI_ZBOOT), which neither a stub nor QEMU can start from memory; take the Image that it was made of, as Debian's package has it"
    else
        die "cannot use $kernel: it is no Linux kernel (a bzImage has HdrS at byte 514, an arm64 Image ARMd at byte 56)"
    fi
    [[ $boot == grub ]] || has 4d5a 0 "$kernel" ||
        die "cannot use $kernel: it has no EFI stub, which --boot uki needs"
}

# find_stub: in $stub and $loader, what starts a unified kernel image of the kernel's architecture, and
# the name by which a firmware looks for it; in $of_arch, how the tools for its programs begin.
find_stub() {
    local name=x64
    of_arch='' loader=BOOTX64.EFI
    [[ $arch != aarch64 ]] || name=aa64 of_arch=aarch64-linux-gnu- loader=BOOTAA64.EFI
    : "${stub:=$stubs/linux$name.efi.stub}"
    [[ $boot == uki ]] || return 0
    need "${of_arch}objcopy" "binutils${of_arch:+-${of_arch%-}}"
    if [[ $arch == aarch64 ]]; then
        need_file "$stub" "name it with --stub; 'scripts/kernel --arch arm64' fetches one: stub.efi"
    else
        need_file "$stub" "install it with 'apt-get install systemd-boot-efi' or scripts/setup"
    fi
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
    attempt "boot with this command line" "$tools" cmdline --initramfs "$initramfs_words" "$cmdline"
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
    local end=0 size at name align sections=()
    while read -r size at; do
        ((end >= 0x$size + 0x$at)) || end=$((0x$size + 0x$at))
    done < <("${of_arch}objdump" -h -w "$stub" | awk '$1 ~ /^[0-9]+$/ { print $3, $4 }')
    ((end)) || die "cannot read $stub: no sections"
    printf '%s' "$cmdline" >"$scratch/cmdline"
    # The kernel comes last: it may use memory beyond its end. One of arm64 may have been made for pages
    # of 64 KiB, and starts where it lies.
    for name in "cmdline=$scratch/cmdline" "initrd=$tree/rootfs.cpio.gz" "linux=$tree/bzImage"; do
        align=$block
        [[ $arch/$name != aarch64/linux=* ]] || align=65536
        at=$(((end + align - 1) / align * align))
        sections+=(--add-section ".$name" --change-section-vma ".${name%%=*}=$(printf '%#x' $at)")
        end=$((at + $(stat -c %s "${name#*=}")))
    done
    # --preserve-dates: the header would get the time of now.
    attempt "make the unified kernel image" "${of_arch}objcopy" --preserve-dates "${sections[@]}" "$stub" "$1"
    # Tools that sign or hash a program take it as a multiple of 8 bytes, the firmware as it is.
    attempt "pad the unified kernel image" truncate -s %8 "$1"
}
