#!/usr/bin/env bash
# Per-item results are the same bytes for any number of ranks, any batch size, any order.
. "$(dirname "$0")/common.sh"
small_sweep

run 1 -o "$work/reference.h5" "$work/small.toml"
ok "one rank finishes ($(tail -3 "$work/out"))"
items "$work/reference.h5" >"$work/reference"
[ "$(grep -c DATASET "$work/reference")" -gt 50 ]
ok "the reference holds per-item datasets"

same() {
    items "$work/$1.h5" >"$work/$1"
    cmp "$work/reference" "$work/$1"
    ok "$1: the same bytes"
}

for np in 2 4; do
    run $np -o "$work/np$np.h5" "$work/small.toml"
    ok "$np ranks finish"
    same np$np
done
for batch in 1 7 64; do
    run 2 -o "$work/batch$batch.h5" --set run.batch_size=$batch "$work/small.toml"
    ok "batch size $batch finishes"
    same batch$batch
done
LLQ_TEST_SHUFFLE=1 run 2 -o "$work/shuffled.h5" --set run.batch_size=7 "$work/small.toml"
ok "a shuffled order finishes"
same shuffled
OMP_NUM_THREADS=2 run 1 -o "$work/threads.h5" "$work/small.toml"
ok "two threads finish"
same threads
run 12 -o "$work/many.h5" "$work/small.toml"
ok "more ranks than jobs finish"
same many
run 1 --no-isolate -o "$work/inside.h5" "$work/small.toml"
ok "a run in the rank's own process finishes"
same inside

# Every turn of a story: prompts that begin alike share what they begin with.
run 1 -o "$work/turns.h5" --set tasks.coqa.turns=all --set run.batch_size=1 "$work/small.toml"
ok "all turns, one sequence at a time, finish"
items "$work/turns.h5" >"$work/reference"
h5dump -a /experiments/rtn_4bit/seeds/0/coqa/n "$work/turns.h5" | grep -qE '\(0\): [3-9][0-9]'
ok "ten stories have dozens of turns"
run 4 -o "$work/turns4.h5" --set tasks.coqa.turns=all --set run.batch_size=64 "$work/small.toml"
same turns4
LLQ_TEST_SHUFFLE=1 run 2 -o "$work/turns_shuffled.h5" --set tasks.coqa.turns=all --set run.batch_size=7 "$work/small.toml"
same turns_shuffled
end
