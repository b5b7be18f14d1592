# The disk: which parts it has, and what its partition table says of them.
# shellcheck shell=bash disable=SC2154  # variables of scripts/image

# Types of partitions: that of the firmware's, and that of any data of Linux.
esp_type=c12a7328-f81f-11d2-ba4b-00a0c93ec93b
linux_type=0fc63daf-8483-4772-8e79-3d69d8477de4

# assemble FILE: the parts behind a table, and with --whole what makes a CD of it, in front of them.
# What is not named by a root hash is named by $identity, so that different images can be told apart.
assemble() {
    local partitions=("efi:$esp_type:$(as_uuid "${identity:32}"):$tree/efi.vfat" "${root_partitions[@]}")
    [[ ! $cocos_size ]] ||
        partitions+=("cocos:$linux_type:$(as_uuid "${identity:16}"):=$(bytes "$cocos_size")")
    attempt "assemble ${1##*/}" "$tools" disk --sector-size "$sector_size" ${whole:+--cd} \
        --uuid "$(as_uuid "$identity")" -o "$1" "${partitions[@]}"
}

# assemble_medium FILE: what a firmware starts, alone, for a drive of CDs or as a disk. The disk beside
# it has the same partition, which a boot entry of the firmware's must not take for this one.
assemble_medium() {
    local own
    own=$(sha256sum <<<"boot.iso of $identity")
    attempt "assemble ${1##*/}" "$tools" disk --sector-size "$sector_size" --cd \
        --uuid "$(as_uuid "$own")" -o "$1" "efi:$esp_type:$(as_uuid "${own:32}"):$tree/efi.vfat"
}
