#!/usr/bin/env bash
# What the program scores on a GPU, item by item, is the same bytes for any number of ranks, any batch
# size, any order of jobs, and after a resume.  LLQ_TEST_BACKEND=cpu plays it on the CPU engine.
here=$(cd "$(dirname "$0")" && pwd)
program=$here/llq_sweep sweeps=$here/sweeps
[ -x "$program" ] || { program=$here/../../llq_sweep; sweeps=$here/../../sweeps; }
command -v mpirun >/dev/null || { echo "SKIP no mpirun here"; exit 0; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cases=0

ok() { # ok SENTENCE: the last command's status decides
    [ "$?" = 0 ] || { cat "$work/out"; echo "does not hold: $*" >&2; exit 1; }
    cases=$((cases + 1))
}

run() { # run RANKS NAME OPTIONS...
    local np=$1 name=$2
    shift 2
    mpirun --oversubscribe --bind-to none -np "$np" "$program" --backend "${LLQ_TEST_BACKEND:-cuda}" \
        --share-gpu --limit 10 --seeds 0,1 --experiment fp16_baseline --experiment bnb_4bit_nf4 \
        --experiment rtn_3bit --set tasks.coqa.turns=all -o "$work/$name.h5" "$@" \
        "$sweeps/demo.toml" >"$work/out" 2>&1
}

# Whatever is recorded item by item, job by job, in an order of its own.
scores() {
    grep -o '"experiment":"[^"]*"\|"seed":[0-9]*\|"prediction":\[[^]]*\]\|"f1_item":\[[^]]*\]\|"window_nll":\[[^]]*\]' \
        "$work/$1.h5.journal" | paste -sd' ' | sed 's/"experiment"/\n&/g' | sed 's/ *$//' | sort
}

same() { # same RANKS NAME OPTIONS...
    run "$@"
    ok "$2 finishes"
    [ "$(scores "$2")" = "$reference" ]
    ok "$2: the same bytes"
}

run 1 one
ok "one rank"
reference=$(scores one)
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
