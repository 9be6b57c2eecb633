#!/usr/bin/env bash
# An operation on an address that is none takes the device down in the middle of a sweep, for good
# (CUDA's illegal address): its job is tried once more, then fails and says why, a new engine takes
# over, the other jobs succeed; on one rank and on two under mpirun, which share a GPU where there is
# one.  LLQ_TEST_BACKEND=cpu plays it with a crash instead.
. "$(dirname "$0")/common.sh"
backend=${LLQ_TEST_BACKEND:-cuda}

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

command -v mpirun >/dev/null || { echo "SKIP two ranks: no mpirun here"; echo "$cases cases ran"; exit 0; }
share=() says='signal 11'
if [ "$backend" = cuda ]; then
    says='illegal memory access'
    [ "$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')" -gt 1 ] || share=(--share-gpu)
fi

ranks() { # ranks NAME OPTIONS...: six jobs on two ranks
    local name=$1
    shift
    timeout -k 3 120 mpirun --oversubscribe --bind-to none -np 2 "$program" --backend "$backend" "${share[@]}" \
        --limit 4 --seeds 0,1 --experiment fp16_baseline --experiment bnb_4bit_nf4 --experiment rtn_3bit_g32 \
        -o "$work/$name.h5" "$@" "$sweeps/demo.toml" >"$work/out" 2>&1
}

ranks whole
ok "two ranks, undisturbed"
[ "$(scores whole | grep -c '"prediction"')" -ge 5 ]
ok "their journal holds scores"
LLQ_TEST_ONCE=$work/mark LLQ_TEST_LOSE_DEVICE=bnb_4bit_nf4 ranks once
ok "a device that is lost once: the sweep succeeds"
grep -q 'ok=6 failed=0 total=6' "$work/once.h5.status"
ok "with every job"
grep -qE "bnb_4bit_nf4 seed [01]: .*$says.* on rank [01]; it is tried once more" "$work/out"
ok "the retry is told, with the fault"
[ "$(grep -c 'it is tried once more' "$work/out")" = 1 ] && [ "$(grep -c 'a new engine takes its place' "$work/out")" = 1 ]
ok "one retry, one new engine"
[ "$(scores once)" = "$(scores whole)" ]
ok "and the scores of the undisturbed sweep"
LLQ_TEST_LOSE_DEVICE=bnb_4bit_nf4 ranks twice
[ $? = 1 ] && grep -q 'ok=4 failed=2 total=6' "$work/twice.h5.status"
ok "whenever it runs: its jobs fail, the others succeed"
[ "$(grep -c 'it is tried once more' "$work/out")" = 2 ] && [ "$(grep -c 'a new engine takes its place' "$work/out")" -ge 3 ]
ok "each was tried twice, by new engines"
grep -qE "^bnb_4bit_nf4, seed [01], process: .*$says.*; again: " "$work/out"
ok "the error says how, and how to run it again"
echo "$cases cases ran"
