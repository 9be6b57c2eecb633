#!/usr/bin/env bash
# The same bytes for any number of ranks, any batch size, any order and after a resume, for every
# protocol: rolling and second-half perplexity, divergence, all turns, multiple choice.
. "$(dirname "$0")/common.sh"
small_sweep
choices=$root/tests/golden/choices
cat >"$work/all.toml" <<TOML
[sweep]
name = "all"
seeds = [0, 1]
[model]
path = "$root/sweeps/demo"
[tasks.coqa]
path = "$root/sweeps/demo/coqa-demo.json"
limit = 3
subset = "random"
turns = "all"
[tasks.perplexity]
path = "text.txt"
protocol = "lm_eval"
window = 200
[tasks.divergence]
[tasks.multiple_choice.hellaswag]
path = "$choices/hellaswag_val.jsonl"
[tasks.multiple_choice.arc_easy]
path = "$choices/arc_easy.jsonl"
limit = 4
subset = "random"
[tasks.multiple_choice.winogrande]
path = "$choices/winogrande.jsonl"
[tasks.multiple_choice.mmlu]
path = "$choices/mmlu"
[tasks.multiple_choice.lambada]
path = "$choices/lambada_test.jsonl"
[[experiment]]
name = "baseline"
method = "none"
[[experiment]]
name = "int8"
method = "bnb_8bit"
[[experiment]]
name = "nf4"
method = "bnb_4bit"
TOML

reference() { # reference NAME ARGS...: one rank, one item at a time
    local name=$1
    shift
    run 1 -o "$work/$name.h5" --set run.batch_size=1 "$@" "$work/all.toml"
    ok "$name: one rank, one item at a time, finishes ($(tail -3 "$work/out"))"
    items "$work/$name.h5" >"$work/reference"
    for group in perplexity divergence multiple_choice/hellaswag multiple_choice/lambada; do
        h5dump -n "$work/$name.h5" | grep -q "/experiments/nf4/seeds/1/$group$"
        ok "$name: the file holds $group"
    done
    [ "$(grep -c DATASET "$work/reference")" -gt 100 ]
    ok "$name: the reference holds per-item datasets"
}

same() { # same NAME NP ARGS...
    local name=$1 np=$2
    shift 2
    run "$np" -o "$work/$name.h5" "$@" "$work/all.toml"
    ok "$name finishes ($(tail -3 "$work/out"))"
    items "$work/$name.h5" >"$work/$name"
    cmp "$work/reference" "$work/$name"
    ok "$name: the same bytes"
}

reference rolling
same two_ranks 2 --set run.batch_size=7
same four_ranks 4 --set run.batch_size=64
LLQ_TEST_SHUFFLE=1 same shuffled 2 --set run.batch_size=7
OMP_NUM_THREADS=2 same threads 1
run 1 -o "$work/resumed.h5" --experiment nf4 "$work/all.toml"
ok "a part finishes"
same resumed 2 --resume

"$program" --export lm-eval "$work/rolling.h5" >"$work/out" 2>&1
ok "the results are exported ($(tail -3 "$work/out"))"
grep -q '"arc_easy":{[^}]*"acc,none":[0-9.]*,"acc_stderr,none":[0-9.]*,"acc_norm,none"' "$work/rolling.nf4.json" &&
    grep -q '"lambada_openai":{[^}]*"perplexity_stderr,none":[0-9.]' "$work/rolling.nf4.json" &&
    grep -q '"arc_easy":{"effective":4}' "$work/rolling.nf4.json"
ok "with lm-evaluation-harness's names, standard errors and counts"

half="--set tasks.perplexity.protocol=llama_cpp"
reference second_halves $half
same halves_two_ranks 2 --set run.batch_size=7 $half
LLQ_TEST_SHUFFLE=1 same halves_shuffled 4 --set run.batch_size=64 $half
end
