#!/usr/bin/env bash
# Runs test programs and scripts one after another, shows the output of those that fail, and ends
# with how many passed.  A test that ran no check counts as failed.
set -u
# Threads that spin at barriers beside other programs: a test of 10 s took 10 minutes.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
passed=0 failed=0 skipped=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for t in "$@"; do
    start=$(date +%s.%N)
    "$t" >"$log" 2>&1
    status=$?
    took=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
    if [ $status = 0 ] && grep -qE '\[ *PASSED *\]|^[0-9]+ cases ran' "$log" &&
       ! grep -qE '^\[  PASSED  \] 0 test|^0 cases ran' "$log"; then
        passed=$((passed + 1))
        n=$(grep -cE '\[  SKIPPED \] .|^SKIP' "$log")
        echo "ok      $(basename "$t")  (${took} s)$([ "$n" -gt 0 ] && echo "  parts skipped: $(grep -E '^SKIP' "$log" | head -1)")"
        grep -E '^golden ' "$log" | sed 's/^/        /'
    elif [ $status = 0 ] && grep -qE '^SKIP' "$log"; then
        skipped=$((skipped + 1))
        echo "skipped $(basename "$t")  $(grep -E '^SKIP' "$log" | head -1)"
    else
        failed=$((failed + 1))
        echo "FAILED  $(basename "$t")  (status $status, ${took} s)"
        tail -60 "$log"
    fi
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
