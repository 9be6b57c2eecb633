#!/usr/bin/env bash
# The command line as users script against it: what each option does, and the exit status.
. "$(dirname "$0")/common.sh"
small_sweep
cd "$work" || exit 1

said() { # said PATTERN: in what the last run printed
    grep -qE -- "$1" "$work/out" || { cat "$work/out"; fail "the output says $1"; }
}

"$program" --help >out 2>&1
ok "--help answers"
for option in --output --resume --force --dry-run --experiment --limit --seeds --backend --set \
              --fail-fast --time-limit --shard --share-gpu --no-isolate --report --recommend --merge --export --score-coqa --tokenize --quiet --verbose \
              --version --list-experiments; do
    grep -q -- "$option" out
    ok "--help knows $option"
done
"$program" --version >out 2>&1 && said 'MPI' && said 'HDF5' && said 'commit|Commit'
ok "--version names the libraries and the commit"
run 3 --version
[ "$(grep -c HDF5 out)" = 1 ]
ok "under mpirun one rank answers"
"$program" --list-experiments small.toml >out 2>&1 && [ "$(wc -l <out)" = 5 ] && said '^rtn_3bit$'
ok "--list-experiments prints the names"

run 4 --dry-run "$root/sweeps/quick.toml"
ok "--dry-run needs no model ($(tail -2 out))"
said 'bnb_4bit_nf4' && said '965\.13' && said '2357\.13'
ok "it prints the sizes of Llama-3.2-1B"
"$program" --dry-run -v small.toml >out 2>&1 && said 'window = 256'
ok "--dry-run -v prints resolved settings"
"$program" --dry-run --set 'experiment.rtn.bits=[4, 9]' small.toml >out 2>&1
said '^cells that cannot run are left out: rtn_9bit \(rtn allows 2, '
ok "it says which cells of a list are left out"
[ -z "$(ls ./*.h5* 2>/dev/null)" ]
ok "none of this wrote a results file"

echo "Ben has a red ball." >words.txt
"$program" --tokenize words.txt small.toml >out 2>&1 && said '^[0-9]+( [0-9]+)+$'
ok "--tokenize prints the ids on one line"

run 2 -o 'r-%n.h5' --experiment 'b*' --seeds 7 --limit 3 small.toml
ok "patterns, seeds and a limit are taken"
if "$program" --version | grep '^CUDA' | grep -qv 'not in' && ! nvidia-smi -L >stdout 2>&1; then
    [ "$(grep -c 'llq_sweep: warning: running on the CPU: no ' out)" = 1 ]
    ok "two ranks of a node without a GPU warn once that they run on the CPU"
fi
[ "$(tail -1 out)" = "$(pwd -P)/r-1.h5" ]
ok "the last line is the absolute path of the results file"
h5dump -n r-1.h5 >dump && grep -q '/experiments/baseline/seeds/7' dump && ! grep -q 'experiments/nf4' dump
ok "only that experiment and seed are in it"
h5dump -d /experiments/baseline/seeds/7/coqa/f1 r-1.h5 | grep -q 'SIMPLE { ( 3 )' &&
    h5dump -a /experiments/baseline/seeds/7/coqa/n r-1.h5 | grep -q '(0): 3'
ok "and three documents"
"$program" -o 'r-%n.h5' --experiment 'b*' --limit 3 -q small.toml >out 2>err && [ -e r-2.h5 ]
ok "%n takes the next free number"
[ "$(wc -l <out)" = 1 ] && ! grep -q 'llq_sweep\|jobs' err
ok "-q leaves the path alone"
grep -q 'exit=0 ok=2 failed=0 total=2' r-2.h5.status
ok "the status file says what happened"

"$program" --report r-1.h5 >out 2>&1 && said baseline && said 'F1|f1'
ok "--report prints the summary again"
run 1 --resume -o r-1.h5 --experiment 'b*' --seeds 7 --limit 3 small.toml
said '1 of 1 jobs were finished before'
ok "--resume re-uses what still matches"
run 1 --resume -o r-1.h5 --experiment 'b*' --seeds 7 --limit 4 small.toml
said '0 of 1 jobs were finished before'
ok "and only that"
run 1 --force -o r-1.h5 --experiment 'nf4' --limit 2 small.toml && ! h5dump -n r-1.h5 | grep -q '/experiments/baseline/seeds'
ok "--force starts afresh"

run 2 --time-limit 0.000001 -o late.h5 small.toml
[ $? = 75 ] && grep -q 'exit=75' late.h5.status
ok "a time limit that nothing fits leaves with 75"
run 2 --resume -o late.h5 small.toml && grep -q 'exit=0 ok=10' late.h5.status
ok "and can be resumed"

mpirun --oversubscribe --bind-to none -np 2 "$program" -o usr1.h5 small.toml >out 2>&1 &
pid=$!
while [ ! -s usr1.h5.journal ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
kill -USR1 $pid
wait $pid
status=$?
[ $status = 75 ] || [ $status = 0 ]
ok "USR1 leaves with 75 (or everything was done), not $status"
grep -q "exit=$status" usr1.h5.status && h5dump -n usr1.h5 >/dev/null
ok "the status file agrees and the results open"

for signal in TERM INT; do
    mpirun --oversubscribe --bind-to none -np 2 "$program" -o left.h5 --force small.toml >out 2>&1 &
    pid=$!
    while [ ! -s left.h5.journal ] && kill -0 $pid 2>/dev/null; do sleep 0.02; done
    kill -$signal $pid
    wait $pid
    grep -qE 'exit=(75|0)' left.h5.status
    ok "$signal leaves a status"
    "$program" -q --report left.h5 && h5dump -n left.h5 >/dev/null
    ok "$signal: and results, or what they are made from"
    run 2 --resume -o left.h5 small.toml && grep -q 'exit=0 ok=10' left.h5.status
    ok "$signal: and can be resumed"
    rm -f left.h5*
done

for way in --isolate --no-isolate; do
    rm -f both.h5*
    LLQ_TEST_FAIL=rtn_4bit run 2 -o both.h5 ${way#--isolate} -v small.toml
    [ $? = 1 ] && said 'rank 1: .* loaded in'
    ok "$way: -v shows the log of every rank"
    grep -q 'info    rank 1: ' both.h5.log && grep -q 'rtn_4bit seed 1 failed while quantize' both.h5.log
    ok "$way: and FILE.log keeps it"
    h5dump -a /provenance/backend both.h5 | grep -q '"cpu"' &&
        ! h5dump -d /provenance/gpu_names both.h5 | grep -q '(0): "",'
    ok "$way: the results say which backend and device they come from"
done

# Faults on command: a job that fails, and one that takes its engine down.
cat >fails.toml <<TOML
[sweep]
name = "fails"
seeds = [0]
[model]
path = "$root/sweeps/demo"
[tasks.sanity]
[benchmark]
warmup = 0
repeats = 1
warmup_seconds = 0.0
min_seconds = 0.0
prefill_tokens = [8]
decode_tokens = 2
batch_sizes = [1]
[[experiment]]
name = "good"
method = "none"
[[experiment]]
name = "other"
method = "bnb_4bit"
TOML
LLQ_TEST_FAIL=other run 2 -o fails.h5 --set 'sweep.margin={ coqa_f1 = 0.02 }' fails.toml
[ $? = 1 ]
ok "a job that fails makes the exit status 1"
command=$(sed -n 's/^other, seed 0.*; again: //p' out)
grep -qF -- "--set 'sweep.margin={ coqa_f1 = 0.02 }' fails.toml" <<<"$command"
ok "and its message ends with a command ($command)"
(cd "$work" && ln -s "$program" . && eval "$command" >again 2>&1) && grep -q 'fails: 1 job, 1 succeeded' again
ok "which runs that one job again, with what the command line had changed"
h5dump -A -g /experiments/other/seeds/0 fails.h5 >dump && grep -q error_stage dump && grep -q quantize dump
ok "it is in the results with its stage"
grep -q 'exit=1 ok=1 failed=1 total=2' fails.h5.status
ok "the others finish"
LLQ_TEST_FAIL=other run 1 --fail-fast -o fast.h5 fails.toml
[ $? = 1 ] && grep -q '^state=stopped exit=1 ok=0 failed=1 total=2' fast.h5.status && said 'go on with --resume'
ok "--fail-fast hands out no job after the first failed one"
run 1 --resume -o fast.h5 fails.toml && grep -q '^state=finished exit=0 ok=2' fast.h5.status
ok "and what it left can be resumed"
LLQ_TEST_CRASH=other run 2 -o crash.h5 fails.toml
[ $? = 1 ] && said 'signal'
ok "a job whose engine dies twice fails, and the sweep goes on"
h5dump -A -g /experiments/other/seeds/0 crash.h5 | grep -q process
ok "its stage is the process"
end
