#!/usr/bin/env bash
# Several nodes: each a host name of its own on this machine, with a daemon of mpirun's and its own
# numbering of ranks; messages between them go over TCP.
. "$(dirname "$0")/common.sh"
if ! unshare -u true 2>/dev/null; then
    echo "SKIP several nodes: no host names of their own can be made here (unshare -u)"
    exit 0
fi
small_sweep
cd "$work" || exit 1

said() { # said PATTERN: in what the last run printed
    grep -qE -- "$1" "$work/out" || { cat "$work/out"; fail "the output says $1"; }
}

# In place of ssh: HOST COMMAND...
cat >agent <<'AGENT'
#!/bin/sh
while case $1 in -*) true ;; *) false ;; esac; do shift; done
host=$1
shift
exec unshare -u sh -c "hostname $host && exec $*"
AGENT
chmod +x agent
far="--mca plm rsh --mca plm_rsh_agent $work/agent --mca oob_tcp_if_include lo --mca btl_tcp_if_include lo"
far="$far --mca btl self,tcp,vader --oversubscribe --bind-to none"

run 1 -o whole.h5 --limit 4 small.toml
ok "one rank on one node finishes"
items whole.h5 >whole

echo "+ mpirun --host nodea:2,nodeb:2 -np 4 llq_sweep"
mpirun $far --host nodea:2,nodeb:2 -np 4 "$program" -o two.h5 --limit 4 small.toml >out 2>&1
ok "two nodes of two ranks finish ($(tail -3 out))"
h5dump -d /provenance/hostnames two.h5 | grep -q '(0): "nodea", "nodea", "nodeb", "nodeb"'
ok "the results name each rank's host"
for rank in "0: bound: nodea, local rank 0 of 2" "1: bound: nodea, local rank 1 of 2" \
            "2: bound: nodeb, local rank 0 of 2" "3: bound: nodeb, local rank 1 of 2"; do
    grep -qE "rank $rank: .*, cores [0-9,-]+ \([0-9]+ of [0-9]+\)" two.h5.log
    ok "FILE.log says what rank ${rank%%:*} is bound to"
done
for rank in 1 2 3; do
    grep -q "info    rank $rank: bound: node" two.h5.log.rank-$rank && ! grep -v " rank $rank: " two.h5.log.rank-$rank
    ok "rank $rank keeps its own lines, too"
done
items two.h5 | cmp whole -
ok "with the same bytes"

printf 'nodec slots=1\nnoded slots=1\nnodee slots=1\n' >hosts
mpirun $far --hostfile hosts --map-by ppr:1:node -np 3 "$program" -o three.h5 --limit 4 small.toml >out 2>&1 &&
    grep -q '^state=finished exit=0 ok=10' three.h5.status
ok "three nodes by a host file finish"
items three.h5 | cmp whole -
ok "with the same bytes"

# A node dies: its daemon and all that it started, at once.
LLQ_TEST_PAUSE=1 mpirun $far --host nodea:1,nodeb:1 -np 2 "$program" -o died.h5 --limit 4 small.toml >out 2>&1 &
pid=$!
while kill -0 $pid 2>/dev/null && ! grep -q '"status":"success"' died.h5.journal 2>/dev/null; do sleep 0.02; done
below() { # below PID: it and all processes below it
    echo $1
    for child in $(ps -o pid= --ppid $1); do below "$child"; done
}
kill -9 $(below $(ps -o pid= --ppid $pid | tail -1))
timeout 60 tail --pid=$pid -f /dev/null || kill -9 $(below $pid)
wait $pid 2>/dev/null
[ $? != 0 ] && ! grep -q 'exit=0' died.h5.status && h5dump -n died.h5 >/dev/null
ok "a node that dies ends the run, and the results open"
kept=$(grep -c '"status":"success"' died.h5.journal)
mpirun $far --host nodea:1,nodef:1 -np 2 "$program" --resume -o died.h5 --limit 4 small.toml >out 2>&1
ok "it is resumed with another node"
said "$kept of 10 jobs were finished before" && items died.h5 | cmp whole -
ok "without its $kept jobs being lost, with the same bytes"
end
