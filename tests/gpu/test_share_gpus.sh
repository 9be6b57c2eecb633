#!/usr/bin/env bash
# Several ranks on a machine with GPUs: one reads the weights and NCCL brings them to the others, the
# scores are those of one rank; a rank without a GPU of its own idles, or shares when it may.
. "$(dirname "$0")/common.sh"
command -v mpirun >/dev/null || { echo "SKIP no mpirun here"; exit 0; }
export LLQ_TEST_SHARE_ALL=1

run() { # run RANKS NAME OPTIONS...
    local np=$1 name=$2
    shift 2
    mpirun --oversubscribe --bind-to none -np "$np" "$program" --backend cuda -v --limit 4 --seeds 0,1 \
        --experiment fp16_baseline --experiment bnb_4bit_nf4 -o "$work/$name.h5" "$@" "$sweeps/demo.toml" \
        >"$work/out" 2>&1
}

run 1 one
ok "one rank"
run $((gpus + 1)) surplus
ok "one rank more than GPUs"
grep -q "rank $gpus takes no jobs: rank 0 has taken this GPU (GPU-.*--share-gpu" "$work/out"
ok "idles and says why"
[ "$(scores surplus)" = "$(scores one)" ]
ok "the scores are those of one rank"
run $((gpus + 1)) shared --share-gpu && ! grep -q 'takes no jobs' "$work/out"
ok "with --share-gpu it works, too"
[ "$(scores shared)" = "$(scores one)" ]
ok "with the same scores"
if [ "$gpus" -gt 1 ]; then
    run "$gpus" all
    ok "a rank a GPU"
    if grep -q 'NCCL is not there' "$work/out"; then
        echo "SKIP no NCCL here"
    else
        [ "$(grep -c 'weights: .* from another GPU of this node over NCCL' "$work/out")" = $((gpus - 1)) ]
        ok "all but one get the weights from another GPU"
    fi
    [ "$(scores all)" = "$(scores one)" ]
    ok "the scores are those of one rank"
    LLQ_TEST_LOSE_DEVICE=bnb_4bit_nf4 run "$gpus" lost
    grep -q "an engine that takes another's place cannot join" "$work/out" &&
        grep -q 'ok=2 failed=2' "$work/lost.h5.status"
    ok "an engine that replaces a lost one reads the file"
else
    echo "SKIP weights from another GPU: one GPU here"
fi
echo "$cases cases ran"
