# The root of an image: what was given for it, whether a boot can use it, and what is made of it.
# shellcheck shell=bash disable=SC2034,SC2154  # variables of scripts/image and of formats.bash

# look_at_root: what can be told of the root, and of words that belong to it, before the long work.
look_at_root() {
    local digits
    ready=
    if [[ ! -d $rootfs ]]; then
        read_format "$rootfs"
        [[ $ready ]] || check_kind "$rootfs"
        [[ ! $ready || ! $root_format || $ready == "$root_format" ]] ||
            die "cannot use $rootfs as root: it is $ready, not $root_format; leave --root-format out, or give its files as a folder or a tar"
    fi
    root_format=${ready:-${root_format:-ext4}}
    need_format "$root_format"
    word_of rootfstype
    [[ ! $REPLY || ,$REPLY, == *,"$root_format",* ]] ||
        die "cannot use rootfstype=$REPLY: the root will be $root_format; leave the word out, or give --root-format"
    word_of cvm.verity_hash_offset
    [[ ! $REPLY ]] ||
        die "cannot use cvm.verity_hash_offset=$REPLY: the hash tree of an image has a partition of its own"
    # A salt and a hash have these many digits; how many blocks there will be is not known yet.
    printf -v digits %064d 0
    name_root "$digits" "$digits" 2
    mounted_by=("$root_format")
    packed=(--root-format "$root_format")
    word_of cvm.overlay
    IFS=, read -ra overlays <<<"$REPLY"
    ((${#overlays[@]} == 0)) || packed+=(--with overlay)
    share_places=(/etc/certs /etc/cocos)
    word_of cvm.shares
    if [[ $REPLY ]]; then
        share_places=()
        [[ ,$REPLY, != *,certs_share,* ]] || share_places+=(/etc/certs)
        [[ ,$REPLY, != *,env_share,* ]] || share_places+=(/etc/cocos)
    fi
}

# name_root ROOTHASH SALT BLOCKS: in $root_words, what proves it to a boot.
name_root() {
    root_words="roothash=$1 cvm.verity_salt=$2 cvm.verity_data_blocks=$3"
}

# pack_root: the root and its hash tree, as parts and partitions.
pack_root() {
    local file=rootfs.$root_format roothash salt
    # Where the root's files are looked at.
    local content=$rootfs
    if [[ -d $rootfs ]]; then
        note "packing $rootfs"
        make_root "$rootfs" "$tree/$file"
    elif [[ $ready ]]; then
        attempt "copy $rootfs" cp --sparse=always --reflink=auto --no-preserve=mode "$rootfs" "$tree/$file"
        if [[ $ready != ext4 ]]; then
            content=$scratch/root
            unmake_root "$tree/$file" "$content"
        fi
    else
        note "unpacking $rootfs"
        content=$scratch/root
        unpack "$rootfs" "$content"
        make_root "$content" "$tree/$file"
    fi
    fill_blocks "$tree/$file"
    check_root "$tree/$file" "$content"
    rm -rf "$scratch/root"

    note "hashing $file"
    salt=$(sha256sum <"$tree/$file")
    salt=${salt%% *}
    # veritysetup would make it readable to its owner only.
    : >"$tree/rootfs.verity"
    attempt "hash $file" veritysetup format --hash sha256 --salt "$salt" --uuid "$(as_uuid "$salt")" \
        --data-block-size "$block" --hash-block-size "$block" "$tree/$file" "$tree/rootfs.verity"
    roothash=$(awk '/^Root hash:/ { print $3 }' <<<"$said")
    [[ $roothash =~ ^[0-9a-f]{64}$ ]] || die "cannot hash $file: veritysetup gave no root hash"
    echo "$roothash" >"$tree/rootfs.roothash"
    name_root "$roothash" "$salt" $(($(stat -c %s "$tree/$file") / block))
    identity=$salt
    parts=("$file" rootfs.verity rootfs.roothash)
    # By the root hash cvm-init and systemd know them.
    root_partitions=(
        "root:$linux_type:$(as_uuid "$roothash"):$tree/$file"
        "verity:$linux_type:$(as_uuid "${roothash:32}"):$tree/rootfs.verity"
    )
}

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
    ready=$("$tools" rootfs "$1" 2>&1) || status=$?
    ((status == 0 || status == 3)) || die "cannot use $1 as root: $ready"
    ((status == 0)) || ready=
}

# fill_blocks FILE: with zeros to the end of its last block, and to two of them: over a single one there
# is no hash tree.
fill_blocks() {
    attempt "fill the last block of ${1##*/}" truncate -s "%$block" "$1"
    (($(stat -c %s "$1") >= 2 * block)) || attempt "fill ${1##*/}" truncate -s $((2 * block)) "$1"
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
    attempt "use $rootfs as root" "$tools" rootfs "$1"
    [[ $root_format != ext4 ]] || dumpe2fs -f -h "$1" >/dev/null 2>&1 ||
        die "cannot use $rootfs as root: dumpe2fs cannot read it; try e2fsck -p '$rootfs'"
    # Where init itself points is only known in the guest.
    look_at /sbin/init "$2"
    [[ $kind ]] || die "cannot use $rootfs as root: it has no /sbin/init, and read-only it will not get one"
    check_places "$2"
    check_identity "$2"
}

# check_places CONTENT: stop where a boot could not mount: on what is missing or no directory, behind a link
# to nothing or into what will be another file system, on places that lie in each other.
check_places() {
    local place other wanted all=(/cocos /dev /proc /run /sys /tmp /var "${overlays[@]}")
    local -A end_of=()
    places=()
    for place in "${all[@]}"; do
        find_end "$place" "$1"
        [[ $end ]] || die "cannot use $rootfs as root: it has no $place, and read-only it will not get one"
        [[ $kind == directory ]] || die "cannot use $rootfs as root: its $place is no directory to mount on"
        end_of[$place]=$end
    done
    for place in "${all[@]}"; do
        for other in "${all[@]}"; do
            [[ $place == "$other" || ${end_of[$place]}/ != "${end_of[$other]}"/* ]] ||
                die "cannot use $rootfs as root: its $place lies in its $other, where another file system is mounted"
        done
    done
    for place in "${all[@]:0:7}"; do
        places+=("${end_of[$place]}")
    done
    # What is there in many a root, and mounted over then.
    for place in "${all[@]}" /etc/fstab /cocos_init "${share_places[@]}"; do
        find_end "$place" "$1"
        [[ $place == /etc/fstab ]] && wanted=regular || wanted=directory
        [[ ! $end || $kind == "$wanted" ]] ||
            die "cannot use $rootfs as root: its $place is of type $kind, not $wanted"
        [[ ${end_of[$place]-} || " ${places[*]} " != *" ${end:-?} "* ]] ||
            die "cannot use $rootfs as root: its $place is $end, where another file system is mounted"
    done
}

# find_end PATH CONTENT: where PATH leads through the links of a root in $end, nothing when it is not
# there, and its type in $kind. Stops at a link to nothing, and at what lies below one of $places.
find_end() {
    local here='' name by place followed=0
    # The next name last, each with the link that has it.
    local -a ahead=() by_of=()
    push_names "$1" ''
    end=
    while ((${#ahead[@]})); do
        name=${ahead[-1]} by=${by_of[-1]}
        unset 'ahead[-1]' 'by_of[-1]'
        if [[ $name == .. ]]; then
            here=${here%/*}
            continue
        fi
        here+=/$name
        for place in "${places[@]}"; do
            [[ $here != "$place"/* ]] ||
                die "cannot use $rootfs as root: its $1 leads to $here, which lies below $place, where another file system is mounted"
        done
        look_at "$here" "$2"
        if [[ $kind == symlink ]]; then
            ((++followed <= 40)) || die "cannot use $rootfs as root: its $1 leads through too many links"
            by=$here
            here=${here%/*}
            [[ $link != /* ]] || here=
            push_names "$link" "$by"
        elif [[ ! $kind ]]; then
            [[ ! $by ]] || die "cannot use $rootfs as root: its $by is a link to nothing"
            return 0
        fi
    done
    end=${here:-/}
    look_at "$end" "$2"
}

# push_names PATH LINK: for find_end, the names in PATH.
push_names() {
    local names i
    IFS=/ read -ra names <<<"$1"
    for ((i = ${#names[@]} - 1; i >= 0; i--)); do
        [[ ${names[i]} != @(|.) ]] || continue
        ahead+=("${names[i]}")
        by_of+=("$2")
    done
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
    kind=$(sed -n 's/^Inode:.*Type: *\([A-Za-z]*\).*/\1/p' <<<"$stat")
    link=$(sed -n 's/^Fast link dest: "\(.*\)"$/\1/p' <<<"$stat")
    # What is too long for the inode is in a block of its own.
    [[ $kind != symlink || $link ]] || link=$(debugfs -R "cat \"$1\"" "$2" 2>/dev/null)
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
