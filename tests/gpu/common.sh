# Sourced by the scripts beside it: the program and its sweeps, here or in a bundle; a folder of one's
# own, counted cases, what a sweep has scored.
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
program=$here/llq_sweep sweeps=$here/sweeps
[ -x "$program" ] || { program=$here/../../llq_sweep; sweeps=$here/../../sweeps; }
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cases=0

ok() { # ok SENTENCE: the last command's status decides
    [ "$?" = 0 ] || { tail -100 "$work/out"; echo "does not hold: $*" >&2; exit 1; }
    cases=$((cases + 1))
}

# scores NAME [LIST...]: what was recorded item by item, and lists besides, a line a job; jobs finish
# in an order of their own.
scores() {
    local journal=$work/$1.h5.journal list keys='"experiment":"[^"]*"\|"seed":[0-9]*'
    shift
    for list in prediction window_nll "$@"; do
        keys="$keys\|\"$list\":\[[^]]*\]"
    done
    grep -o "$keys" "$journal" | paste -sd' ' | sed 's/ *"experiment"/\n"experiment"/g' | sort
}
