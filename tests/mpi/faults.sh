#!/usr/bin/env bash
# What goes wrong from outside: a rank or an engine is killed, a job takes too long.  What is
# finished is kept, the files agree with each other, and --resume goes on.  More: tests/faults/.
. "$(dirname "$0")/common.sh"
small_sweep
cd "$work" || exit 1

said() { # said PATTERN: in what the last run printed
    grep -qE -- "$1" "$work/out" || { cat "$work/out"; fail "the output says $1"; }
}

begin() { # begin FILE ARGS...: a run of two ranks in the background, once its first job is done
    local file=$1
    shift
    mpirun --oversubscribe --bind-to none -np 2 "$program" -o "$file" "$@" small.toml >out 2>&1 &
    pid=$!
    while kill -0 $pid 2>/dev/null && ! grep -q '"status":"success"' "$file.journal" 2>/dev/null; do
        sleep 0.02
    done
    ranks=$(ps -o pid= --ppid $pid)
}

run 2 -o whole.h5 --limit 40 small.toml
ok "an undisturbed run finishes"
items whole.h5 >whole

resumed() { # resumed FILE WHAT: as if nothing had happened
    run 2 --resume -o "$1" --limit 40 small.toml && grep -q '^state=finished exit=0 ok=10' "$1.status"
    ok "$2: resumed to the end"
    items "$1" >resumed && cmp whole resumed
    ok "$2: with the same bytes"
}

begin engine.h5 --limit 40
# All at once: a job whose second engine is killed, too, has failed.
engines=$(for rank in $ranks; do ps -o pid= --ppid $rank; done)
kill -9 $engines 2>/dev/null
wait $pid
ok "the sweep outlives the engines of all its ranks"
grep -q 'a new engine takes its place' out
ok "which were killed"
items engine.h5 >engine && cmp whole engine
ok "with the same bytes"

begin rank.h5 --limit 40
kill -9 $(tail -1 <<<"$ranks")
wait $pid
[ $? != 0 ]
ok "a rank that is killed ends the run"
h5dump -n rank.h5 >/dev/null && ! grep -q 'exit=0' rank.h5.status
ok "its results open, and the status does not say success"
resumed rank.h5 "a killed rank"

begin term.h5 --limit 40
kill -TERM $(head -1 <<<"$ranks")
wait $pid
[ $? != 0 ] && grep -qE '^state=stopped exit=75 ok=[1-9]' term.h5.status
ok "TERM of rank 0 leaves resumably, and the status counts what is finished"
[ "$(grep -c '"status":"success"' term.h5.journal)" = "$(sed -n 's/.* ok=\([0-9]*\).*/\1/p' term.h5.status)" ] &&
    "$program" --report term.h5 >report 2>&1 &&
    h5dump -a /jobs_ok term.h5 | grep -q "(0): $(sed -n 's/.* ok=\([0-9]*\).*/\1/p' term.h5.status)"
ok "journal, results and status agree"
resumed term.h5 "TERM"

for np in 1 2; do
    run $np --set sweep.job_timeout=0.001 -o slow$np.h5 --limit 40 small.toml
    [ $? = 1 ] && grep -q '^state=finished exit=1 ok=0 failed=10 total=10' slow$np.h5.status
    ok "$np ranks: jobs that take longer than job_timeout fail, on every rank"
    said 'timed out after 0.001 s \(job_timeout\); again: ' && [ "$(grep -c 'timed out .*; it is tried once more' out)" = 10 ]
    ok "$np ranks: after a second try"
done

end
