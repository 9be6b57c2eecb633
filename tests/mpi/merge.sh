#!/usr/bin/env bash
# Parts of one sweep become one file; recommendations and exports of it.
. "$(dirname "$0")/common.sh"
small_sweep
cd "$work" || exit 1

said() { # said PATTERN: in what the last run printed
    grep -qE -- "$1" "$work/out" || { cat "$work/out"; fail "the output says $1"; }
}
refuses() { # refuses PATTERN ARGS...: exit 2 and one line
    local pattern=$1
    shift
    echo "+ llq_sweep $*"
    "$program" "$@" >out 2>&1
    [ $? = 2 ] && [ "$(wc -l <out)" = 1 ] && said "$pattern"
}

run 2 -o whole.h5 small.toml && run 2 -o a.h5 --experiment baseline --experiment int8 small.toml &&
    run 2 -o b.h5 --experiment nf4 --experiment 'rtn_*' --seeds 0 small.toml &&
    run 2 -o c.h5 --experiment nf4 --experiment 'rtn_*' --seeds 1 small.toml
ok "a whole sweep and three parts of it run"
"$program" --merge all.h5 a.h5 b.h5 c.h5 >out 2>&1 && [ "$(cat out)" = "$(pwd -P)/all.h5" ]
ok "--merge prints the path of what it made"
items whole.h5 >whole.items && items all.h5 >all.items && cmp whole.items all.items
ok "the parts hold what the whole holds, item by item"
h5dump -g /comparisons whole.h5 | tail -n +2 >whole.pairs && h5dump -g /comparisons all.h5 | tail -n +2 >all.pairs &&
    cmp whole.pairs all.pairs
ok "and give the same comparisons"
h5dump -a /complete all.h5 | grep -q TRUE && h5dump -a /jobs_ok all.h5 | grep -q '(0): 10'
ok "complete, with ten jobs"
h5dump -a /provenance/merged_parts all.h5 | grep -q '(0): 3'
ok "made of three parts"
refuses 'exists: --force makes it anew' --merge all.h5 a.h5 b.h5
ok "an existing file is not overwritten"
"$program" --merge all.h5 a.h5 b.h5 --force >out 2>&1 && h5dump -a /jobs_ok all.h5 | grep -q '(0): 7'
ok "but with --force"
refuses 'would be made of itself' --merge a.h5 a.h5 b.h5 --force
ok "a part stays a part"
run 1 -o limited.h5 --experiment nf4 --limit 3 small.toml
refuses 'no parts of one sweep: the --limit options differ' --merge x.h5 a.h5 limited.h5
ok "another limit is another sweep"
run 1 -o other.h5 --experiment nf4 --set run.batch_size=3 small.toml
refuses 'the --set options differ' --merge x.h5 a.h5 other.h5
ok "so are other settings"
cp text.txt text.whole && sed 's/text.txt/text.whole/' small.toml >small.toml.whole
head -c 9000 text.txt >text.new && mv text.new text.txt
run 1 -o data.h5 --experiment nf4 small.toml
refuses 'differ in model or data \(perplexity: ' --merge x.h5 a.h5 data.h5
ok "other data are named"
cp b.h5 alone.h5
refuses 'there is no .*alone.h5.journal' --merge x.h5 a.h5 alone.h5
ok "a part without its journal is refused"
[ ! -e x.h5 ] && [ ! -e x.h5.journal ]
ok "a refusal leaves nothing behind"

# Parts by --shard: as job arrays make them.
for i in 1 2 3; do
    run 1 -o "shard$i.h5" --shard $i/3 small.toml.whole
    ok "part $i of 3 runs"
done
grep -q 'ok=4 failed=0 total=4' shard1.h5.status && grep -q 'ok=3 failed=0 total=3' shard3.h5.status
ok "with every third job"
rm shard2.h5 && run 1 --report shard2.h5 && said '^small: 3 jobs, 3 succeeded$'
ok "a part is built again from its journal"
run 1 --resume -o shard2.h5 --shard 2/3 small.toml.whole && said '3 of 3 jobs were finished before'
ok "and resumed as a part"
"$program" --merge joined.h5 shard1.h5 shard2.h5 >out 2>&1 && h5dump -a /complete joined.h5 | grep -q FALSE &&
    h5dump -a /jobs_total joined.h5 | grep -q '(0): 10'
ok "two of three parts are no complete sweep"
"$program" --merge joined.h5 shard1.h5 shard2.h5 shard3.h5 --force >out 2>&1
items joined.h5 >joined.items && cmp whole.items joined.items
ok "the parts together hold what the whole holds, item by item"
h5dump -g /comparisons joined.h5 | tail -n +2 | cmp - whole.pairs
ok "with the same comparisons"
h5dump -a /complete joined.h5 | grep -q TRUE && h5dump -a /jobs_ok joined.h5 | grep -q '(0): 10'
ok "and are complete"
run 1 -o few.h5 --shard 12/12 small.toml.whole && grep -q 'exit=0 ok=0 failed=0 total=0' few.h5.status
ok "a part without a job is one, too"

"$program" --report whole.h5 --recommend 'bits_per_weight < 5 and n_seeds >= 2' >out 2>&1
ok "--recommend finds an experiment"
said '^recommended: nf4 \(bits_per_weight < 5 and n_seeds >= 2; by perplexity\)' &&
    said 'the other half \([0-9]+\), which had no part in it, confirms' &&
    said 'nf4 against baseline by perplexity: ' && said 'next: rtn_4bit, .* on the same half'
ok "and says what speaks for it"
"$program" --report whole.h5 --recommend 'model_mb<=0.1' >out 2>&1
[ $? = 1 ] && said '^no experiment fulfils model_mb <= 0.1; the nearest is rtn_3bit with model_mb = '
ok "where none fulfils it, the nearest is named"
refuses 'no column of numbers called modl_mb; the nearest is model_mb' --report whole.h5 --recommend 'modl_mb<=1'
ok "a column that is none"
refuses '"model_mb ~ 3" should be COLUMN<=NUMBER' --report whole.h5 --recommend 'model_mb ~ 3'
ok "what is no condition"

"$program" --export csv whole.h5 >out 2>&1 && [ "$(wc -l <out)" = 3 ] &&
    head -1 whole.summary.csv | grep -q '^name,method,bits,' && [ "$(wc -l <whole.summary.csv)" = 6 ] &&
    head -1 whole.comparisons.csv | grep -q '^a,b,metric,delta,'
ok "--export csv writes the tables"
"$program" --export lm-eval whole.h5 >out 2>&1 && [ "$(wc -l <out)" = 5 ] &&
    grep -q '"f1,none":' whole.nf4.json && grep -q '"em_stderr,none":' whole.nf4.json &&
    grep -q '"n-samples":{"coqa":{"effective":10}' whole.nf4.json &&
    grep -q '"versions":{"coqa":1,"perplexity":1}' whole.nf4.json
ok "--export lm-eval writes a file an experiment, with that program's keys"
refuses 'nowhere.h5' --export csv nowhere.h5
ok "a file that is not there"
end
