# What the scripts beside this file share: how they fail, clean up and ask for tools.
# shellcheck shell=bash

set -euo pipefail

# Debian keeps mke2fs, veritysetup, depmod and sfdisk where a user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
# Sorting and messages are the same on every machine.
export LC_ALL=C

# By links, too: $0 may be one.
me=$(readlink -f "$0")
me=scripts/${me##*/}
root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
# Where cargo builds is where everything that can be made again goes.
target=${CARGO_TARGET_DIR:-$root/target}
[[ $target == /* ]] || target=$root/$target

# note MESSAGE...: progress, on stderr so that it never mixes with a result.
note() {
    printf '%s: %s\n' "$me" "$*" >&2
}

# die MESSAGE...: the one line of an error; exit status 1.
die() {
    note "$*"
    exit 1
}

# usage_error MESSAGE...: the command line is wrong; exit status 2.
usage_error() {
    note "$* (see $me --help)"
    exit 2
}

# value_of FLAG [VALUE]...: the value after a flag, or a usage error.
value_of() {
    (($# >= 2)) || usage_error "$1 needs a value"
    printf '%s' "$2"
}

# need TOOL PACKAGE: stop when TOOL is not installed.
need() {
    command -v "$1" >/dev/null || die "cannot find $1: install it with 'apt-get install $2' or scripts/setup"
}

# need_file FILE [HINT]: stop when FILE is not a file that can be read.
need_file() {
    [[ -e $1 ]] || die "cannot read $1: no such file${2:+; $2}"
    [[ -f $1 && -r $1 ]] || die "cannot read $1: not a readable file"
}

# on_exit COMMAND ARGUMENT...: run at exit, also after a signal; the last one given runs first.
on_exit() {
    at_exit="${*@Q}; $at_exit"
}
at_exit=
# A second signal must not cut the cleaning short.
trap 'trap "" INT TERM HUP; eval "$at_exit"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# alone: from here on this script is the only one of its name that works in $target; another one
# waits for its end, and for that of what it has started: a guest may outlive who launched it.
alone() {
    mkdir -p "$target" 2>/dev/null || die "cannot make folder $target"
    # shellcheck disable=SC2188  # only what it opens is wanted
    { exec {lock}>>"$target/.${me##*/}.lock"; } 2>/dev/null || die "cannot write in $target"
    flock -n "$lock" && return
    note "waiting for another $me to end, which works in $target"
    # Beside this shell, which hears signals meanwhile; the lock is that of the open file, which both
    # have.
    flock "$lock" &
    wait $!
}

# scratch_in DIR: make $scratch, a folder in DIR that is gone at exit. What is made there
# is renamed into place when it is whole, so it must lie on the file system of its target.
scratch_in() {
    mkdir -p "$1" 2>/dev/null || die "cannot make folder $1"
    scratch=$(mktemp -d "$(cd "$1" && pwd)/.${me##*/}.XXXXXX" 2>/dev/null) ||
        die "cannot write in $1"
    on_exit rm -rf "$scratch"
}

# closed_to_others DIR: the nearest of DIR and the folders above it that other users cannot enter.
closed_to_others() {
    local dir=$1
    while [[ $(stat -c %A "$dir") == *[xt] ]]; do
        [[ $dir != / ]] || return 0
        dir=$(dirname "$dir")
    done
    echo "$dir"
}

# open_scratch: make $open, where mmdebstrap may work: $scratch, or a folder in TMPDIR. Without root
# mmdebstrap works as another user, who has to get there, while home folders may be closed.
open_scratch() {
    local closed elsewhere=${TMPDIR:-/var/tmp}
    open=$scratch
    chmod 0711 "$scratch"
    ((EUID != 0)) || return 0
    closed=$(closed_to_others "$scratch")
    [[ $closed ]] || return 0
    [[ -d $elsewhere && ! $(closed_to_others "$elsewhere") ]] ||
        die "cannot run mmdebstrap in $scratch or $elsewhere: its user cannot enter $closed; 'chmod o+x $closed' or TMPDIR=/var/tmp mends that"
    open=$(mktemp -d "$elsewhere/.${me##*/}.XXXXXX" 2>/dev/null) || die "cannot write in $elsewhere"
    on_exit rm -rf "$open"
    chmod 0711 "$open"
}

# publish FILE TARGET: put what was made in $scratch into its place.
publish() {
    [[ ! -d $2 ]] || die "cannot write $2: it is a folder"
    mv -fT "$1" "$2" || die "cannot write $2"
}

# attempt WHAT COMMAND ARGUMENT...: run quietly; stop with the last line it said when it fails.
# What it said is left in $said, not in a file: the disk may be full.
attempt() {
    local what=$1
    shift
    said=$("$@" 2>&1) || die "cannot $what: ${said##*$'\n'}"
}

# build_tools: in $tools, the program of tools/. Under sudo there may be no cargo; then one that was built
# before is as good as it gets.
build_tools() {
    tools=$target/x86_64-unknown-linux-musl/release/cvm-tools
    if command -v cargo >/dev/null; then
        attempt "build cvm-tools" env -C "$root" cargo build --quiet --locked --release \
            --target x86_64-unknown-linux-musl --target-dir "$target" --package cvm-tools
    fi
    need_file "$tools" "nor is there a cargo to build it; install Rust as https://rustup.rs says"
}

# bytes SIZE: how many 64k, 20M or 3G are.
bytes() {
    case $1 in
        *k) echo $((${1%k} * 1024)) ;;
        *M) echo $((${1%M} * 1048576)) ;;
        *G) echo $((${1%G} * 1073741824)) ;;
        *) echo "$1" ;;
    esac
}

# as_uuid HEX: the first 32 digits of a hash, spelled as a UUID.
as_uuid() {
    printf '%s-%s-%s-%s-%s' "${1:0:8}" "${1:8:4}" "${1:12:4}" "${1:16:4}" "${1:20:12}"
}

# in_own_mounts COMMAND ARGUMENT...: what it mounts is gone when it ends, however it ends. As root
# mmdebstrap mounts /proc, /sys and more in its root, and who kills it has them left in $scratch,
# where the cleaning up would go into them. Without root it has a namespace of its own.
in_own_mounts() {
    ((EUID != 0)) || set -- unshare --mount "$@"
    "$@"
}

# pack_image DIR COUNT FILE: an OCI image, as 'docker save' writes it, of the layers DIR/0.tar, the
# lowest, and so on.
pack_image() {
    local layer config layers=() diff_ids=()
    for ((layer = 0; layer < $2; layer++)); do
        layers+=("$layer.tar")
        diff_ids+=("sha256:$(sha256sum <"$1/$layer.tar" | cut -d' ' -f1)")
    done
    jq -n '{architecture: "amd64", os: "linux", config: {Cmd: ["/sbin/init"]},
        rootfs: {type: "layers", diff_ids: $ARGS.positional}}' --args "${diff_ids[@]}" >"$1/config"
    config=$(sha256sum <"$1/config" | cut -d' ' -f1).json
    mv "$1/config" "$1/$config"
    jq -n --arg config "$config" \
        '[{Config: $config, RepoTags: ["demo:latest"], Layers: $ARGS.positional}]' \
        --args "${layers[@]}" >"$1/manifest.json"
    attempt "pack the image" bsdtar --uid 0 --gid 0 --format=ustar -C "$1" -cf "$3" \
        manifest.json "$config" "${layers[@]}"
}

# check_suite SUITE: it becomes a word of a list of sources and a part of a file's name.
check_suite() {
    [[ $1 =~ ^[a-z][a-z0-9-]*$ ]] || usage_error "--suite $1 is not a suite such as trixie"
}

is_debian() {
    grep -q '^ID=debian$' /etc/os-release
}

# running_suite: the name of the Debian release that runs here, of which the guests are; on another
# distribution they are of the one that most of this was tried on.
running_suite() {
    local suite
    suite=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)
    is_debian || suite=bookworm
    [[ $suite ]] || die "cannot tell the running release: /etc/os-release names none"
    echo "$suite"
}

# source_of SUITE: a package source for apt, on the mirror that this machine uses.
source_of() {
    local mirror
    # shellcheck disable=SC2016  # apt's placeholders
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 == "Debian" { uri = $3 } END { print uri }')
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
        "${mirror:-http://deb.debian.org/debian} $1 main"
}

# find_sources: in $sources, those of the packages of running_suite for mmdebstrap: this machine's, which
# are known to be reachable from it; without any, as on another distribution, Debian's.
find_sources() {
    local suite
    suite=$(running_suite)
    mapfile -t sources < <(
        # shellcheck disable=SC2016  # apt's placeholders
        apt-get indextargets --format '$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
            awk -v suite="$suite" '$1 == "Debian" && $4 == "main" && $3 ~ "^" suite "(-updates|-security)?$" {
                print "deb", $2, $3, $4 }' | sort -u)
    ((${#sources[@]})) || sources=("$(source_of "$suite")")
}

# kvm_works: may QEMU use KVM? A /dev/kvm that opens is no proof: on a nested host without
# the processor's flag it can hang a guest.
kvm_works() {
    grep -qwE 'svm|vmx' /proc/cpuinfo && { : <>/dev/kvm; } 2>/dev/null
}

# has_nightly: is Rust's nightly toolchain installed? Asking cargo itself could install it.
has_nightly() {
    rustup run nightly cargo --version >/dev/null 2>&1
}
