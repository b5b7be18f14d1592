# Guests of OCI images: layers on a disk each, and a disk for what is written.
# shellcheck shell=bash disable=SC2154  # variables of scripts/bench

cow_mib=512

# make_layer_ways: $ramfs/layers, which proves the layers and encrypts what is written, and
# $ramfs/engine, which does neither.
make_layer_ways() {
    quietly "$here/initramfs" --init "$program" --kernel-modules "$kernel/modules" --with layers -o "$ramfs/layers"
    quietly "$here/engine-initramfs" -o "$out/engine.gz"
    cp "$out/engine.gz" "$ramfs/engine"
}

# make_layers COUNT: in $disks/layers-COUNT, the disks of an image of so many layers: the measuring
# root, and above it some files more a layer, of which each replaces one of the layer below.
make_layers() {
    local image=$scratch/image number file
    note "making an image of $1 layer(s)"
    mkdir -p "$image"
    for ((number = 0; number < $1; number++)); do
        if ((number == 0)); then
            cp -r "$scratch/small" "$image/0"
        else
            mkdir -p "$image/$number/usr/share/layers"
            for ((file = number * 49; file < number * 49 + 50; file++)); do
                seq "$((file * 1000))" "$((file * 1000 + 2000))" >"$image/$number/usr/share/layers/$file"
            done
        fi
        find "$image/$number" -exec touch -hd @1 {} +
        attempt "pack layer $number" bsdtar --uid 0 --gid 0 -C "$image/$number" -cf "$image/$number.tar" .
        rm -r "${image:?}/$number"
    done
    pack_image "$image" "$1" "$scratch/image.tar"
    quietly "$here/layers" --oci "$scratch/image.tar" -o "$disks/layers-$1"
    rm -r "$image" "$scratch/image.tar"
}

# measure_layered WAY COUNT: one boot, which becomes a line of $scratch/runs.json.
measure_layered() {
    local way=$1 count=$2 layers=$disks/layers-$2 words number drives=()
    for ((number = 0; number < count; number++)); do
        drives+=(
            -drive "file=$layers/layer$number.img,format=raw,readonly=on,if=none,id=layer$number"
            -device "virtio-blk-pci,drive=layer$number,serial=cocoon-layer$number"
        )
    done
    rm -f "$scratch/cow"
    truncate -s "${cow_mib}M" "$scratch/cow"
    words="${append[*]} $(<"$layers/cmdline.stock") bench.job=provisioning"
    if [[ $way == engine ]]; then
        attempt "make the disk to write to" mkfs.ext4 -F -m 0 -q \
            -E lazy_itable_init=1,lazy_journal_init=1,discard "$scratch/cow"
    else
        words+=" $(<"$layers/cmdline")"
    fi
    drives+=(
        -drive "file=$scratch/cow,format=raw,if=none,id=disk0"
        -device "virtio-blk-pci,drive=disk0,serial=cocoon-cow"
    )
    note "$way, $count layers ..."
    boot_guest "$ramfs/$way" "$words" "${drives[@]}"
    keep_run "{\"way\": \"$way\", \"job\": \"layers\", \"layers\": $count}"
    note "$way, $count layers: $SECONDS s since the start"
}
