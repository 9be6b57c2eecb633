# Sourced by the scripts beside it: a small sweep on the demo model in a folder of its own, counted
# cases, and mpirun's needs.
set -u
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
program=$root/llq_sweep
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
export OMPI_MCA_btl_base_warn_component_unused=0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cases=0

fail() {
    echo "does not hold: $*" >&2
    exit 1
}

ok() { # ok SENTENCE: the last command's status decides
    [ "$?" = 0 ] || fail "$*"
    cases=$((cases + 1))
}

end() {
    echo "$cases cases ran"
    [ "$cases" -gt 0 ]
}

run() { # run NP ARGS...: prints the command; in $work/out stderr, then stdout, which race in mpirun
    local np=$1 status
    shift
    echo "+ mpirun -np $np llq_sweep $*"
    mpirun --oversubscribe --bind-to none -np "$np" "$program" "$@" >"$work/stdout" 2>"$work/out"
    status=$?
    cat "$work/stdout" >>"$work/out"
    return $status
}

# The demo model on few items: quick enough to be run dozens of times.
small_sweep() {
    head -c 12000 "$root/sweeps/demo/heldout.txt" >"$work/text.txt"
    cat >"$work/small.toml" <<TOML
[sweep]
name = "small"
seeds = [0, 1]
[model]
path = "$root/sweeps/demo"
[tasks.coqa]
path = "$root/sweeps/demo/coqa-demo.json"
limit = 10
subset = "random"
[tasks.perplexity]
path = "text.txt"
window = 256
[tasks.sanity]
[[experiment]]
name = "baseline"
method = "none"
[[experiment]]
name = "int8"
method = "bnb_8bit"
[[experiment]]
name = "nf4"
method = "bnb_4bit"
[[experiment]]
name = "rtn"
method = "rtn"
bits = [3, 4]
group_size = 64
TOML
}

# Everything per item, without what may differ between runs (times, hosts, ranks).
items() { # items FILE: on stdout
    local groups
    groups=$(h5dump -n "$1" | sed -n 's/^ *group *\(\/experiments\/.*\/\(coqa\|perplexity\|divergence\|multiple_choice\|sanity\|modules\)\)$/\1/p' | sort)
    [ -n "$groups" ] || fail "$1 holds per-item results"
    for g in $groups; do
        h5dump -g "$g" "$1" | tail -n +2
    done
}
