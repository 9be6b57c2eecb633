#!/usr/bin/env bash
# Methods that look at text: their results are found again when a file is built from its journal,
# merged or resumed without them, and text or weights that will not do fail the job, not the sweep.
. "$(dirname "$0")/common.sh"
cd "$work" || exit 1
head -c 6000 "$root/sweeps/demo/heldout.txt" >text.txt
cp "$root/sweeps/demo/calibration.txt" .
cat >small.toml <<TOML
[sweep]
name = "small"
seeds = [0, 1]
[model]
path = "$root/sweeps/demo"
[calibration]
path = "calibration.txt"
samples = 4
sequence_length = 64
[tasks.perplexity]
path = "text.txt"
window = 256
[[experiment]]
name = "baseline"
method = "none"
[[experiment]]
name = "gptq"
method = "gptq"
group_size = 64
TOML

said() { # said PATTERN: in what the last run printed
    grep -qE -- "$1" "$work/out" || { cat "$work/out"; fail "the output says $1"; }
}

run 2 -o whole.h5 small.toml
ok "a sweep with GPTQ runs"
items whole.h5 >whole
[ "$(grep -c 'GROUP "perplexity"\|DATASET "window_nll"' whole)" -ge 3 ]
ok "both seeds have their windows"

# The journal alone: the jobs' keys hold the hash of the text.
cp whole.h5.journal again.h5.journal
"$program" --report again.h5 >out 2>&1
ok "the file is built again from its journal"
items again.h5 >again && cmp whole again
ok "with every result of the calibrated jobs"

run 2 --resume -o whole.h5 --experiment baseline small.toml
items whole.h5 >again && cmp whole again
ok "resumed without them, it keeps them"
run 2 --resume -o whole.h5 small.toml
said '3 of 3 jobs were finished before'
ok "and uses them again"

printf 'Another text. ' >>calibration.txt
run 2 -o other.h5 --seeds 2 small.toml
ok "a sweep on another text runs"
"$program" --merge both.h5 whole.h5 other.h5 >out 2>&1
[ $? = 2 ] && said 'differ in model or data \(text of \[calibration\]\)'
ok "and is no part of the first"

# Ten sentences for 4 windows of 1000 tokens: none; of 64 tokens: fewer than asked.
head -c 700 "$root/sweeps/demo/calibration.txt" >calibration.txt
run 1 -o short.h5 --set calibration.samples=50 small.toml
said 'calibration.txt gives [0-9]+ samples of 64 tokens under seed 0, not 50'
ok "text for fewer samples than asked: it says how many there are"
run 1 -o shorter.h5 --set calibration.sequence_length=1000 small.toml
[ $? = 2 ] && said 'too short for one sample of 1000 tokens \(4 were asked for\)'
ok "text for none is refused before anything runs"
cp "$root/sweeps/demo/calibration.txt" .

# Weights that make 16-bit activations overflow: gate and up of layer 2 feed its down.  The baseline
# computes in fp32.
cp -r "$root/sweeps/demo" model
python3 - <<'PY'
import json, struct
path = "model/model.safetensors"
data = bytearray(open(path, "rb").read())
n = struct.unpack("<Q", data[:8])[0]
head = json.loads(data[8:8 + n])
for name in ("gate_proj", "up_proj"):
    at, end = head["model.layers.2.mlp.%s.weight" % name]["data_offsets"]
    for i in range(8 + n + at, 8 + n + end, 2):
        data[i:i + 2] = struct.pack("<H", 0x4600)  # 8192 in bf16
open(path, "wb").write(data)
PY
for method in gptq awq; do
    run 1 -o bad.h5 --force --set "model.path=\"$work/model\"" --set "experiment.gptq.method=\"$method\"" \
        --set model.source_dtype='"fp32"' --set experiment.baseline.compute_dtype='"fp32"' --seeds 0 small.toml
    status=$?
    [ $status = 1 ] && said 'model.layers.2.mlp.down_proj' && said 'not finite'
    ok "activations that overflow fail the $method job by name"
    said 'baseline seed 0 .*perplexity'
    ok "and the sweep goes on"
done
end
