#!/usr/bin/env bash
# --resume with other experiments, seeds and settings: what matches is used again and said so, what
# is not asked for stays in the results, what does not match any more is said and left out.
. "$(dirname "$0")/common.sh"
small_sweep
cd "$work" || exit 1

said() { # said PATTERN: in what the last run printed
    grep -qE -- "$1" "$work/out" || { cat "$work/out"; fail "the output says $1"; }
}

column() { # column FILE DATASET: its values, one a line
    h5dump -y -w 1 -d "$2" "$1" | sed -n '/ATTRIBUTE/q;/DATA {/,/}/p' | sed '1d;$d;s/^ *//;s/,$//;/^$/d'
}

attribute() { # attribute FILE PATH: its value
    h5dump -a "$2" "$1" | sed -n 's/^ *([0-9]*): //p'
}

run 2 -o whole.h5 small.toml
ok "a sweep runs"
created=$(attribute whole.h5 /created)

# A baseline that is filtered out comes from the file.
cp whole.h5 part.h5 && cp whole.h5.journal part.h5.journal
run 2 --resume -o part.h5 --experiment nf4 small.toml
ok "it is resumed with one experiment alone"
said '2 of 2 jobs were finished before'
said '8 results of experiments or seeds that are not asked for now are kept'
ok "and says what it uses and what it keeps"
names() { h5dump -n "$1" | sed -n 's/^ *\(group\|dataset\)  *//p' | sort; }
[ "$(names part.h5)" = "$(names whole.h5)" ]
ok "nothing is dropped from the results file"
for metric in coqa_f1 perplexity; do
    [ "$(column part.h5 /summary/$metric | sort)" = "$(column whole.h5 /summary/$metric | sort)" ]
    ok "$metric of every experiment is in its summary"
done
[ "$(column part.h5 /comparisons/a | sort)" = "$(column whole.h5 /comparisons/a | sort)" ]
ok "every comparison is there"
[ "$(column part.h5 /experiments/int8/statistics/mean | wc -l)" -gt 4 ] &&
    [ "$(column part.h5 /experiments/int8/statistics/item_ci_low)" = "$(column whole.h5 /experiments/int8/statistics/item_ci_low)" ]
ok "experiments that are not asked for keep their statistics"
[ "$(attribute part.h5 /created)" = "$created" ]
ok "the file is as old as its first run"
items whole.h5 >whole && items part.h5 >part && cmp whole part
ok "and the results per item are the same bytes"

# An experiment after the other.
run 2 -o one.h5 --experiment nf4 small.toml
said 'comparisons are missing: .*baseline'
ok "without the baseline's results the summary says that comparisons are missing"
"$program" --report one.h5 >out 2>&1
said 'comparisons are missing: .*baseline'
[ "$(attribute one.h5 /no_comparisons | grep -c baseline)" = 1 ]
ok "so do --report and the file"
run 2 --resume -o one.h5 --experiment baseline small.toml
said '0 of 2 jobs were finished before'
! grep -q 'comparisons are missing' out && [ "$(column one.h5 /comparisons/a | sort -u)" = '"nf4"' ]
ok "the baseline that is run later completes them"
run 2 --resume -v -o one.h5 small.toml
said '4 of 10 jobs were finished before' && said 'used again: nf4 seed 1' && said 'used again: baseline seed 0'
[ "$(grep -c 'used again: ' out)" = 4 ]
ok "-v says which jobs are used again"
items one.h5 >one && cmp whole one
ok "experiment by experiment gives the results of one run"

# Other seeds, other settings, another name.
run 2 --resume -o one.h5 --seeds 2 --experiment nf4 small.toml
said '0 of 1 jobs' && said '10 results of experiments or seeds'
h5dump -n one.h5 | grep -q '/experiments/nf4/seeds/2/coqa$' && h5dump -n one.h5 | grep -q '/experiments/nf4/seeds/0/coqa$'
ok "a further seed joins those of the file"
[ "$(column one.h5 /summary/n_seeds | sort | tr '\n' ' ')" = "2 2 2 2 3 " ]
ok "and counts in the summary"
run 2 --resume -o one.h5 --experiment nf4 --limit 5 small.toml
said '0 of 2 jobs were' && said '11 finished jobs do not match any more'
ok "jobs of other settings are told and run again"
! h5dump -n one.h5 | grep -q '/experiments/nf4/seeds/2' && h5dump -d /experiments/nf4/seeds/0/coqa/f1 one.h5 | grep -q '( 5 )'
ok "results of other settings are not mixed"
run 2 --resume -o one.h5 small.toml
said '10 of 10 jobs were finished before' && said '2 finished jobs do not match any more'
ok "and nothing is lost: the old settings find their results again"
sed 's/^name = "int8"/name = "eight"/' small.toml >renamed.toml
run 2 --resume -o one.h5 renamed.toml
said '10 of 10 jobs were finished before'
h5dump -n one.h5 | grep -q '/experiments/eight/seeds/0/coqa$' && ! h5dump -n one.h5 | grep -q '/experiments/int8'
ok "a name is no setting"

# Where no seed can matter, quality runs once, under whatever seed comes first.
sed 's/^subset = .*//' small.toml >first.toml
run 2 -o first.h5 --experiment nf4 first.toml
grep -q 'total=1$' first.h5.status
ok "a deterministic experiment is one job"
run 2 --resume -o first.h5 --experiment nf4 --seeds 5,6 first.toml
said '1 of 1 jobs were finished before'
h5dump -n first.h5 | grep -q '/experiments/nf4/seeds/5/coqa$'
ok "and is not run again for other seeds"

# --report builds a file from its journal where a run was killed before it could.
before() { # before FILE N: its journal as it was when N jobs were finished
    awk -v n="$2" '{ print } /"status":/ && ++k == n { exit }' whole.h5.journal >"$1.journal"
}
before killed.h5 3
"$program" --report killed.h5 >out 2>&1
ok "--report of a journal alone answers"
said '^small: 10 jobs, 3 succeeded, not complete'
[ "$(column killed.h5 /experiments/nf4/statistics/mean | wc -l)" = "$(column whole.h5 /experiments/nf4/statistics/mean | wc -l)" ]
ok "and builds the results file, tables and all"
before killed.h5 8
(cd / && "$program" --report "$work/killed.h5" >"$work/out" 2>&1)
said '^small: 10 jobs, 8 succeeded, not complete'
ok "one that is behind its journal is built again, from anywhere"
before killed.h5 10
mv small.toml away.toml && "$program" --report killed.h5 >out 2>&1
said '^small: 10 jobs, 10 succeeded$'
ok "without the sweep file"
mv away.toml small.toml
items killed.h5 >killed && cmp whole killed && [ "$(names killed.h5)" = "$(names whole.h5)" ]
ok "all of it, byte for byte per item"
sum=$(sha256sum <killed.h5)
"$program" --report killed.h5 >out 2>&1 && [ "$sum" = "$(sha256sum <killed.h5)" ]
ok "a complete file is left as it is"
LLQ_TEST_FAIL=int8 run 2 -o failed.h5 --experiment '[bi]*' --limit 4 small.toml
rm failed.h5 && "$program" --report failed.h5 >out 2>&1
said '^small: 4 jobs, 2 succeeded, 2 failed$' && said '^int8, seed 1, quantize: '
ok "failures are built again, too"

rm -f gone.h5* && cp whole.h5 gone.h5
run 1 --resume -o gone.h5 small.toml
[ $? = 2 ] && said 'gone.h5.journal'
ok "a file without its journal cannot be resumed, and is told apart"
cmp whole.h5 gone.h5
ok "nor is it touched"
end
