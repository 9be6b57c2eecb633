#!/bin/sh
# run.sh - runs the GPU test programs given, or those beside it; prints how many passed.
#
# LLQ_GPU_WRAP, e.g. "compute-sanitizer --error-exitcode 9", goes in front of each but scripts.
cd "$(dirname "$0")" || exit 1
here=$(pwd)
cd "$OLDPWD" || exit 1
[ $# -gt 0 ] || set -- "$here"/test_*
[ -d "$here/golden" ] && export LLQ_GOLDEN="${LLQ_GOLDEN:-$here/golden}"
export LLQ_TEST_BACKEND=cuda
n=0
failed=0
for program; do
    n=$((n + 1))
    echo "== $(basename "$program")"
    wrap=$LLQ_GPU_WRAP
    [ "${program%.sh}" = "$program" ] || wrap= # a script starts programs of its own
    $wrap "$program" || { failed=$((failed + 1)); echo "FAILED $(basename "$program")"; }
done
echo "gpu-test: $((n - failed)) of $n programs passed"
[ "$n" -gt 0 ] && [ "$failed" -eq 0 ]
