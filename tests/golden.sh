#!/usr/bin/env bash
# Golden tests alone: a line a reference file with the number of values and the largest deviation.
# Fails when the folder of reference vectors (LLQ_GOLDEN, else ../shared/golden) is missing, or a
# file of it, or the data (LLQ_DATA) that goes with it.
set -u
folder=${LLQ_GOLDEN:-../shared/golden}
if [ ! -d "$folder" ]; then
    echo "golden: $folder: no such folder (LLQ_GOLDEN names the reference vectors)" >&2
    exit 2
fi
export LLQ_GOLDEN=$folder LLQ_GOLDEN_ALL=1
failed=0 lines=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for t in "$@"; do
    "$t" >"$log" 2>&1 || { failed=1; echo "FAILED  $(basename "$t")"; tail -40 "$log"; }
    grep -E '^(golden|SKIP)' "$log"
    lines=$((lines + $(grep -cE '^golden' "$log")))
done
echo "$lines lines compared"
[ "$failed" = 0 ] && [ "$lines" -gt 0 ]
