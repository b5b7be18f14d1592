# The root of an image: an ext4 of what was given, and whether a boot can use it.
# shellcheck shell=bash disable=SC2154  # variables of scripts/image

# dm-verity hands out blocks of this size, and the kernel mounts no ext4 with smaller ones on it.
block=4096
# A read-only file system that is never repaired needs nothing that identifies it.
fixed_uuid=c0c05000-0000-4000-8000-000000000000

# How to run what is to see the owners that files have in the root.
as_owner=()
((EUID == 0)) || as_owner=(fakeroot)

# unpack FILE DIR: owners are remembered, not set, so no root is needed. fakeroot does not take
# a path with blanks, so it is started where its file is.
unpack() {
    local in_scratch=(env -C "$scratch" fakeroot)
    need bsdtar libarchive-tools
    need fakeroot fakeroot
    mkdir "$2"
    attempt "use $1 as root: it is not an ext4, nor can it be unpacked" \
        "${in_scratch[@]}" -s owners bsdtar -xp --numeric-owner -C "$2" -f - <"$1"
    as_owner=("${in_scratch[@]}" -i owners)
}

# ext4_from_folder DIR FILE
ext4_from_folder() {
    local entries blocks last
    ((EUID == 0)) || need fakeroot fakeroot
    # Read the folder first: what cannot be read must not become a gap in the root.
    attempt "read $1" find "$1" -printf '%y %s\n'
    read -r entries blocks < <(awk -v b=$block '
        { n += $1 == "f" ? int(($2 + b - 1) / b) : 1 } END { print NR, n }' <<<"$said")
    # No journal, no reserve, no spare inode: nothing is ever written to it. The features are
    # named one by one so that the mke2fs.conf of the build machine has no say. Room: 2 MiB
    # and 2 % over the content for tables, extents and attributes.
    attempt "make an ext4 of $rootfs" "${as_owner[@]}" mke2fs -q -t ext4 -b $block -I 256 -m 0 \
        -O none,64bit,dir_index,dir_nlink,ext_attr,extent,extra_isize,filetype,flex_bg,huge_file,large_file,metadata_csum,sparse_super \
        -N $((entries + 16)) -U $fixed_uuid -E hash_seed=$fixed_uuid,root_owner=0:0 \
        -d "$1" "$2" $(((blocks * 102 / 100 + entries / 16 + 512) * block / 1024))k
    # mke2fs takes over when each file was read and changed on the build machine.
    last=$(dumpe2fs -h "$2" 2>/dev/null |
        awk -F: '/^Inode count/ { n = $2 } /^Free inodes/ { print n - $2 }')
    for ((i = 2; i <= last; i++)); do
        ((i == 2 || i > 10)) || continue
        printf 'set_inode_field <%d> %s @%d\n' $i atime "$epoch" $i ctime "$epoch"
    done >"$scratch/times"
    attempt "set the times in $2" debugfs -w -f "$scratch/times" "$2"
}

# is_ext4 FILE
is_ext4() {
    [[ $(od -An -tx2 -j1080 -N2 "$1" 2>/dev/null | tr -d ' ') == ef53 ]]
}

# check_root FILE: stop at what would only show when the guest boots.
check_root() {
    local size entry kind
    size=$((1024 << $(od -An -tu4 -j1048 -N4 "$1")))
    ((size == block)) ||
        die "cannot use $rootfs as root: its ext4 has $size-byte blocks, dm-verity needs $block; make it with mke2fs -b $block"
    (($(stat -c %s "$1") % block == 0)) ||
        die "cannot use $rootfs as root: its size is not a multiple of $block bytes"
    # /sbin may be a link on the way; where init itself points is only known in the guest.
    for entry in "" sbin/init dev proc sys run tmp var cocos; do
        kind=$(debugfs -R "stat /$entry" "$1" 2>/dev/null | sed -n 's/^Inode:.*Type: *\([a-z]*\).*/\1/p') || true
        case $entry:$kind in
            *:) die "cannot use $rootfs as root: it has no /$entry, and read-only it will not get one" ;;
            sbin/init:* | *:directory) ;;
            # A link would lead astray: its target would be looked up in the initramfs.
            *) die "cannot use $rootfs as root: its /$entry is no directory to mount on" ;;
        esac
    done
}
