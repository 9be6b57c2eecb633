#!/usr/bin/env bash
# An operation takes the device down in the middle of a sweep: its job fails and says why, a new
# engine takes over, the other jobs succeed.  LLQ_TEST_BACKEND=cpu plays it with a crash instead.
here=$(cd "$(dirname "$0")" && pwd)
backend=${LLQ_TEST_BACKEND:-cuda}
program=$here/llq_sweep sweeps=$here/sweeps
[ -x "$program" ] || { program=$here/../../llq_sweep; sweeps=$here/../../sweeps; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cases=0

ok() { # ok SENTENCE: the last command's status decides
    [ "$?" = 0 ] || { cat "$work/out"; echo "does not hold: $*" >&2; exit 1; }
    cases=$((cases + 1))
}

run() {
    "$program" --backend "$backend" --limit 4 --seeds 0 --experiment fp16_baseline \
        --experiment bnb_4bit_nf4 --experiment rtn_3bit_g32 "$@" "$sweeps/demo.toml" >"$work/out" 2>&1
}

LLQ_TEST_LOSE_DEVICE=bnb_4bit_nf4 run -o "$work/lost.h5"
[ $? = 1 ]
ok "one failed job makes the exit status 1"
grep -q 'ok=2 failed=1 total=3' "$work/lost.h5.status"
ok "the others succeed"
grep -q 'a new engine takes its place' "$work/out"
ok "a new engine takes over"
if [ "$backend" = cuda ]; then
    grep -qE 'bnb_4bit_nf4, seed 0.*the GPU stopped: .*last kernel started: add.*in job bnb_4bit_nf4 seed 0' "$work/out"
    ok "the job's error names kernel and job"
    CUDA_LAUNCH_BLOCKING=1 LLQ_TEST_LOSE_DEVICE=bnb_4bit_nf4 run -o "$work/blocking.h5"
    grep -qE 'kernel add: ' "$work/out"
    ok "with CUDA_LAUNCH_BLOCKING=1 by the launch itself"
else
    grep -q 'signal 11' "$work/out"
    ok "the job's error says how"
fi
run --resume -o "$work/lost.h5" && grep -q 'ok=3 failed=0' "$work/lost.h5.status"
ok "without the fault it can be resumed to the end"
echo "$cases cases ran"
