#!/usr/bin/env bash
# boot_systemd.sh FOLDER SOURCE=TARGET... : this machine's files under a systemd of their own, until standard input ends.
#
# Everything is this machine's, seen through an overlay: what is written stays in memory and goes with it. It has its own
# processes, mounts, host name and control group, and the network that it is called in. Each SOURCE is to be seen, read-only, at TARGET.
# FOLDER/pid gets the process id of that systemd, as seen from here. Needs root and a cgroup2 hierarchy.
set -euo pipefail

if [[ ${1:-} != inside ]]; then
    folder=$1
    group=$(awk '$3 == "cgroup2" { print $2; exit }' /proc/self/mounts)/lowcomm-test-$$
    mkdir "$group"
    (
        echo "$BASHPID" >"$group/cgroup.procs"
        exec unshare --mount --pid --fork --kill-child --ipc --uts --cgroup "$0" inside "$@" </dev/null
    ) &
    outside=$!
    until pgrep --parent "$outside" --exact systemd >"$folder/pid.new"; do
        kill -0 "$outside" || exit 1
        sleep 0.05
    done
    mv "$folder/pid.new" "$folder/pid"
    cat >/dev/null # until whoever started us closes it, or dies
    kill -KILL "$outside" || true
    wait "$outside" || true
    until find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; do sleep 0.05; done
    exit
fi

root=$2
shift 2
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
mkdir "$root"/{upper,work,seen}
mount -t overlay -o "lowerdir=/,upperdir=$root/upper,workdir=$root/work" overlay "$root/seen"
cd "$root/seen"
mount -t proc proc proc
# What belongs to the kernel is the whole machine's.
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
for name in null zero full random urandom tty; do
    touch "dev/$name"
    mount --bind "/dev/$name" "dev/$name"
done
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for pair in "$@"; do
    mkdir -p ".${pair#*=}"
    mount --rbind "${pair%%=*}" ".${pair#*=}"
    mount -o remount,bind,ro ".${pair#*=}"
done
# Of this machine's services and disks none is started or mounted, and its journal stays its own.
rm -rf etc/systemd/system/* etc/machine-id etc/fstab etc/crypttab var/log/journal
echo 00000000000000000000000000000007 >etc/machine-id
mkdir -p .old
pivot_root . .old
umount --lazy /.old
exec env -i container=lowcomm-test PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=sysinit.target
