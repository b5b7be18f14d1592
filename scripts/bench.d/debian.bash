# What comes from a Debian of its own, made in a folder so that nothing of this machine's boot is
# touched: the initramfs that a distribution has for a root by roothash=, and the files of an image.
# shellcheck shell=bash disable=SC2154  # variables of scripts/bench

debian_packages=(dracut-core systemd systemd-sysv cryptsetup-bin dmsetup kmod)
# Not hostonly: what is installed on one machine and booted on another, as VM images are. gzip -9 is
# what all ways are packed with.
dracut=(dracut --no-hostonly --no-early-microcode --compress "gzip -9" --add systemd-veritysetup)
# Some thousand files, small and large, programs and texts.
layer=(./etc ./usr/bin ./usr/sbin ./usr/share ./usr/lib/dracut ./var/lib/dpkg)

# make_debian: $debian/initrd.gz, layer.tar and versions; nothing when they are there.
make_debian() {
    local suite release made_from tree=$scratch/debian
    suite=$(running_suite)
    release=$(<"$kernel/release")
    made_from="$(sha256sum <"$parts/debian.bash") $suite $release"
    if [[ -f $debian/inputs && $(<"$debian/inputs") == "$made_from" ]]; then
        note "have $debian"
        return
    fi
    need mmdebstrap mmdebstrap
    ((EUID == 0)) || need newuidmap uidmap
    note "installing Debian $suite with dracut in a folder; takes some minutes, the first time only"
    mkdir -p "$tree" "$scratch/modules.d/usr/lib/modules"
    cp -r "$kernel/modules" "$scratch/modules.d/usr/lib/modules/$release"
    bsdtar --uid 0 --gid 0 -C "$scratch/modules.d" -cf "$scratch/modules.tar" .
    rm -r "$scratch/modules.d"
    open_scratch
    # shellcheck disable=SC2016  # $1 is the root, by mmdebstrap
    TMPDIR=$open in_own_mounts mmdebstrap --variant=minbase --include="${debian_packages[*]}" \
        --dpkgopt='path-exclude=/usr/share/'{doc,info,locale,man}'/*' \
        --customize-hook="tar-in '$scratch/modules.tar' /" \
        --customize-hook='chroot "$1" '"${dracut[*]@Q} --kver $release /initrd.gz" \
        --customize-hook="download /initrd.gz '$tree/initrd.gz'" \
        --customize-hook='chroot "$1" dpkg-query -W >'"'$tree/versions'" \
        --customize-hook='rm -r "$1/usr/lib/modules" "$1/initrd.gz"' \
        --format=tar "$suite" "$scratch/debian.tar" >"$scratch/log" 2>&1 || {
        tail -n 20 "$scratch/log" >&2
        die "cannot make a Debian with dracut: mmdebstrap failed"
    }
    # busybox knows this format.
    attempt "pick the files of an image" bsdtar --format gnutar -cf "$tree/layer.tar" \
        "${layer[@]/#/--include=}" @"$scratch/debian.tar"
    rm "$scratch/debian.tar" "$scratch/modules.tar"
    echo "$made_from" >"$tree/inputs"
    rm -rf "$debian"
    mv -T "$tree" "$debian"
}
