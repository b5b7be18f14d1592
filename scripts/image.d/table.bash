# The disk: which parts it has, and what its partition table says of them.
# shellcheck shell=bash disable=SC2154  # variables of scripts/image

# Types of partitions: that of the firmware's, and that of any data of Linux.
esp_type=c12a7328-f81f-11d2-ba4b-00a0c93ec93b
linux_type=0fc63daf-8483-4772-8e79-3d69d8477de4

# assemble FILE: the parts in $tree behind a table. The root and its hash tree are named by the root
# hash, by which cvm-init and systemd know them; and different images can be told apart by it.
assemble() {
    local partitions=(
        "efi:$esp_type:$(as_uuid "${salt:32}"):$tree/efi.vfat"
        "root:$linux_type:$(as_uuid "$roothash"):$tree/$rootfs_file"
        "verity:$linux_type:$(as_uuid "${roothash:32}"):$tree/rootfs.verity"
    )
    [[ ! $cocos_size ]] ||
        partitions+=("cocos:$linux_type:$(as_uuid "${salt:16}"):=$(bytes "$cocos_size")")
    attempt "assemble ${1##*/}" "$tools/cvm-disk" --sector-size "$sector_size" \
        --uuid "$(as_uuid "$salt")" -o "$1" "${partitions[@]}"
}
