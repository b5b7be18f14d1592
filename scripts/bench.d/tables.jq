# The figures as Markdown.
def line: "| " + join(" | ") + " |";
def table(head; rows): (head | line), (head | map("---") | line), (rows | line);

def size: if . >= 1048576 then "\(. / 1048576) TiB" elif . >= 1024 then "\(. / 1024) GiB" else "\(.) MiB" end;
def digits: tostring | explode | reverse
    | [range(length) as $i | (if $i > 0 and $i % 3 == 0 then 44 else empty end), .[$i]] | reverse | implode;
def number(unit): . / unit | round | digits;
# A median with its spread, where there is one.
def figure(unit):
    if . == null then "-"
    elif .min == .max then .median | number(unit)
    else "\(.median | number(unit)) (\(.min | number(unit))-\(.max | number(unit)))" end;
def middle(unit): if . == null then "-" else .median | number(unit) end;
def ms: figure(1000);

def title: "\(.partition_mib | size)", .way + (if .extrapolated then " (extrapolated)" else "" end);
def ratio(f; $other): ($other | f.median) / (f.median) | if . >= 10 then round else . * 10 | round / 10 end;

.provisioning as $rows
| "## Provisioning",
  "",
  "From the start of /init to the new init; medians in ms, lowest and highest of the runs in brackets.",
  "",
  table(["partition 4", "way", "runs", "total", "of it modules", "without modules", "written KiB",
         "in requests", "peak memory of PID 1, KiB", "CPU in user space"];
    $rows[] | [title, .runs, (.total_us | ms), (.modules_us | ms), (.rest_us | ms),
        (.written_bytes | figure(1024)), (.written_requests | figure(1)),
        (.peak_memory_kib | figure(1)), (.cpu_user_us | ms)]),
  "",
  "How many times as long the shell way takes:",
  "",
  table(["partition 4", "total", "without modules"];
    $rows[] | select(.way == "cvm-init") | .partition_mib as $mib
    | ($rows[] | select(.way == "shell" and .partition_mib == $mib)) as $shell
    | [($mib | size) + (if $shell.extrapolated then " (extrapolated)" else "" end),
       "\(ratio(.total_us; $shell))", "\(ratio(.rest_us; $shell))"]),
  "",
  "Where the time goes, medians in ms:",
  "",
  (["platform", "config", "disk", "root", "volume", "runtime", "handoff"] as $stages
   | table(["partition 4", "way"] + $stages + ["seen from outside"];
       $rows[] | select(.extrapolated | not) | . as $row
       | [title] + ($stages | map(. as $stage
            | $row.stages | map(select(.stage == $stage).us)[0] | middle(1000)))
         + [$row.outside_us | middle(1000)])),
  "",
  "## Size",
  "",
  "KiB. The programs are those of the way alone, unpacked, with the libraries that they need.",
  "",
  table(["way", "programs", "rootfs.cpio.gz", "with modules"];
    .sizes[] | [.way] + ([.programs_bytes, .initramfs_bytes, .initramfs_with_modules_bytes] | map(number(1024)))),
  "",
  (.made | "Made \(.date) on \(.cores) cores of \(.cpu) (load \(.load) before), QEMU \(.qemu) \(.guest), kernel \(.kernel), "
    + "cryptsetup \(.cryptsetup), e2fsprogs \(.e2fsprogs).")
