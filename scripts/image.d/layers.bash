# Layers in place of a root: the disks that scripts/layers has made, each of which becomes a partition.
# shellcheck shell=bash disable=SC2034,SC2154  # variables of scripts/image

# look_at_layers: stop at what layers.json does not say, or what its root hashes do not prove; in
# $root_words, what proves them to a boot.
look_at_layers() {
    local line file hash at
    need_file "$layers/layers.json" "make it with scripts/layers"
    attempt "use $layers" "$tools" layers check "$layers"
    mapfile -t layer_lines <<<"$said"
    root_words=${layer_lines[0]}
    layer_lines=("${layer_lines[@]:1}")
    for line in "${layer_lines[@]}"; do
        read -r file hash at <<<"$line"
        said=$(veritysetup verify --hash-offset "$at" "$layers/$file" "$layers/$file" "$hash" 2>&1) && continue
        said=${said%%$'\n'*}
        die "cannot use $layers/$file: it does not have the root hash of layers.json (${said%.}); make the layers again with scripts/layers"
    done
    mounted_by=(erofs overlay)
    packed=(--with layers)
}

# place_layers: the partitions, from the lowest layer on, as they are: with their hash trees behind
# them. A boot finds them by what they prove.
place_layers() {
    local line file hash
    identity=$(sha256sum <<<"$root_words")
    identity=${identity%% *}
    root_partitions=()
    for line in "${layer_lines[@]}"; do
        read -r file hash _ <<<"$line"
        root_partitions+=("${file%.img}:$linux_type:$(as_uuid "$hash"):$layers/$file")
    done
}
