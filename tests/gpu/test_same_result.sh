#!/usr/bin/env bash
# What the program scores on a GPU, item by item, is the same bytes for any number of ranks, any batch
# size, any order of jobs, and after a resume.  LLQ_TEST_BACKEND=cpu plays it on the CPU engine.
. "$(dirname "$0")/common.sh"
command -v mpirun >/dev/null || { echo "SKIP no mpirun here"; exit 0; }

run() { # run RANKS NAME OPTIONS...
    local np=$1 name=$2
    shift 2
    mpirun --oversubscribe --bind-to none -np "$np" "$program" --backend "${LLQ_TEST_BACKEND:-cuda}" \
        --share-gpu --limit 10 --seeds 0,1 --experiment fp16_baseline --experiment bnb_4bit_nf4 \
        --experiment rtn_3bit --set tasks.coqa.turns=all -o "$work/$name.h5" "$@" \
        "$sweeps/demo.toml" >"$work/out" 2>&1
}

same() { # same RANKS NAME OPTIONS...
    run "$@"
    ok "$2 finishes"
    [ "$(scores "$2" f1_item)" = "$reference" ]
    ok "$2: the same bytes"
}

run 1 one
ok "one rank"
reference=$(scores one f1_item)
[ "$(grep -c '"prediction":.*"window_nll":\|"window_nll":.*"prediction":' <<<"$reference")" = 6 ]
ok "six jobs have their items"
same 2 two_ranks
same 4 four_ranks
same 1 batch_1 --set run.batch_size=1
same 1 batch_7 --set run.batch_size=7
same 2 batch_64 --set run.batch_size=64
LLQ_TEST_SHUFFLE=1 same 2 shuffled --set run.batch_size=7
run 1 resumed --experiment bnb_4bit_nf4 --shard 1/2
ok "a part"
same 2 resumed --resume
grep -q '3 of 6 jobs were finished before' "$work/out"
ok "of which nothing ran again"
echo "$cases cases ran"
