# The initramfs of each way to boot, and what it is measured with.
# shellcheck shell=bash disable=SC2154  # variables of scripts/bench

# add_busybox DIR
add_busybox() {
    local applet
    cp "$(command -v busybox)" "$1/bin/busybox"
    for applet in $(busybox --list); do
        [[ -e $1/bin/$applet ]] || ln -s busybox "$1/bin/$applet"
    done
}

# add_programs DIR NAME...: programs of this machine, with the libraries that they need.
add_programs() {
    local dir=$1 name library
    shift
    for name in "$@"; do
        cp -L "$(command -v "$name")" "$dir/bin"
    done
    {
        ldd "${@/#/$dir/bin/}" | grep -o '/[^ :]*\.so[^ :]*'
        # Not linked but opened, when a thread of argon2 ends.
        ldconfig -p | awk '/libgcc_s\.so\.1 .*x86-64/ { print $NF; exit }'
    } | sort -u >"$scratch/libraries"
    while read -r library; do
        [[ ! -e $dir$library ]] || continue
        mkdir -p "$dir${library%/*}"
        cp -L "$library" "$dir$library"
    done <"$scratch/libraries"
}

# build SOURCE PROGRAM: a program that needs nothing but the kernel.
build() {
    attempt "build ${1##*/}" gcc -O2 -Wall -Wextra -static -o "$2" "$1"
}

# make_shell_tree DIR: the script and the programs that it calls.
make_shell_tree() {
    mkdir -p "$1"/{bin,dev,etc,proc,root,run,sys,tmp}
    cp "$parts/initramfs/shell" "$1/init"
    cp /etc/mke2fs.conf "$1/etc"
    add_programs "$1" bash cryptsetup veritysetup mkfs.ext4
    add_busybox "$1"
    chmod -R u=rwX,go=rX "$1"
}

# pack DIR FILE [NODE MAJOR,MINOR]: an initramfs of a folder, compressed as scripts/initramfs does
# it. The kernel opens /dev/console as the standard streams; a node that is a description needs
# no root.
pack() {
    printf '#mtree\n./dev/%s type=char mode=0600 device=native,%s\n' "${3-console}" "${4-5,1}" >"$scratch/mtree"
    bsdtar -C "$1" --uid 0 --gid 0 --format newc -cf - . @"$scratch/mtree" | gzip -n -9 >"$2" ||
        die "cannot pack $2"
}

# make_ways: $ramfs/WAY.modules is booted; WAY.none, where there is one, has no kernel modules.
make_ways() {
    local tree=$scratch/shell modules=("$here/initramfs" --init "$program" --kernel-modules)
    note "packing the initramfs of each way"
    mkdir "$ramfs"
    quietly "${modules[@]}" none -o "$ramfs/cvm-init.none"
    modules+=("$kernel/modules")
    quietly "${modules[@]}" -o "$ramfs/cvm-init.modules"

    make_shell_tree "$tree"
    pack "$tree" "$ramfs/shell.none"
    # The very same modules in the same order; cryptsetup asks for ciphers for programs, too.
    quietly "${modules[@]}" --extra-module algif_aead --extra-module algif_skcipher -o "$scratch/modules"
    attempt "unpack the modules" bsdtar -C "$tree" -xf "$scratch/modules" --include './modules*'
    pack "$tree" "$ramfs/shell.modules"

    cp "$debian/initrd.gz" "$ramfs/dracut.modules"
    make_counter
}

# initramfs_for NAME WORDS: the one to boot with; that of cvm-init has the modules of the cipher
# that the words name.
initramfs_for() {
    local file=$ramfs/$1.modules
    if [[ $1 == cvm-init && $2 =~ cvm\.cipher=([^ ]+) ]]; then
        file=$ramfs/$1.${BASH_REMATCH[1]}
        [[ -e $file ]] || quietly "$here/initramfs" --init "$program" --kernel-modules "$kernel/modules" \
            --cipher "${BASH_REMATCH[1]}" -o "$file"
    fi
    echo "$file"
}

# make_counter: $ramfs/counter, to be unpacked over the initramfs of any way.
make_counter() {
    local tree=$scratch/counter
    mkdir -p "$tree"/{bench/tracing,dev}
    build "$parts/initramfs/count.c" "$tree/bench/measure"
    pack "$tree" "$ramfs/counter" kmsg 1,11
}

# footprints: how large each initramfs is, as it is measured at launch and as it lies in memory.
footprints() {
    local way kind file
    for way in cvm-init shell dracut; do
        for kind in none modules; do
            file=$ramfs/$way.$kind
            [[ -e $file ]] || continue
            jq -nc --arg initramfs "$way" --arg kind "$kind" --argjson packed "$(stat -c %s "$file")" \
                --argjson unpacked "$(gzip -dc "$file" | wc -c)" \
                '{ initramfs: $initramfs, modules: ($kind == "modules"), packed_bytes: $packed, unpacked_bytes: $unpacked }'
        done
    done
}
