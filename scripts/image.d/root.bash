# The root of an image: what was given for it, and whether a boot can use it.
# shellcheck shell=bash disable=SC2034,SC2154  # variables of scripts/image and of formats.bash

# unpack FILE DIR: owners are remembered, not set, so no root is needed. fakeroot does not take
# a path with blanks, so it is started where its file is.
unpack() {
    local in_scratch=(env -C "$scratch" fakeroot)
    need bsdtar libarchive-tools
    need fakeroot fakeroot
    mkdir -m 0755 "$2"
    : >"$scratch/before"
    attempt "use $1 as root: it is no file system that is known, nor can it be unpacked" \
        "${in_scratch[@]}" -s owners bsdtar -xp --numeric-owner -C "$2" -f - <"$1"
    as_owner=("${in_scratch[@]}" -i owners)
    # Where the tar says nothing of the topmost folder, that has the time of now.
    [[ ! $2 -nt $scratch/before ]] || touch -d "@$epoch" "$2"
}

# read_format FILE: in $ready, which file system a file holds; nothing when it is none. Stops at one
# with which no boot can do.
read_format() {
    local status=0
    ready=$("$judge" "$1" 2>&1) || status=$?
    ((status == 0 || status == 3)) || die "cannot use $1 as root: $ready"
    ((status == 0)) || ready=
}

# check_kind FILE: stop at another file system, or a whole disk, before it is taken for a tar.
check_kind() {
    local kind
    kind=$(blkid -p -o value -s TYPE -s PTTYPE "$1" 2>/dev/null) || return 0
    die "cannot use $1 as root: it holds ${kind%%$'\n'*}, not ${formats// /, }; give its files as a folder or a tar"
}

# check_root FILE CONTENT: stop at what would only show when the guest boots. CONTENT is where its files
# are looked at: a folder, or an ext4.
check_root() {
    local entry
    attempt "use $rootfs as root" "$judge" "$1"
    [[ $root_format != ext4 ]] || dumpe2fs -f -h "$1" >/dev/null 2>&1 ||
        die "cannot use $rootfs as root: dumpe2fs cannot read it; try e2fsck -p '$rootfs'"
    # /sbin may be a link on the way; where init itself points is only known in the guest.
    for entry in "" sbin/init dev proc sys run tmp var cocos; do
        look_at "/$entry" "$2"
        case $entry:$kind in
            *:) die "cannot use $rootfs as root: it has no /$entry, and read-only it will not get one" ;;
            sbin/init:* | *:directory) ;;
            # A link would lead astray: its target would be looked up in the initramfs.
            *) die "cannot use $rootfs as root: its /$entry is no directory to mount on" ;;
        esac
    done
    check_identity "$2"
}

# check_identity CONTENT: systemd wants a file to put an identity of this boot over.
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

# look_at PATH CONTENT: the type of a file of the root in $kind, nothing when it is not there; in $link
# what it points at.
look_at() {
    local stat
    if [[ -d $2 ]]; then
        look_into "$2" "$1"
        return
    fi
    stat=$(debugfs -R "stat \"$1\"" "$2" 2>/dev/null) || true
    kind=$(sed -n 's/^Inode:.*Type: *\([a-z]*\).*/\1/p' <<<"$stat")
    link=$(sed -n 's/^Fast link dest: "\(.*\)"$/\1/p' <<<"$stat")
}

# look_into DIR PATH: the same in a folder, where links lead as they will in the root.
look_into() {
    local rest=$2 at='' name links=0
    kind='' link=''
    while [[ $rest == */* ]]; do
        rest=${rest#/}
        name=${rest%%/*}
        rest=${rest#"$name"}
        case $name in
            '' | .) continue ;;
            ..) at=${at%/*}; continue ;;
        esac
        at+=/$name
        [[ $rest && -L $1$at ]] || continue
        ((links++ < 40)) || return 0
        link=$(readlink "$1$at")
        if [[ $link == /* ]]; then at=''; else at=${at%/*}; fi
        rest=/$link$rest
    done
    link=
    if [[ -L $1$at ]]; then
        kind=symlink
        link=$(readlink "$1$at")
    elif [[ -d $1$at ]]; then
        kind=directory
    elif [[ -e $1$at ]]; then
        kind=regular
    fi
}
