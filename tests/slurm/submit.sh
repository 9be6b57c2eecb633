#!/usr/bin/env bash
# The batch scripts under a real Slurm of one node, started here: a normal run, several ranks, a
# time limit with USR1 and requeueing until all is done, TERM, cancelling, a job array whose parts
# are merged.  Takes some minutes; prints a transcript.
. "$(dirname "$0")/../mpi/common.sh"
. "$(dirname "$0")/one_node.sh"
if why=$(slurm_missing); then
    echo "SKIP the batch scripts under Slurm: $why"
    exit 0
fi
small_sweep
export LLQ_TEST_PAUSE
mkdir "$work/site" && cd "$work/site" || exit 1
cp -r "$root/slurm" . && cp "$program" llq_sweep
mkdir sweeps && sed "s|text.txt|$work/text.txt|" "$work/small.toml" >sweeps/small.toml
cat >slurm/site.env <<'ENV'
. slurm/site.env.example
SITE_MPIRUN="mpirun --oversubscribe --bind-to none -np ${SLURM_NTASKS:-1}"
SITE_MARGIN=0
ENV
trap 'slurm_stop "$work/slurm"; rm -rf "$work"' EXIT
slurm_start "$work/slurm"
ok "a Slurm of one node starts"
sinfo
export ARGS="--backend cpu" SWEEP=sweeps/small.toml

submit() { # submit ARGS...: sets id
    id=$(sbatch --parsable "$@")
    ok "submitted as $id"
    echo "+ sbatch $*  # job $id, SWEEP=$SWEEP ARGS='$ARGS'"
}
state() { # state JOB
    scontrol show job "$1" | sed -n 's/.*JobState=\([A-Z_]*\).*/\1/p' | head -1
}
wait_for() { # wait_for SECONDS COMMAND...: until it holds
    local end=$(($(date +%s) + $1))
    shift
    until "$@"; do
        [ "$(date +%s)" -lt $end ] || return 1
        sleep 0.5
    done
}
is_over() { # every task of a job
    ! squeue -h -j "$1" -t PENDING,RUNNING,COMPLETING,REQUEUED,SUSPENDED -o %T 2>/dev/null | grep -q .
}
over() { # over SECONDS JOB NAME: waits, shows its log
    wait_for "$1" is_over "$2" || { squeue; cat "$3"* "$work/slurm/slurmctld.log" | tail -n 40; fail "job $2 is over within $1 s"; }
    scontrol show job "$2" | grep -oE 'JobId=[0-9]+|ArrayTaskId=[0-9]+|JobState=[A-Z]+|Restarts=[0-9]+|RunTime=[0-9:]+|TimeLimit=[0-9:]+|ExitCode=[0-9:]+' | paste -sd' '
    grep -hE '^slurm:|resume|finished before|^small: |results/.*h5$' "$3"* | sed 's/^/    /'
}
done_jobs() { # done_jobs FILE N: at least N jobs are done
    local n
    n=$(grep -c '"status":"success"' "$1.journal" 2>/dev/null)
    [ "${n:-0}" -ge "$2" ]
}

echo "== a normal run"
submit slurm/cpu_test.sh
over 120 "$id" llq_cpu_test-$id.log
[ "$(state $id)" = COMPLETED ] && grep -q '^state=finished exit=0 ok=10' results/small-$id.h5.status
ok "cpu_test.sh: completed, all ten jobs"
items results/small-$id.h5 >"$work/whole.items"
grep -q '(rank 1, ' llq_cpu_test-$id.log
ok "on two ranks"

echo "== one rank a GPU, the model copied to the node"
sed -i '$ a SITE_SCRATCH='"$work"'/scratch' slurm/site.env
MODEL=$root/sweeps/demo submit --gpus-per-node=h200:4 --ntasks-per-node=4 --cpus-per-task=1 slurm/h200_sweep.sh
over 120 "$id" llq_sweep-$id.log
[ "$(state $id)" = COMPLETED ] && grep -q '^state=finished exit=0 ok=10' results/small-$id.h5.status &&
    h5dump -a /provenance/mpi_ranks results/small-$id.h5 | grep -q '(0): 4'
ok "h200_sweep.sh: four ranks, completed"
h5dump -a /provenance/model_path results/small-$id.h5 | grep -q "$work/scratch/demo"
ok "which read the copy of the model"
items results/small-$id.h5 | cmp "$work/whole.items" -
ok "with the same bytes"

echo "== a time limit: USR1, requeued until done"
export LLQ_TEST_PAUSE=6
ARGS="--backend cpu --set sweep.seeds=[0,1,2,3,4,5]" submit --time=2 --signal=B:USR1@45 slurm/cpu_test.sh
over 600 "$id" llq_cpu_test-$id.log
[ "$(state $id)" = COMPLETED ] && grep -q '^state=finished exit=0 ok=30 failed=0 total=30' results/small-$id.h5.status
ok "all thirty jobs are done in the end"
scontrol show job $id | grep -qE 'Restarts=[1-9]' && grep -q 'USR1' llq_cpu_test-$id.log
ok "after USR1 and a requeue"
! grep -q '^slurm:.*TERM' llq_cpu_test-$id.log
ok "no turn ran into its limit"

echo "== a limit that is too short for a job"
export LLQ_TEST_PAUSE=200
submit --time=1 --signal=B:USR1@5 slurm/cpu_test.sh
over 240 "$id" llq_cpu_test-$id.log
grep -q 'a whole turn has finished no job' llq_cpu_test-$id.log && scontrol show job $id | grep -q 'Restarts=0'
ok "is not queued again for ever"

echo "== over nodes (of which there is one), with a log of each rank"
export LLQ_TEST_PAUSE=0
submit --nodes=1 --gpus-per-node=2 --ntasks-per-node=2 --cpus-per-task=1 slurm/multi_node.sh
over 120 "$id" llq_sweep-$id.log
[ "$(state $id)" = COMPLETED ] && items results/small-$id.h5 | cmp "$work/whole.items" -
ok "multi_node.sh: completed, with the same bytes"
[ "$(find results/small-$id.h5.ranks -name 'rank.*' | wc -l)" = 2 ] && grep -c 'bound: ' results/small-$id.h5.log | grep -qx 2
ok "a log of each rank, and a line of what each is bound to"

echo "== preempted by an urgent job (SlurmctldParameters=preempt_send_user_signal)"
export LLQ_TEST_PAUSE=6
submit slurm/cpu_test.sh
wait_for 90 done_jobs results/small-$id.h5 2
preempted=$id
LLQ_TEST_PAUSE=0 submit --partition=urgent --exclusive slurm/cpu_test.sh
over 120 "$id" llq_cpu_test-$id.log
[ "$(state $id)" = COMPLETED ]
ok "the urgent job completes"
over 200 "$preempted" llq_cpu_test-$preempted.log
[ "$(state $preempted)" = COMPLETED ] && scontrol show job $preempted | grep -q 'Restarts=[1-9]' &&
    items results/small-$preempted.h5 | cmp "$work/whole.items" -
ok "the other leaves, is queued again and completes, with the same bytes"

echo "== TERM to the batch script alone"
export LLQ_TEST_PAUSE=3
submit slurm/cpu_test.sh
wait_for 90 done_jobs results/small-$id.h5 2
ok "two jobs are done"
scancel --signal=TERM --batch $id
export LLQ_TEST_PAUSE=0
over 200 "$id" llq_cpu_test-$id.log
[ "$(state $id)" = COMPLETED ] && scontrol show job $id | grep -q 'Restarts=1' &&
    grep -q '^state=finished exit=0 ok=10' results/small-$id.h5.status
ok "it leaves, is queued again and completes"
items results/small-$id.h5 | cmp "$work/whole.items" -
ok "with the same bytes"

echo "== cancelled"
export LLQ_TEST_PAUSE=3
submit slurm/cpu_test.sh
wait_for 90 done_jobs results/small-$id.h5 2
scancel $id
export LLQ_TEST_PAUSE=0
over 60 "$id" llq_cpu_test-$id.log
[ "$(state $id)" = CANCELLED ] && scontrol show job $id | grep -q 'Restarts=0'
ok "a cancelled job is not queued again"
h5dump -n results/small-$id.h5 >/dev/null
ok "its results open"
run 2 --resume -o results/small-$id.h5 --backend cpu sweeps/small.toml && items results/small-$id.h5 | cmp "$work/whole.items" -
ok "and can be resumed by hand to the same bytes"

echo "== a job array, merged"
submit --array=1-3 --gpus-per-node=h200:1 --cpus-per-task=1 slurm/array.sh
over 180 "$id" llq_sweep-$id
[ "$(ls results/small-$id-part-*.h5 | wc -l)" = 3 ] && grep -q 'total=4' results/small-$id-part-1.h5.status
ok "three parts"
items results/small-$id.h5 | cmp "$work/whole.items" -
ok "joined by the last to the bytes of the whole"
h5dump -a /complete results/small-$id.h5 | grep -q TRUE && [ ! -e results/small-$id.joining ]
ok "and complete"
end
