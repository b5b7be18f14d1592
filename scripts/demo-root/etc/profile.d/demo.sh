# The greeting of a login: what cvm-init has done for this guest.
report=/run/cvm-init/boot.json

echo
echo "This is the verified root. What cvm-init has mounted:"
echo
awk '$1 ~ "^/dev/mapper/" || $3 == "9p" || $2 ~ "^/(tmp|var)$" {
    printf "  %-16s %-26s %s %s\n", $2, $1, $3, substr($4, 1, 2) }' /proc/mounts
echo
echo "What it did, as $report tells:"
echo
# It is one line of JSON; here it gets a line for each thing that it tells of, less the steps.
sed 's/,"stages":.*//; s/^/  /; s/,"\([a-z]*\)":[{[]/\n  \1: /g; s/[]{}"]//g; s/,/, /g; s/:\([^ ]\)/ \1/g' $report
echo
echo
echo "How long its stages took, in microseconds:"
echo
sed 's/.*"stages":\[//; s/\].*//; s/{"stage":"\([a-z]*\)","us":\([0-9]*\)},*/  \1 \2\n/g' $report |
    awk 'NF { printf "  %-10s %8d\n", $1, $2 }'
echo
echo "'poweroff' ends the guest."
echo
unset report
