# One run: of what the guest reported and QEMU's statistics of the disk ($disk).
def at(moment): $disk[] | select(.moment == moment) | del(.moment);
# Seconds with a fraction -> microseconds.
def micros: tonumber * 1000000 | round;
# Time in user space from proc(5), in hundredths of a second: utime of PID 1 and cutime of what it
# ran. Its time in the kernel is not told apart: most of it went into the boot of the kernel,
# which is PID 1 before /init is.
(.stat | sub(".*\\) "; "") | split(" ") | (.[11], .[13]) |= tonumber | (.[11] + .[13]) * 10000) as $user
| (.stamps | split(" ") | map(micros)) as $stamps
| {
    way: $way,
    partition_mib: $mib,
    total_us: .boot.total_us,
    modules_us: ([.boot.effects[] | select(.doing | startswith("load /modules/")).us] | add // 0),
    outside_us: ($stamps[1] - $stamps[0]),
    cpu_user_us: $user,
    peak_memory_kib: .boot.peak_memory_kib,
    written: at("open"),
    written_after_sync: at("closed"),
    mounts: .mounts,
    stages: .boot.stages,
    effects: .boot.effects
  }
| .rest_us = .total_us - .modules_us
