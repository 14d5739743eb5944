#!/usr/bin/env bash
# A SLURM of two nodes with one CPU each on this machine, for tests/slurm: bash nodes.sh up|down DIR
#
# Each node is a network namespace with its own host name and address, joined by a bridge, so what
# goes from node to node crosses a network; the file system is shared. Needs root, Debian's
# slurmctld, slurmd, slurm-client, munge and iproute2. Tests find it by SLURM_CONF=DIR/slurm.conf.
set -euo pipefail
what=$1
dir=$(realpath -m "$2")
network=10.99.0

up() {
    unlink_nodes # of a run that was killed
    mkdir -p "$dir/state" "$dir/spool.node1" "$dir/spool.node2"
    printf '127.0.0.1 localhost\n%s.1 %s\n' "$network" "$(hostname)" >"$dir/hosts"
    ip link add scgp0 type bridge
    ip addr add "$network.1/24" dev scgp0
    ip link set scgp0 up
    for i in 1 2; do
        printf '%s.1%d node%d\n' "$network" "$i" "$i" >>"$dir/hosts"
        ip netns add "scgp-node$i"
        ip link add "scgp-veth$i" type veth peer name eth0 netns "scgp-node$i"
        ip link set "scgp-veth$i" master scgp0 up
        ip -n "scgp-node$i" addr add "$network.1$i/24" dev eth0
        ip -n "scgp-node$i" link set lo up
        ip -n "scgp-node$i" link set eth0 up
    done
    cat >"$dir/slurm.conf" <<CONF
ClusterName=scgp
SlurmctldHost=$(hostname)($network.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool.%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ReturnToService=2
MpiDefault=none
MinJobAge=3600
NodeName=node1 NodeAddr=$network.11 CPUs=1 RealMemory=6000 State=UNKNOWN
NodeName=node2 NodeAddr=$network.12 CPUs=1 RealMemory=6000 State=UNKNOWN
PartitionName=general Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
    if ! pgrep -x munged >/dev/null; then
        [ -s /etc/munge/munge.key ] || mungekey
        install -d -o munge -g munge /run/munge
        setpriv --reuid munge --regid munge --init-groups munged
    fi
    slurmctld -f "$dir/slurm.conf"
    for i in 1 2; do
        # ip netns exec would mount another /sys, without the control groups
        nsenter --net="/run/netns/scgp-node$i" unshare --uts --mount sh -c \
            'mount --bind "$1/hosts" /etc/hosts; hostname "$2"; exec slurmd -f "$1/slurm.conf"' \
            sh "$dir" "node$i" >/dev/null 2>&1
    done
    for _ in $(seq 60); do
        [ "$(SLURM_CONF=$dir/slurm.conf sinfo -h -t idle -o %D 2>/dev/null)" = 2 ] && return
        sleep 1
    done
    echo 'the nodes did not come up; their logs:' >&2
    tail -n 20 "$dir"/*.log >&2
    return 1
}

down() {
    for file in "$dir"/slurmd.*.pid "$dir/slurmctld.pid"; do
        if [ -s "$file" ]; then kill "$(cat "$file")" || true; fi
    done
    unlink_nodes
}

unlink_nodes() {
    for i in 1 2; do
        ip link del "scgp-veth$i" 2>/dev/null || true
        ip netns del "scgp-node$i" 2>/dev/null || true
    done
    ip link del scgp0 2>/dev/null || true
}

case $what in
    up)
        trap 'code=$?; [ "$code" = 0 ] || down; exit "$code"' EXIT
        up
        ;;
    down) down ;;
    *) echo "up or down, not $what" >&2; exit 2 ;;
esac
