#!/usr/bin/env bash
# A rank that stands still: its job goes to another, the sweep comes to its end, and when it speaks
# again it takes part again.
. "$(dirname "$0")/common.sh"
small_sweep
cd "$work" || exit 1

said() { # said PATTERN: in what the last run printed
    grep -qE -- "$1" "$work/out" || { cat "$work/out"; fail "the output says $1"; }
}

run 2 -o whole.h5 --limit 4 small.toml
ok "an undisturbed run finishes"
items whole.h5 >whole

begin() { # begin FILE NP: jobs of a second, in the background, until the first is done
    LLQ_TEST_PAUSE=0.5 LLQ_TEST_SILENT=3 mpirun --oversubscribe --bind-to none -np "$2" "$program" -v -o "$1" --limit 4 \
        small.toml >out 2>&1 &
    pid=$!
    while kill -0 $pid 2>/dev/null && ! grep -q '"status":"success"' "$1.journal" 2>/dev/null; do
        sleep 0.02
    done
    rank=$(ps -o pid= --ppid $pid | tail -1)
}

begin still.h5 2
kill -STOP $rank
for i in $(seq 600); do
    grep -qE '^state=finished exit=0 ok=10' still.h5.status && break
    sleep 0.1
done
grep -qE '^state=finished exit=0 ok=10' still.h5.status
ok "the sweep comes to its end without a rank that stands still"
for i in $(seq 200); do
    kill -0 $pid 2>/dev/null || break
    sleep 0.1
done
! kill -0 $pid 2>/dev/null
ok "and does not wait for it"
kill -9 $rank 2>/dev/null
said 'rank 1 on .* has said nothing for 3 s; it gets no job until it speaks'
said 'seed [01]: its rank said nothing for 3 s on rank 1; it is tried once more'
ok "it says which rank, and whose job"
items still.h5 >still && cmp whole still
ok "with the same bytes"

begin again.h5 3
kill -STOP $rank
while kill -0 $pid 2>/dev/null && ! grep -q 'has said nothing' again.h5.log; do sleep 0.05; done
kill -CONT $rank
wait $pid
[ $? = 0 ] && grep -qE '^state=finished exit=0 ok=10' again.h5.status
ok "one that goes on in time does no harm"
[ "$(grep -c '"status":"success"' again.h5.journal)" = 10 ]
ok "no job has two results"
items again.h5 >again && cmp whole again
ok "with the same bytes"
end
