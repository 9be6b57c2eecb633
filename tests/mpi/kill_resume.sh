#!/usr/bin/env bash
# kill -9 of the whole mpirun at random moments: no finished job is lost, the results file opens at
# every moment, and the resumed sweep gives the bytes of an undisturbed one.
. "$(dirname "$0")/common.sh"
small_sweep
kills=${LLQ_TEST_KILLS:-50}

run 2 -o "$work/reference.h5" "$work/small.toml"
ok "an undisturbed run finishes"
items "$work/reference.h5" >"$work/reference"

finished() { # finished FILE: how many records of finished jobs its journal holds
    local n
    n=$(grep -c '"status":"success"' "$1.journal" 2>/dev/null)
    echo "${n:-0}"
}

done_kills=0 round=0
while [ $done_kills -lt "$kills" ]; do
    round=$((round + 1))
    file=$work/killed$round.h5
    while [ $done_kills -lt "$kills" ]; do
        before=$(finished "$file")
        # Its own process group, so that everything is killed at once.
        setsid mpirun --oversubscribe --bind-to none -np 2 "$program" \
            $([ -e "$file.journal" ] && echo --resume) -o "$file" "$work/small.toml" >"$work/out" 2>&1 &
        pid=$!
        sleep "$(awk -v s=$RANDOM 'BEGIN { printf "%.3f", 0.2 + 1.6 * s / 32768 }')"
        if ! kill -0 $pid 2>/dev/null; then
            wait $pid
            break
        fi
        kill -9 -- -$pid 2>/dev/null
        pkill -9 -f "$file" 2>/dev/null
        wait $pid 2>/dev/null
        done_kills=$((done_kills + 1))
        [ "${before:-0}" -le "$(finished "$file")" ] || fail "no finished job is lost"
        [ ! -e "$file" ] || h5dump -n "$file" >/dev/null 2>&1 || fail "kill $done_kills: the file opens"
    done
    kept=$(finished "$file")
    run 2 $([ -e "$file.journal" ] && echo --resume) -o "$file" "$work/small.toml"
    ok "the run after the kills finishes ($(tail -2 "$work/out"))"
    grep -q "${kept:-0} of 10 jobs were finished before" "$work/out" || [ "${kept:-0}" = 0 ]
    ok "it uses the $kept jobs that were finished"
    items "$file" >"$work/resumed"
    cmp "$work/reference" "$work/resumed"
    ok "and gives the same bytes"
    rm -f "$file"*
done
echo "$done_kills kills in $round sweeps"
[ "$done_kills" -ge "$kills" ]
ok "as many kills as asked for"
end
