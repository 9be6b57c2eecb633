#!/usr/bin/env bash
# Runs test programs and scripts, LLQ_TEST_JOBS at a time (2: most of them wait most of the time),
# shows the output of those that fail, and ends with how many passed.  A test that ran no check
# counts as failed.
set -u
# Threads that spin at barriers beside other programs: a test of 10 s took 10 minutes.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
jobs=${LLQ_TEST_JOBS:-2}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# verdict LOG STATUS NAME SECONDS: what is said of a test; its first word counts it.
verdict() {
    if [ "$2" = 0 ] && grep -qE '\[ *PASSED *\]|^[0-9]+ cases ran' "$1" &&
       ! grep -qE '^\[  PASSED  \] 0 test|^0 cases ran' "$1"; then
        n=$(grep -cE '\[  SKIPPED \] .|^SKIP' "$1")
        echo "ok      $3  ($4 s)$([ "$n" -gt 0 ] && echo "  parts skipped: $(grep -E '^SKIP' "$1" | head -1)")"
        grep -E '^golden ' "$1" | sed 's/^/        /'
    elif [ "$2" = 0 ] && grep -qE '^SKIP' "$1"; then
        echo "skipped $3  $(grep -E '^SKIP' "$1" | head -1)"
    else
        echo "FAILED  $3  (status $2, $4 s)"
        tail -60 "$1"
    fi
}

# one NUMBER TEST
one() {
    local start log=$folder/$1.log status took
    start=$(date +%s.%N)
    "$2" >"$log" 2>&1
    status=$?
    took=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
    verdict "$log" $status "$(basename "$2")" "$took" >"$folder/$1.said"
    cat "$folder/$1.said"
}

n=0
for t in "$@"; do
    while [ "$(jobs -rp | wc -l)" -ge "$jobs" ]; do wait -n; done
    n=$((n + 1))
    one $n "$t" &
done
wait
count() { head -qn 1 "$folder"/*.said 2>/dev/null | grep -c "^$1 "; }
passed=$(count ok) skipped=$(count skipped)
failed=$((n - passed - skipped))
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
