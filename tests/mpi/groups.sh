#!/usr/bin/env bash
# Ranks that share a job (tensor_parallel): the scores, the errors of quantization and the sizes are
# the bytes of one rank's; a lost member costs the group its job once; what cannot be shared is refused.
. "$(dirname "$0")/common.sh"
small_sweep
cd "$work" || exit 1
sed -i 's/^seeds = .*/seeds = [0]/' small.toml
cat >>small.toml <<TOML
[calibration]
path = "text.txt"
samples = 4
sequence_length = 64
[tasks.divergence]
[[experiment]]
name = "whole"
method = "rtn"
quant_type = "fp8_e4m3"
group_size = 0
[[experiment]]
name = "nested"
method = "rtn"
group_size = 4
double_quant = true
[[experiment]]
name = "hqq"
method = "hqq"
group_size = 4
[[experiment]]
name = "nv"
method = "rtn"
quant_type = "nvfp4"
skip_modules = ["lm_head", "down_proj"]
[[experiment]]
name = "gptq"
method = "gptq"
group_size = -1
desc_act = true
[[experiment]]
name = "awq"
method = "awq"
group_size = -1
TOML

said() { # said PATTERN: in what the last run printed
    grep -qE -- "$1" out || { cat out; fail "the output says $1"; }
}

scores() { # scores FILE: per item, without the times of solvers
    items "$1" | sed '/DATASET "solver_seconds"/,/^ *}$/d'
}

run 2 -o one.h5 small.toml
ok "ranks alone finish ($(tail -3 out))"
scores one.h5 >one
[ "$(grep -c DATASET one)" -gt 100 ]
ok "the reference holds per-item datasets"
same() { # same NAME [REFERENCE]: its scores are those of ranks alone
    scores "$1.h5" >"$1" && cmp "${2:-one}" "$1"
    ok "$1: the same bytes"
}
few=(--experiment nf4 --experiment 'rtn_*')
run 2 "${few[@]}" -o few.h5 small.toml
ok "and a few of them"
scores few.h5 >few

run 2 --set model.tensor_parallel=2 -o two.h5 small.toml
ok "two ranks share each job ($(tail -3 out))"
same two
h5dump -a /experiments/nf4/seeds/0/tensor_parallel two.h5 | grep -q '(0): 2'
ok "the record says how many shared it"
h5dump -d /summary/model_mb one.h5 >sizes && h5dump -d /summary/model_mb two.h5 | tail -n +2 | cmp - <(tail -n +2 sizes)
ok "sizes are those of the whole model"
run 5 --set model.tensor_parallel=2 --set run.batch_size=7 -o five.h5 small.toml
ok "two groups of two and a rank left over finish"
said 'rank 4 on .* takes no jobs: groups of 2 ranks work on one job'
same five
run 2 --no-isolate "${few[@]}" --set model.tensor_parallel=2 -o inside.h5 small.toml
ok "in the ranks' own processes, too"
same inside few

# A member is lost: at a moment of the test's choosing, then at any.
for member in CRASH ABORT; do
    rm -f mark
    export LLQ_TEST_ONCE=$PWD/mark LLQ_TEST_$member=nf4
    run 4 "${few[@]}" --set model.tensor_parallel=2 -o lost$member.h5 small.toml
    ok "$member of one member: the sweep succeeds"
    [ "$(grep -c 'nf4 seed 0: .*; it is tried once more' out)" = 1 ]
    ok "$member: its job is tried once more, once"
    unset LLQ_TEST_$member
    same lost$member few
done
unset LLQ_TEST_ONCE
LLQ_TEST_CRASH=nf4 run 2 --set model.tensor_parallel=2 "${few[@]}" -o twice.h5 small.toml
[ $? = 1 ] && grep -q '^state=finished exit=1 ok=2 failed=1 ' twice.h5.status
ok "a job that is lost twice is an error, the others are not"

mpirun --oversubscribe --bind-to none -np 2 "$program" --set model.tensor_parallel=2 -o killed.h5 small.toml >out 2>&1 &
pid=$!
for done in 2 5 8; do # other jobs each time: one that is lost twice is an error
    while n=$(grep -c '"status"' killed.h5.journal 2>/dev/null); kill -0 $pid 2>/dev/null && [ "${n:-0}" -lt $done ]; do
        sleep 0.02
    done
    rank=$(ps -o pid= --ppid $pid | sed -n "$((1 + done % 2))p")
    kill -9 $(ps -o pid= --ppid $rank)
done
wait $pid
ok "the sweep outlives engines that are killed at any time"
[ "$(grep -c 'a new engine takes its place' out)" -ge 3 ]
ok "and they were"
same killed

# A member fails: nobody waits for it for ever, and the record says what it said.
rm -f mark
LLQ_TEST_ONCE=$PWD/mark LLQ_TEST_FAIL=nf4 run 2 --set model.tensor_parallel=2 "${few[@]}" -o fail.h5 small.toml
[ $? = 1 ] && grep -q '"error":"[^"]*does not fit (LLQ_TEST_FAIL=nf4)' fail.h5.journal &&
    grep -q 'ok=2 failed=1' fail.h5.status
ok "one member's failure is its job's, and not the next one's"

# What cannot be shared.
run 4 --set model.tensor_parallel=4 -o refused.h5 small.toml
[ $? = 2 ] && said 'model.tensor_parallel = 4: 4 devices cannot share the model.s 2 key and value heads evenly'
ok "heads that do not divide are refused"
run 1 --set model.tensor_parallel=2 -o refused.h5 small.toml
[ $? = 2 ] && said 'tensor_parallel = 2 takes 2 ranks on one node; there are at most 1'
ok "too few ranks are refused"
run 2 --set model.tensor_parallel=2 --share-gpu -o refused.h5 small.toml
[ $? = 2 ] && said 'share-gpu lets ranks share one'
ok "--share-gpu is refused"
[ ! -e refused.h5 ]
ok "and nothing was written"

# Times are decided upon together.
cat >speed.toml <<TOML
[sweep]
seeds = [0]
[model]
path = "$root/sweeps/demo"
tensor_parallel = 2
[benchmark]
warmup = 1
repeats = 2
warmup_seconds = 0.05
min_seconds = 0.05
prefill_tokens = [16]
decode_tokens = 8
batch_sizes = [1, 2]
[[experiment]]
name = "nf4"
method = "bnb_4bit"
TOML
run 4 -o speed.h5 speed.toml
ok "a benchmark of a group finishes"
h5dump -n speed.h5 | grep -q '/experiments/nf4/seeds/0/throughput/tokens_per_s'
ok "with its times"
run 2 --dry-run speed.toml && said 'memory is that of each of the 2 ranks that share a job'
ok "--dry-run says whose memory it means"
memory() { # memory OPTIONS...: MiB of nf4
    "$program" --dry-run "$@" speed.toml | awk '$1 == "nf4" { print $(NF - 1) }'
}
alone=$(memory --set model.tensor_parallel=1) cpu=$(memory) gpu=$(memory --backend cuda)
awk -v one="$alone" -v cpu="$cpu" -v gpu="$gpu" 'BEGIN { exit !(one > 0 && gpu - cpu > 135.9 && gpu - cpu < 136.1 && cpu < one + 2) }'
ok "and counts what it takes to hear the others ($alone, $cpu, $gpu MiB)"
for name in $(ls /dev/shm | grep -E '^llq-[0-9]+-[0-9a-f]{16}$'); do
    kill -0 "$(cut -d- -f2 <<<"$name")" 2>/dev/null || left=$name
done
[ -z "${left:-}" ]
ok "no shared memory is left behind"
end
