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

# far_times DIR: for debugfs, the upper bits of the times of modification that 32 bits cannot hold:
# mke2fs leaves them out, and 2042 would become 1905. A quote in a name is doubled.
far_times() {
    local file time era
    while IFS= read -r -d '' time && IFS= read -r -d '' file; do
        era=$(((time + 2147483648) >> 32))
        ((era)) || continue
        # An ext4 has 34 bits for it, which begin with 1901; a script of debugfs has no line breaks.
        ((era > 0 && era < 4)) || die "cannot keep the time of $1/$file: ext4 has 1901 to 2446"
        [[ $file != *$'\n'* ]] || die "cannot keep the time of $1/$file: there is a line break in its name"
        printf 'set_inode_field "/%s" mtime_extra %d\n' "${file//\"/\"\"}" $era
    done < <(find "$1" -printf '%Ts\0%P\0')
}

# ext4_from_folder DIR FILE
ext4_from_folder() {
    local entries blocks last wrong
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
    far_times "$1" >>"$scratch/times"
    attempt "set the times in $2" debugfs -w -f "$scratch/times" "$2"
    # It repeats each command behind its name, and ends well whatever becomes of them.
    wrong=$(grep -v -m 1 '^debugfs' <<<"$said") || return 0
    die "cannot set the times in $2: $wrong"
}

# is_ext4 FILE
is_ext4() {
    [[ $(od -An -tx2 -j1080 -N2 "$1" 2>/dev/null | tr -d ' ') == ef53 ]]
}

# check_kind FILE: stop at another file system, or a whole disk, before it is taken for a tar.
check_kind() {
    local kind
    kind=$(blkid -p -o value -s TYPE -s PTTYPE "$1" 2>/dev/null) || return 0
    die "cannot use $1 as root: it holds ${kind%%$'\n'*}, not an ext4; give its files as a folder or a tar"
}

# check_root FILE: stop at what would only show when the guest boots.
check_root() {
    local size entry
    size=$((1024 << $(od -An -tu4 -j1048 -N4 "$1")))
    ((size == block)) ||
        die "cannot use $rootfs as root: its ext4 has $size-byte blocks, dm-verity needs $block; make it with mke2fs -b $block"
    (($(stat -c %s "$1") % block == 0)) ||
        die "cannot use $rootfs as root: its size is not a multiple of $block bytes"
    check_features "$1"
    # /sbin may be a link on the way; where init itself points is only known in the guest.
    for entry in "" sbin/init dev proc sys run tmp var cocos; do
        look_at "/$entry" "$1"
        case $entry:$kind in
            *:) die "cannot use $rootfs as root: it has no /$entry, and read-only it will not get one" ;;
            sbin/init:* | *:directory) ;;
            # A link would lead astray: its target would be looked up in the initramfs.
            *) die "cannot use $rootfs as root: its /$entry is no directory to mount on" ;;
        esac
    done
    check_identity "$1"
}

# check_features FILE: stop at what the kernel mounts only where it may write, or not at all.
check_features() {
    local about features feature
    about=$(dumpe2fs -f -h "$1" 2>/dev/null) ||
        die "cannot use $rootfs as root: dumpe2fs cannot read it; try e2fsck -p '$rootfs'"
    read -ra features < <(sed -n 's/^Filesystem features: *//p' <<<"$about")
    for feature in "${features[@]}"; do
        case $feature in
            needs_recovery)
                die "cannot use $rootfs as root: its journal needs recovery, and read-only it gets none; run e2fsck -p '$rootfs'"
                ;;
            journal_dev) die "cannot use $rootfs as root: it is the journal of another file system" ;;
            compression | dirdata | FEATURE_I*)
                die "cannot use $rootfs as root: its feature $feature is none of Linux; give its files as a folder or a tar"
                ;;
        esac
    done
    ! grep -q '^Journal device:' <<<"$about" ||
        die "cannot use $rootfs as root: its journal is on another device; run tune2fs -O ^has_journal '$rootfs'"
}

# check_identity FILE: systemd wants a file to put an identity of this boot over.
check_identity() {
    local at=/etc/machine-id
    look_at $at "$1"
    if [[ $kind == symlink ]]; then
        [[ $link == /* ]] && at=$link || at=/etc/$link
        look_at "$at" "$1"
        # These are empty when a guest starts.
        [[ $at != /@(run|tmp|var)/* ]] || kind=
    fi
    [[ $kind ]] || note "warning: the root has no /etc/machine-id, or a link to nothing: systemd complains at each boot; an empty file gets an identity of that boot"
}

# look_at PATH FILE: the type of a file of an ext4 in $kind, nothing when it is not there; in $link
# what it points at.
look_at() {
    local stat
    stat=$(debugfs -R "stat \"$1\"" "$2" 2>/dev/null) || true
    kind=$(sed -n 's/^Inode:.*Type: *\([a-z]*\).*/\1/p' <<<"$stat")
    link=$(sed -n 's/^Fast link dest: "\(.*\)"$/\1/p' <<<"$stat")
}
