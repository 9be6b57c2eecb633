#!/usr/bin/env bash
# One fault after the other, put in where a job runs or around the program: what it costs, what the
# user is told, and that the results are those of an undisturbed run.  LLQ_TEST_SHORT=1 leaves out
# what is much like another.
. "$(dirname "$0")/../mpi/common.sh"
small_sweep
cd "$work" || exit 1
helpers=$root/${LLQ_BUILD:-build/cpu}/faults
table=$work/table

said() { # said PATTERN: in what the last run printed
    grep -qE -- "$1" "$work/out" || { cat "$work/out"; fail "the output says $1"; }
}
row() { # row FAULT WHAT: a line of the table that is printed at the end
    echo "| $1 | $2 |" >>"$table"
}
same() { # same FILE WHAT: the bytes of the undisturbed run
    items "$1" >same.items && cmp whole same.items
    ok "$2: results byte-identical with an undisturbed run"
}
field() { # field FILE PATH: an attribute
    h5dump -a "$2" "$1" | sed -n 's/^ *([0-9]*): //p'
}

run 2 -o whole.h5 --limit 4 small.toml
ok "an undisturbed run finishes"
items whole.h5 >whole

# ---- the process that works for a rank ----

# once NAME PATTERN ARGS...: the fault strikes one time; the job is tried again and succeeds.
once() {
    local name=$1 pattern=$2
    shift 2
    rm -f mark once.h5*
    env "LLQ_TEST_$name=nf4" LLQ_TEST_ONCE="$work/mark" mpirun --oversubscribe --bind-to none -np 2 "$program" \
        -o once.h5 --limit 4 "$@" small.toml >out 2>&1
    local status=$?
    [ $status = 0 ] && [ -e mark ] && grep -q 'ok=10 failed=0' once.h5.status || { cat out; fail "$name once: the sweep succeeds, not $status"; }
    said "nf4 seed [01]: .*$pattern.* on rank [01]; it is tried once more"
    grep -q 'a new engine takes its place' once.h5.log
    ok "$name once: the job is tried again in a new process"
    same once.h5 "$name once"
}

# twice NAME PATTERN ARGS...: it strikes whenever the job runs; the job fails, no other does.
twice() {
    local name=$1 pattern=$2
    shift 2
    rm -f twice.h5*
    env "LLQ_TEST_$name=nf4" mpirun --oversubscribe --bind-to none -np 2 "$program" \
        -o twice.h5 --limit 4 "$@" small.toml >out 2>&1
    local status=$?
    [ $status = 1 ] && grep -q 'ok=8 failed=2 total=10' twice.h5.status || { cat out; fail "$name: the two jobs of nf4 fail alone"; }
    [ "$(grep -c 'it is tried once more' out)" = 2 ]
    ok "$name: each is tried twice and given up"
    said "^nf4, seed 0, process: .*$pattern.*; again: "
    field twice.h5 /experiments/nf4/seeds/1/error | grep -qE "$pattern"
    ok "$name: the error says how"
}

once SEGFAULT 'killed by signal 11 \(Segmentation fault\)'
twice SEGFAULT 'killed by signal 11 \(Segmentation fault\)'
row "child: segmentation fault" "one retry in a new process; twice: that job fails with \"signal 11\""
once ABORT 'killed by signal 6 \(Aborted\)'
if [ -z "${LLQ_TEST_SHORT:-}" ]; then
    twice ABORT 'killed by signal 6 \(Aborted\)'
    once EXIT 'ended with status 7'
    row "child: exit" "one retry; \"status 7\""
    once CRASH 'killed by signal 9'
    row "child: kill -9" "one retry; \"signal 9\""
fi
row "child: abort" "the same, \"signal 6\""
once HANG 'timed out after 4 s \(job_timeout\)' --set sweep.job_timeout=4
row "child: hangs" "killed after job_timeout, one retry"
if [ -z "${LLQ_TEST_SHORT:-}" ]; then
    once LOSE_DEVICE 'signal 11|device'
    row "child: its device is lost" "replaced, one retry (on a GPU: tests/gpu/test_lost_device.sh)"
fi

# While it is set up: one more chance, then its rank takes no jobs, whichever it is.
rm -f mark
LLQ_TEST_CRASH_SETUP=0 LLQ_TEST_ONCE=$work/mark run 2 -o setup.h5 --limit 4 small.toml
[ $? = 0 ] && said 'killed by signal 9.* before it was set up; a new engine takes its place' && ! grep -q 'takes no jobs' out
ok "an engine that is killed while it is set up is replaced"
for rank in 0 1; do
    LLQ_TEST_CRASH_SETUP=$rank run 2 -o setup$rank.h5 --limit 4 small.toml
    [ $? = 0 ] && said "rank $rank takes no jobs: the engine process was killed by signal 9"
    ok "rank $rank, whose engine cannot be set up, takes no jobs, and the other does all"
    same setup$rank.h5 "set up on one rank of two"
done
LLQ_TEST_CRASH_SETUP=0 run 1 -o none.h5 --limit 4 small.toml
[ $? = 2 ] && said '^llq_sweep: the engine process was killed by signal 9' && [ ! -e none.h5 ]
ok "where there is no other, nothing runs"
row "child: killed while it is set up" "one retry; twice: its rank takes no jobs, the others go on"

# The kernel's own kill for too much memory, where a group with a limit can be made.
group=/sys/fs/cgroup/memory/llq-test-$$
limited() { # runs the rest in that group
    (echo $BASHPID >"$group/cgroup.procs" && exec "$@")
}
if mkdir "$group" 2>/dev/null && echo 600M >"$group/memory.limit_in_bytes" 2>/dev/null; then
    trap 'rmdir "$group" 2>/dev/null; rm -rf "$work"' EXIT
    rm -f mark
    LLQ_TEST_MEMORY=nf4 LLQ_TEST_ONCE=$work/mark limited mpirun --oversubscribe --bind-to none -np 2 "$program" \
        -o oom.h5 --limit 4 small.toml >out 2>&1
    [ $? = 0 ] && said 'killed by signal 9 \(Killed\), perhaps for using too much memory on rank [01]; it is tried once more'
    ok "an engine that the kernel kills for its memory is replaced, and the job is tried again"
    [ "$(sed -n 's/^oom_kill //p' "$group/memory.oom_control")" -ge 1 ]
    ok "the kernel says that it did"
    same oom.h5 "killed for its memory"
    row "child: killed by the kernel for its memory (600 MB group)" "one retry; \"perhaps for using too much memory\""
else
    echo "SKIP killed for its memory: no memory group can be made here"
fi

# ---- files ----

if mkdir disk && mount -t tmpfs -o size=160k tmpfs disk 2>/dev/null; then
    trap 'umount "$work/disk"; rmdir "$group" 2>/dev/null; rm -rf "$work"' EXIT
    run 2 -o disk/full.h5 --limit 4 --set tasks.perplexity.window=64 small.toml
    [ $? = 75 ] && said 'No space left on device' && said 'go on with --resume'
    ok "a full disk stops the run, resumably"
    { [ ! -e disk/full.h5 ] || h5dump -n disk/full.h5 >/dev/null; } && ! ls disk | grep -q tmp
    ok "what fitted can be opened, and no half of a file is left"
    mount -o remount,size=20m disk
    run 2 --resume -o disk/full.h5 --limit 4 --set tasks.perplexity.window=64 small.toml && said 'were finished before'
    ok "with room again it is resumed to the end"
    row "disk full (tmpfs of 160 kB)" "exit 75, file opens, resumed when there is room"
    mount -o remount,ro disk
    run 2 -o disk/new.h5 small.toml
    [ $? = 2 ] && said 'no file can be made in .*: Read-only file system' && ! grep -q 'jobs were finished' out
    ok "a read-only folder is refused before any work"
    run 2 --resume -o disk/full.h5 --limit 4 small.toml
    [ $? = 2 ] && said 'Read-only file system'
    ok "also for --resume"
    row "read-only output" "exit 2 before any work"
    umount disk
    trap 'rmdir "$group" 2>/dev/null; rm -rf "$work"' EXIT
else
    echo "SKIP a full disk, a read-only one: no file system can be mounted here"
fi

# Output that becomes unwritable in the middle: the folder is gone.
mkdir gone
LLQ_TEST_HANG=nf4 mpirun --oversubscribe --bind-to none -np 2 "$program" -o gone/a.h5 --limit 4 --set sweep.job_timeout=3 small.toml >out 2>&1 &
pid=$!
while kill -0 $pid 2>/dev/null && ! grep -q '"status":"success"' gone/a.h5.journal 2>/dev/null; do sleep 0.02; done
mv gone elsewhere
wait $pid
[ $? = 75 ] && said 'gone/a.h5' && h5dump -n elsewhere/a.h5 >/dev/null
ok "a folder that is moved away in the middle stops the run, resumably"
mv elsewhere gone
run 2 --resume -o gone/a.h5 --limit 4 small.toml
ok "and when it is back the sweep is resumed"
same gone/a.h5 "a folder that was away"
row "output folder moved away mid-run" "exit 75, resumed when it is back"

# ---- the model's files are replaced while the sweep runs ----

model() { # a copy of the demo model, its path in small.toml
    rm -rf model && cp -r "$root/sweeps/demo" model
    sed "s|^path = \"$root/sweeps/demo\"|path = \"$work/model\"|" small.toml >model.toml
}
# swapped NAME COMMAND...: an engine of the running sweep is killed after the command has changed
# the model, so that a new one reads the files again.
swapped() {
    local file=$1.h5
    shift
    rm -f mark
    LLQ_TEST_HANG=nf4 LLQ_TEST_ONCE=$work/mark mpirun --oversubscribe --bind-to none -np 2 "$program" -o "$file" --limit 4 \
        --set sweep.job_timeout=2 model.toml >out 2>&1 &
    pid=$!
    while kill -0 $pid 2>/dev/null && [ ! -e mark ]; do sleep 0.02; done
    "$@"
    wait $pid
}
other_weights() {
    # The last bytes of a tensor: the header stays, the weights do not.
    printf '\0\0\0\0\0\0\0\0' | dd of=model/model.safetensors bs=1 seek=$(($(stat -c %s model/model.safetensors) - 64)) conv=notrunc 2>/dev/null
}
model
swapped replaced other_weights
[ $? = 0 ] && said 'rank [01] takes no jobs: .*model: the model was changed while the sweep runs'
ok "an engine that would load a replaced model takes no jobs, and says why; the other rank goes on"
items replaced.h5 >replaced.items && cmp whole replaced.items
ok "no result comes from the replaced model"
run 2 --resume -o replaced.h5 --limit 4 model.toml
said '0 of 10 jobs were finished before' && said '10 finished jobs do not match any more \(settings, model, data or version\)'
ok "and --resume notices that it is another model"
model
swapped touched touch model/model.safetensors
[ $? = 0 ] && ! grep -q 'takes no jobs' out
ok "files of another date, but the same content, are good"
row "model file replaced mid-run" "an engine that would load it takes no jobs; --resume runs all again"
row "model file touched mid-run" "content is compared: nothing happens"

# ---- the journal ----

cp whole.h5.journal hurt.h5.journal && cp whole.h5 hurt.h5
line=$(grep -n '"status":"success"' hurt.h5.journal | sed -n '4s/:.*//p')
sed -i "${line}s/\"status\":\"success\"/\"status\":\"succesS\"/" hurt.h5.journal
printf '01234567 {"job":{"key' >>hurt.h5.journal
run 2 --resume -o hurt.h5 --limit 4 small.toml
[ $? = 0 ] && said "hurt.h5.journal: line $line \([0-9]+ bytes at [0-9]+\) is left out: .*checksum" && said '9 of 10 jobs were finished before'
ok "a damaged record is named and its job run again; a torn end is dropped"
same hurt.h5 "a damaged journal"
run 2 --resume -o hurt.h5 --limit 4 small.toml && said '10 of 10 jobs were finished before'
ok "what was written after the torn end counts"
row "journal: a changed byte, a torn end" "the record is named, its job runs again; the torn end is dropped"

# ---- data that change between runs ----

cp text.txt text.before
head -c 11000 text.before >text.txt
run 2 --resume -o hurt.h5 --limit 4 small.toml
[ $? = 0 ] && said '0 of 10 jobs were finished before' && said '10 finished jobs do not match any more \(settings, model, data or version\)'
ok "other data are noticed"
cp text.before text.txt
run 2 --resume -o hurt.h5 --limit 4 small.toml && said '10 of 10 jobs were finished before'
ok "with the old data the old results count again"
same hurt.h5 "the old data again"
row "data changed between runs" "noticed; the old results count again with the old data"

# ---- the clock ----

LD_PRELOAD=$helpers/jump.so LLQ_TEST_SEGFAULT=nf4 LLQ_TEST_ONCE=$work/mark2 run 2 -o jump.h5 --limit 4 --time-limit 3600 \
    --set sweep.job_timeout=600 small.toml
ok "a clock that jumps by a day to and fro changes neither time limit nor time-outs"
same jump.h5 "a clock that jumps"
! grep -oE '"(total|quantize)":-' jump.h5.journal && [ "$(cut -c 1-200 jump.h5.journal | grep -c .)" -ge 11 ]
ok "no duration is negative"
run 2 --resume -o jump.h5 --limit 4 small.toml && said '10 of 10 jobs were finished before'
ok "and it can be resumed"
row "wall clock jumps by ±1 day" "nothing: limits and durations are on the monotonic clock"

# ---- without a process of its own ----

LLQ_TEST_FAIL=nf4 run 2 --no-isolate -o inside.h5 --limit 4 small.toml
[ $? = 1 ] && grep -q 'ok=8 failed=2' inside.h5.status
ok "--no-isolate: a job that fails costs that job"
LLQ_TEST_SEGFAULT=nf4 run 2 --no-isolate -o inside.h5 --force --limit 4 small.toml
[ $? != 0 ] && h5dump -n inside.h5 >/dev/null
ok "--no-isolate: a crash ends the run, and the results file opens"
run 2 --resume -o inside.h5 --limit 4 small.toml
ok "--no-isolate: what it leaves can be resumed"
same inside.h5 "--no-isolate, resumed"
row "--no-isolate and a crash" "ends the run (it is for debuggers); resumable"

echo "| fault | what it costs |"
echo "|---|---|"
cat "$table"
end
