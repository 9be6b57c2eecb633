#!/usr/bin/env bash
# Two GPUs of a machine share each job (tensor_parallel = 2): the scores are the bytes of one GPU's,
# whether they reach each other's memory or not; a lost GPU costs the job a second try.
. "$(dirname "$0")/common.sh"
far="cannot reach each other's memory"
launches="decode steps of a group exchanged rows by launches of their own"
parts=$here/test_parts
[ -x "$parts" ] || parts=$here/../../${LLQ_BUILD:-build/cuda}/gpu/test_parts
[ "$gpus" -gt 1 ] || { echo "SKIP GPUs that share a job: one GPU here"; exit 0; }
command -v mpirun >/dev/null || { echo "SKIP no mpirun here"; exit 0; }

run() { # run RANKS NAME OPTIONS...
    local np=$1 name=$2
    shift 2
    timeout -k 3 60 mpirun --oversubscribe --bind-to none -np "$np" "$program" --backend cuda -v \
        -o "$work/$name.h5" "$@" "$work/small.toml" >"$work/out" 2>&1
}

cat >"$work/small.toml" <<TOML
[sweep]
seeds = [0]
[model]
path = "$sweeps/demo"
[tasks.coqa]
path = "$sweeps/demo/coqa-demo.json"
limit = 8
[tasks.perplexity]
path = "$sweeps/demo/heldout.txt"
window = 256
[benchmark]
warmup = 1
repeats = 2
warmup_seconds = 0.05
min_seconds = 0.05
prefill_tokens = [64]
decode_tokens = 16
batch_sizes = [1, 2]
energy = false
[[experiment]]
name = "fp16"
method = "none"
[[experiment]]
name = "nf4"
method = "bnb_4bit"
[[experiment]]
name = "int8"
method = "bnb_8bit"
[[experiment]]
name = "gptq"
method = "gptq"
group_size = 64
desc_act = true
[[experiment]]
name = "awq"
method = "awq"
group_size = 64
[calibration]
path = "$sweeps/demo/calibration.txt"
samples = 5
sequence_length = 64
TOML

LLQ_TEST_BACKEND=cuda timeout -k 3 90 "$parts" >"$work/out" 2>&1
ok "parts give the bits of the whole on two GPUs"
! grep -q "$launches\|$far" "$work/out"
ok "their decode steps exchange lines"
LLQ_TEST_BACKEND=cuda LLQ_TEST_NO_PEERS=1 timeout -k 3 90 "$parts" >"$work/out" 2>&1
ok "and by way of the host"
grep -q "member 1 of 2 notes: .*$far" "$work/out"
ok "which is noted"
LLQ_TEST_BACKEND=cuda LLQ_TEST_NO_ROOM=1 timeout -k 3 90 "$parts" >"$work/out" 2>&1
ok "and where a decode step has no room on the others"
grep -q "member 1 of 2 notes: .*$launches" "$work/out"
ok "which is noted, too"
run 1 one
ok "one rank"
[ "$(scores one mse loss | grep -c '"prediction".*"window_nll"')" = 5 ]
ok "its journal holds the scores of five jobs"
[ "$(scores one mse loss | grep -c '"experiment":"[ga][pw]t*q" .*"mse"')" = 2 ]
ok "and what the methods that look at text made of each matrix"
run 2 two --set model.tensor_parallel=2
ok "two ranks share each job"
! grep -q "$far" "$work/two.h5.journal"
ok "they reach each other's memory"
! grep -q "$launches" "$work/two.h5.journal"
ok "their decode steps exchange lines"
[ "$(scores two mse loss)" = "$(scores one mse loss)" ]
ok "the scores are those of one rank, and GPTQ and AWQ pack the same"
# Packed weights: plain ones of another type than the model's, as fp16 in the demo's bf16, are not
# for whole steps.
LLQ_TEST_NO_ROOM=1 run 2 roomless --experiment nf4 --set model.tensor_parallel=2
ok "without room for lines"
grep -q "\"notes\":\"[^\"]*$launches" "$work/roomless.h5.journal"
ok "the record says so"
[ "$(scores roomless | grep '"nf4"')" = "$(scores one | grep '"nf4"')" ]
ok "the scores are the same"
for n in 1 2; do
    run $n energy$n --experiment nf4 --set benchmark.energy=true --set model.tensor_parallel=$n
    ok "with energy, on $n"
    grep -o '"joule_per_token":[0-9.]*\|"watt":[0-9.]*\|energy: [^";]*' "$work/energy$n.h5.journal" >"$work/energy"
    [ -s "$work/energy" ]
    ok "the benchmark has its energy, or says why not"
    echo "nf4 on $n: $(paste -sd' ' "$work/energy")"
done
LLQ_TEST_ONCE=$work/mark LLQ_TEST_LOSE_DEVICE=nf4 run 2 lost --set model.tensor_parallel=2
ok "a lost GPU: the sweep succeeds"
[ "$(grep -c 'it is tried once more' "$work/out")" = 1 ] && [ "$(scores lost mse loss)" = "$(scores one mse loss)" ]
ok "with a second try of its job, and the same scores"
echo "$cases cases ran"
