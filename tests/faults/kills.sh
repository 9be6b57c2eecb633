#!/usr/bin/env bash
# kill -9 at random moments: of the process that works for a rank, of a rank, of the whole mpirun,
# of all of it in the middle of a rebuild of the results file.  No finished job is lost, the results
# file opens after every kill, and the resumed sweep gives the bytes of an undisturbed one.
# LLQ_TEST_KILLS says how many (40); `make fault-test` takes 500.
. "$(dirname "$0")/../mpi/common.sh"
small_sweep
kills=${LLQ_TEST_KILLS:-40}
strike=$root/${LLQ_BUILD:-build/cpu}/faults/strike

echo "+ mpirun -np 2 llq_sweep, undisturbed"
run 2 -o "$work/reference.h5" "$work/small.toml"
ok "an undisturbed run finishes"
items "$work/reference.h5" >"$work/reference"

finished() { # finished FILE: how many jobs are finished by its journal
    local count
    count=$(grep -c '"status":"success"' "$1.journal" 2>/dev/null)
    echo "${count:-0}"
}

random() { # random A B: a number between
    awk -v s=$RANDOM -v a="$1" -v b="$2" 'BEGIN { printf "%.4f", a + (b - a) * s / 32768 }'
}

kinds="engine rank all rebuild"
declare -A struck opened
for k in $kinds; do struck[$k]=0 opened[$k]=0; done

check_files() { # check_files KIND: after a kill
    kept=$(finished "$file")
    [ "$kept" -ge "$before" ] || fail "kill $n ($1): $before jobs were finished, $kept are left"
    before=$kept
    [ -e "$file" ] || return 0
    h5dump -n "$file" >/dev/null 2>&1 || fail "kill $n ($1): the results file opens"
    opened[$1]=$((opened[$1] + 1))
}

strike_once() { # strike_once KIND: while $pid runs; 1: it had ended
    case $1 in
    engine | rank | all) "$strike" $pid $1 after "$(random 0.05 1.2)" ;;
    rebuild) "$strike" $pid all rebuild "$file" $((1 + RANDOM % 3)) "$(random 0 0.03)" ;;
    esac >"$work/struck"
}

n=0 sweeps=0 runs=0 stuck=0
while [ $n -lt "$kills" ]; do
    sweeps=$((sweeps + 1))
    file=$work/killed$sweeps.h5
    before=0
    status=
    # The sweep is started again and again until it has come to its end.
    while [ "$status" != 0 ]; do
        had=$(finished "$file")
        resume=
        [ -e "$file.journal" ] && resume=--resume
        mpirun --oversubscribe --bind-to none -np 2 "$program" $resume -o "$file" "$work/small.toml" >"$work/out" 2>&1 &
        pid=$!
        runs=$((runs + 1))
        last=
        while [ $n -lt "$kills" ] && [ "${last:-engine}" = engine ]; do
            set -- $kinds
            shift $((RANDOM % 4))
            strike_once $1 || break
            n=$((n + 1)) last=$1
            struck[$1]=$((struck[$1] + 1))
            [ $1 != engine ] || check_files engine
        done
        # mpirun 4.1 itself can stand still for ever when a rank dies while it is started.
        if [ -n "$last" ] && ! timeout 60 tail --pid=$pid -f /dev/null; then
            "$strike" $pid all after 0 >/dev/null
            stuck=$((stuck + 1)) last=rank
        fi
        { wait $pid; } 2>/dev/null
        status=$?
        # Those below a killed mpirun are gone when the journal can be locked again.
        [ ! -e "$file.journal" ] || flock -w 20 "$file.journal" true
        [ "${last:-engine}" = engine ] || check_files $last
        if [ -n "$resume" ] && [ -s "$file.journal" ] && grep -q 'were finished before' "$work/out"; then
            grep -q "$had of 10 jobs were finished before" "$work/out" || { cat "$work/out"; fail "all $had finished jobs are used again"; }
        fi
        case $status in
        0 | 1 | 75 | 137) ;; # 1: a job that lost two engines; 137: killed
        2) # every rank lost its engine twice while it was set up
            grep -q 'no rank has a working engine' "$work/out" || { cat "$work/out"; fail "kill $n (${last:-none}): status 2"; } ;;
        *) [ "$last" = rank ] || { cat "$work/out"; fail "kill $n (${last:-none}): status $status"; } ;;
        esac
        [ $runs -lt $((20 * kills)) ] || fail "the sweep comes to its end"
    done
    grep -q '^state=finished exit=0 ok=10 failed=0' "$file.status" || fail "sweep $sweeps is complete"
    items "$file" >"$work/resumed"
    cmp "$work/reference" "$work/resumed"
    ok "sweep $sweeps, after $n kills in all: the bytes of the undisturbed run"
    rm -f "$file"*
done

echo "| killed with -9 | kills | results file there, and opened |"
echo "|---|---|---|"
for k in engine rank all rebuild; do
    case $k in
    engine) what="the process that works for a rank" ;;
    rank) what="a rank" ;;
    all) what="the whole mpirun" ;;
    rebuild) what="the whole mpirun, during a rebuild" ;;
    esac
    echo "| $what | ${struck[$k]} | ${opened[$k]} of ${opened[$k]} |"
done
[ $stuck = 0 ] || echo "mpirun itself stood still after $stuck of them and was killed"
echo "$n kills, $runs runs, $sweeps sweeps: no finished job lost, $sweeps of $sweeps byte-identical"
[ $n -ge "$kills" ]
ok "as many kills as asked for"
end
