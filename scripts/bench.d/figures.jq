# All figures: of the runs, slurped, with $facts about the machine and $sizes of the ways.
def median: sort | (.[(length - 1) / 2 | floor] + .[length / 2 | floor]) / 2;
def spread: { median: median, min: min, max: max };

# What a run has one number of.
def measured: {
    total_us, modules_us, rest_us, outside_us, cpu_user_us, peak_memory_kib,
    written_bytes: .written.bytes, written_requests: .written.requests,
    written_flushes: .written.flushes, written_after_sync_bytes: .written_after_sync.bytes
};

# Runs of one way and size -> one row.
def row:
    { way: .[0].way, partition_mib: .[0].partition_mib, runs: length, extrapolated: false }
    + (map(measured) as $all
       | $all[0] | with_entries(.key as $key | .value = ($all | map(.[$key]) | spread)))
    + { stages: (. as $runs | $runs[0].stages | map(.stage as $stage
          | { $stage, us: ($runs | map(.stages[] | select(.stage == $stage).us) | spread) })) };

# Rows of one way, by size -> a row for each size that was not measured, on the straight line
# through the two largest that were.
def extrapolated($sizes):
    .[-2] as $p | .[-1] as $q
    | if length < 2 then empty else
        $sizes[] | select(. > $q.partition_mib) | . as $mib
        | (($mib - $q.partition_mib) / ($q.partition_mib - $p.partition_mib)) as $steps
        | def beyond(f): ($q | f.median) + $steps * (($q | f.median) - ($p | f.median))
              | round | { median: ., min: ., max: . };
          { way: $q.way, partition_mib: $mib, runs: 0, extrapolated: true,
            total_us: beyond(.total_us), rest_us: beyond(.rest_us), written_bytes: beyond(.written_bytes) }
      end;

(group_by([.way, .partition_mib]) | map(row)) as $rows
| {
    made: $facts,
    sizes: $sizes,
    provisioning: (
        $rows + ($rows | group_by(.way) | map(extrapolated($facts.sizes_mib)))
        | sort_by([.partition_mib, .way])),
    runs: .
  }
