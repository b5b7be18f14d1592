# The file systems that a root can be: how each is made of a folder, and taken apart again.
# shellcheck shell=bash disable=SC2154  # variables of scripts/image

formats="ext4 erofs squashfs"

# dm-verity hands out blocks of this size, and the kernel mounts nothing with smaller ones on it.
block=4096

# How to run what is to see the owners that files have in the root.
as_owner=()
((EUID == 0)) || as_owner=(fakeroot)

# A read-only file system that is never repaired needs nothing that identifies it.
fixed_uuid=c0c05000-0000-4000-8000-000000000000

# check_format FORMAT: stop at one that is none of these.
check_format() {
    [[ " $formats " == *" $1 "* ]] || usage_error "--root-format $1 is not one of $formats"
}

# need_format FORMAT: are the tools for it there?
need_format() {
    case $1 in
        ext4) ;; # always needed
        erofs) need mkfs.erofs erofs-utils ;;
        squashfs) need mksquashfs squashfs-tools ;;
    esac
}

# make_root DIR FILE: with the format $root_format.
make_root() {
    ((EUID == 0)) || need fakeroot fakeroot
    # Read the folder first: what cannot be read must not become a gap in the root.
    attempt "read $1" find "$1" -printf '%y %s %Ts\n'
    "${root_format}_from_folder" "$1" "$2"
}

# unmake_root FILE DIR: the files of an EROFS or a squashfs, to be looked at.
unmake_root() {
    # For nodes, which only root can make.
    local as_root=()
    if ((EUID != 0)); then
        need fakeroot fakeroot
        as_root=(fakeroot)
    fi
    case $root_format in
        erofs) attempt "read the erofs $rootfs" "${as_root[@]}" fsck.erofs --extract="$2" "$1" ;;
        squashfs) attempt "read the squashfs $rootfs" "${as_root[@]}" unsquashfs -no-progress -no-xattrs -d "$2" "$1" ;;
    esac
}

# far_times DIR: for debugfs, the times of modification that 32 bits cannot hold, as their lower bits and
# the upper ones: mke2fs leaves these out, and 2042 would become 1905, or takes the last that 32 bits hold
# (1.47.2). A quote in a name is doubled.
far_times() {
    local file time era
    while IFS= read -r -d '' time && IFS= read -r -d '' file; do
        era=$(((time + 2147483648) >> 32))
        ((era)) || continue
        # An ext4 has 34 bits for it, which begin with 1901; a script of debugfs has no line breaks.
        ((era > 0 && era < 4)) || die "cannot keep the time of $1/$file: ext4 has 1901 to 2446"
        [[ $file != *$'\n'* ]] || die "cannot keep the time of $1/$file: there is a line break in its name"
        file=${file//\"/\"\"}
        printf 'set_inode_field "/%s" %s\n' "$file" "mtime @$((time & 0xffffffff))" "$file" "mtime_extra $era"
    done < <(find "$1" -printf '%Ts\0%P\0')
}

# ext4_from_folder DIR FILE: $said has type and size of each file.
ext4_from_folder() {
    local entries blocks last wrong
    read -r entries blocks < <(awk -v b="$block" '
        { n += $1 == "f" ? int(($2 + b - 1) / b) : 1 } END { print NR, n }' <<<"$said")
    # No journal, no reserve, no spare inode: nothing is ever written to it. The features are
    # named one by one so that the mke2fs.conf of the build machine has no say. Room: 2 MiB
    # and 2 % over the content for tables, extents and attributes.
    attempt "make an ext4 of $rootfs" "${as_owner[@]}" mke2fs -q -t ext4 -b "$block" -I 256 -m 0 \
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

# erofs_from_folder DIR FILE: $said has the time of each file.
erofs_from_folder() {
    local newest
    # It takes the time of the file system from this variable, and turns the times of files back to it,
    # as it does with those before 1970.
    check_times "$1" $((1 << 62)) "mkfs.erofs has 1970 and later"
    newest=$(awk 'NR == 1 || $3 > n { n = $3 } END { printf "%.0f", (n > 0 ? n : 0) + 1 }' <<<"$said")
    attempt "make an erofs of $rootfs" env SOURCE_DATE_EPOCH="$newest" "${as_owner[@]}" \
        mkfs.erofs --quiet -zlz4hc -C65536 -U $fixed_uuid "$2" "$1"
}

# squashfs_from_folder DIR FILE
squashfs_from_folder() {
    check_times "$1" 4294967296 "squashfs has 1970 to 2106"
    attempt "make a squashfs of $rootfs" "${as_owner[@]}" mksquashfs "$1" "$2" \
        -noappend -no-progress -exit-on-error -comp zstd -mkfs-time "$epoch"
}

# check_times DIR END WHY: stop at a file with a time of modification before 1970, or from END on.
check_times() {
    local file time
    while IFS= read -r -d '' time && IFS= read -r -d '' file; do
        ((time >= 0 && time < $2)) || die "cannot keep the time of $1/$file: $3"
    done < <(find "$1" -printf '%Ts\0%P\0')
}
