#!/usr/bin/env bash
# What users get wrong: one clear line, exit 2, no job started, nothing overwritten.
. "$(dirname "$0")/common.sh"
small_sweep
cd "$work" || exit 1
model=$root/sweeps/demo

# wrong WHAT EXPECTED ARGS...: exit 2, the text on one line of stderr, and no file left behind.
wrong() {
    local what=$1 expected=$2
    shift 2
    rm -f out.h5*
    "$program" -o out.h5 "$@" >stdout 2>stderr
    local status=$?
    [ $status = 2 ] || { cat stderr; fail "$what: exit $status, not 2"; }
    [ "$(grep -c '^llq_sweep: ' stderr)" = 1 ] || { cat stderr; fail "$what: one line on stderr"; }
    grep -qE -- "$expected" stderr || { cat stderr; fail "$what: the line says $expected"; }
    [ -z "$(ls out.h5* 2>/dev/null)" ] || { ls out.h5*; fail "$what: no file is left behind"; }
    cases=$((cases + 1))
}

edit() { # edit NAME SED-SCRIPT: a changed copy of the small sweep
    sed "$2" small.toml >"$1.toml"
}

edit key 's/^limit = 10/limti = 10/'
wrong "a misspelt key" 'key.toml:[0-9]+:.*limti.*limit' key.toml
edit type 's/^limit = 10/limit = "ten"/'
wrong "a wrong type" 'type.toml:[0-9]+:.*limit' type.toml
edit grid 's/^bits = .*/bits = []/'
wrong "an empty list" 'grid.toml:[0-9]+:.*bits' grid.toml
edit twice 's/^name = "int8"/name = "nf4"/'
wrong "two experiments of one name" 'twice.toml:[0-9]+:.*nf4' twice.toml
edit bits 's/^bits = .*/bits = 9/'
wrong "an impossible single value" 'bits.toml:[0-9]+:.*bits = 9.*rtn' bits.toml
edit method 's/^method = "bnb_8bit"/method = "gptq"/'
wrong "a method that wants text, without any" 'gptq.*\[calibration\] path is missing' method.toml
edit group 's/^group_size = 64/group_size = 48/'
wrong "a group size that does not divide" 'group.toml:[0-9]+:.*group_size = 48' group.toml
edit seeds 's/^seeds = .*/seeds = []/'
wrong "no seeds" 'seeds.toml:[0-9]+:.*seeds' seeds.toml
edit positions 's/^\[tasks.sanity\]/[benchmark]\nprefill_tokens = [2000]/'
wrong "a benchmark beyond the model's positions" '2000 .*1024 positions.*positions.toml' positions.toml
edit window 's/^window = 256/window = 2048/'
wrong "a window beyond the model's positions" '2048 .*1024 positions.*tasks.perplexity.*window.toml' window.toml
edit negative 's/^limit = 10/limit = -1/'
wrong "a negative limit" 'negative.toml:[0-9]+:.*limit = -1' negative.toml
wrong "a negative --limit" 'limit' --limit -1 small.toml
wrong "a missing sweep file" 'nowhere.toml' nowhere.toml
wrong "no sweep file" 'sweep file' 
wrong "an unknown option" 'resum' --resum small.toml
wrong "an unknown --set key" 'model.pth' --set model.pth=x small.toml
wrong "an experiment that is not there" 'baseline.*int8' --experiment 'gptq_*' small.toml
edit broken 's/^\[model\]/[model/'
wrong "a file that is not TOML" 'broken.toml:[0-9]+' broken.toml
edit missing 's#^path = ".*sweeps/demo"#path = "no/such-model"#'
wrong "a missing model" 'no/such-model.*sweeps/README.md' missing.toml

copy_model() { # copy_model NAME: a copy of the demo model to be damaged
    rm -rf "$1" && cp -r "$model" "$1"
    edit "$1" "s#^path = \".*sweeps/demo\"#path = \"$work/$1\"#"
}

copy_model architecture
sed -i 's/LlamaForCausalLM/FalconForCausalLM/; s/"llama"/"falcon"/' architecture/config.json
wrong "another architecture" 'Falcon|falcon' architecture.toml
copy_model truncated
truncate -s -100 truncated/model.safetensors
wrong "a truncated checkpoint" 'model.safetensors' truncated.toml
copy_model longer
printf 'xxxx' >>longer/model.safetensors
wrong "a checkpoint with bytes behind its end" 'model.safetensors' longer.toml
copy_model renamed
sed -i 's/model\.layers\.1\.mlp\.up_proj\.weight/model.layers.1.mlp.op_proj.weight/' renamed/model.safetensors
wrong "a missing tensor" 'model.layers.1.mlp.up_proj.weight' renamed.toml
copy_model shaped
sed -i 's/"intermediate_size": *\([0-9]*\)/"intermediate_size": 128/' shaped/config.json
wrong "a wrong shape" 'gate_proj|up_proj|down_proj' shaped.toml
copy_model infinite
size=$(stat -c %s infinite/model.safetensors)
printf '\x80\x7f' | dd of=infinite/model.safetensors bs=1 seek=$((size - 2)) conv=notrunc 2>/dev/null
wrong "an infinite weight" '(nan|NaN|inf|Inf|finite)' infinite.toml
copy_model tokenizer
echo '{"version": "1.0", "model": {"type": "Unigram"}}' >tokenizer/tokenizer.json
wrong "an unsupported tokenizer" 'Unigram' tokenizer.toml
copy_model json
head -c 500 "$model/tokenizer.json" >json/tokenizer.json
wrong "a broken tokenizer.json" 'tokenizer.json' json.toml

data() { # data NAME CONTENT: a CoQA file of this content
    echo "$2" >"$1.json"
    edit "$1" "s#^path = \".*coqa-demo.json\"#path = \"$1.json\"#"
}
data nostories '{"version": "1.0", "data": []}'
wrong "a CoQA file without stories" 'nostories.json' nostories.toml
data fields '{"data": [{"id": "a", "story": "x", "questions": []}]}'
wrong "a CoQA file with missing fields" 'fields.json' fields.toml
data nofile '{}'
rm nofile.json
wrong "a missing CoQA file" 'nofile.json' nofile.toml
echo "too short" >short.txt
edit short 's#^path = "text.txt"#path = "short.txt"#'
wrong "a text shorter than one window" 'short.txt' short.toml

echo old >there.h5
"$program" -o there.h5 small.toml >stdout 2>stderr
[ $? = 2 ] && grep -q -- '--resume' stderr && grep -q -- '--force' stderr && [ "$(cat there.h5)" = old ]
ok "a results file that exists is not overwritten, and the message offers ways on"
"$program" -o no/such/folder/x.h5 small.toml >stdout 2>stderr
[ $? = 2 ] && grep -q 'no/such/folder' stderr
ok "a folder that does not exist is named"
touch folder
"$program" -o folder/x.h5 small.toml >stdout 2>stderr
[ $? = 2 ]
ok "a file in place of a folder is refused"
"$program" --report there.h5 >stdout 2>stderr
[ $? = 2 ] && grep -q 'there.h5' stderr
ok "a report of a file that is not ours is refused"
end
