#!/usr/bin/env bash
# bootstrap.sh: from a fresh Linux machine to a node that is a member of a run. See usage() and docs/deploy.md.
#
# It may be run again: what is in place stays, a newer package becomes the running one, and --rollback returns to the one before.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly unit_file=$here/../systemd/lowcomm-node.service
readonly home=/opt/lowcomm-node etc=/etc/lowcomm-node state=/var/lib/lowcomm-node user=lowcomm-node
readonly unit=lowcomm-node.service

usage() {
    cat <<'TEXT'
usage: bootstrap.sh --package SOURCE (--peers "ADDRESS ..." | --manifest FILE) [OPTIONS]    first time, as root
       bootstrap.sh --package SOURCE                                                      another version, same settings
       bootstrap.sh --rollback                                                            the version before

  --package SOURCE     a wheel, a folder with the source, git+URL, or anything else that pip takes
  --peers ADDRESSES    nodes that are in the run, as their "lowcomm-node join" prints them, separated by spaces
  --manifest FILE      start the run of this manifest here
  --run ID             refuse any other run
  --invite FILE        file with the invitation, where the run asks for one
  --announce HOST      where others dial this machine, if that is not where they see it
  --data PATTERN       text to train on, a file, folder or pattern; repeatable
  --device NAME        torch device, as cuda:0,cuda:1
  --dht-port PORT      4001; to be opened in the firewall, as the next
  --grpc-port PORT     4002
  --python PROGRAM     python3; 3.11 or newer
  --torch-index URL    package index that has the build of torch for this machine's GPU
  --system-packages    use what the machine's Python already has, as torch on a rented GPU box
  --wait SECONDS       how long the node may take to be a member (300)
  --dry-run            check the machine and show what would be done
  --rollback           return to the version that ran before this one
TEXT
}

say() { printf '%s\n' "$*"; }
fail() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}
# Whatever changes the machine goes through here.
run() {
    if [[ $dry_run ]]; then
        printf 'would run:'
        printf ' %q' "$@"
        printf '\n'
    else
        "$@"
    fi
}

package='' peers='' manifest='' run_id='' invite='' announce='' device='' dht_port='' grpc_port='' python=python3
torch_index='' system_packages='' wait_s=300 dry_run='' rollback='' has_settings='' has_run=''
data=()

read_arguments() {
    while (($#)); do
        case $1 in
        --rollback) rollback=yes ;;
        --dry-run) dry_run=yes ;;
        --system-packages) system_packages=yes ;;
        -h | --help)
            usage
            exit 0
            ;;
        --package | --peers | --manifest | --run | --invite | --announce | --data | --device | --dht-port | --grpc-port | \
            --python | --torch-index | --wait)
            (($# > 1)) && [[ $2 ]] || fail "$1 takes a value; see --help"
            case $1 in
            --package) package=$2 ;;
            --peers) peers=$2 has_run=yes ;;
            --manifest) manifest=$2 has_run=yes ;;
            --run) run_id=$2 has_run=yes ;;
            --invite) invite=$2 has_run=yes ;;
            --announce) announce=$2 has_settings=yes ;;
            --data) data+=("$2") has_settings=yes ;;
            --device) device=$2 has_settings=yes ;;
            --dht-port) dht_port=$2 has_settings=yes ;;
            --grpc-port) grpc_port=$2 has_settings=yes ;;
            --python) python=$2 ;;
            --torch-index) torch_index=$2 ;;
            --wait) wait_s=$2 ;;
            esac
            shift
            ;;
        *) fail "unknown option $1; see --help" ;;
        esac
        shift
    done
    [[ $rollback || $package ]] || fail "what shall be installed? Give --package; see --help"
    [[ ! $manifest || -f $manifest ]] || fail "--manifest $manifest: there is no such file"
    [[ ! $invite || -f $invite ]] || fail "--invite $invite: there is no such file"
    [[ $dht_port$grpc_port$wait_s =~ ^[0-9]+$ ]] || fail "ports and seconds are numbers"
    [[ $announce$device${data[*]-} != *[\"\\]* ]] || fail "--announce, --device and --data must not hold quotes or backslashes"
    if [[ ! $rollback && ! -e $etc/node.env && ! $peers && ! $manifest ]]; then
        fail "which run? Give --peers of nodes that are in it, or --manifest to start one"
    fi
}

check_machine() {
    [[ $(uname -s) == Linux ]] || fail "this is for Linux with systemd; elsewhere start 'lowcomm-node join' by hand"
    [[ $dry_run ]] || ((EUID == 0)) || fail "run it as root (sudo), or with --dry-run"
    [[ $dry_run || -d /run/systemd/system ]] || fail "systemd does not run this machine; in a container use the image instead"
    [[ -f $unit_file ]] || fail "$unit_file is missing: take the whole deploy folder, not this script alone"
    [[ ! $rollback ]] || return 0
    command -v "$python" >/dev/null || fail "there is no $python; install Python 3.11 or newer, or name it with --python"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$("$python" --version) is too old: 3.11 or newer is needed; name another one with --python"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "$python cannot make virtual environments; on Debian and Ubuntu: apt install python3-venv"
    local free_mib needed_mib=8000
    [[ $system_packages ]] && needed_mib=1000
    free_mib=$(df --output=avail --block-size=1M "$(dirname "$home")" | tail -n 1)
    ((free_mib > needed_mib)) || say "warning: ${free_mib// /} MiB are free for $home; torch with CUDA takes up to $needed_mib"
    check_gpu
    if command -v timedatectl >/dev/null && [[ $(timedatectl show --property=NTPSynchronized --value 2>/dev/null) == no ]]; then
        say "warning: this clock is not synchronised, and one that is 2.5 s off is refused: timedatectl set-ntp true"
    fi
}

check_gpu() {
    local gpus
    if command -v nvidia-smi >/dev/null; then
        gpus=$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader) ||
            fail "nvidia-smi fails: the driver does not run; reboot, or install it again"
        say "GPU: ${gpus//$'\n'/; }"
    elif grep -qsx 0x10de /sys/bus/pci/devices/*/vendor; then
        fail "there is an NVIDIA GPU and no driver; install the driver first (nvidia-smi must work)"
    else
        say "no NVIDIA GPU: it will train on processors"
    fi
}

make_user() {
    id "$user" >/dev/null 2>&1 && return
    run useradd --system --user-group --home-dir "$state" --shell /usr/sbin/nologin "$user"
}

# Source comes with the exact versions that its tests ran with, by Python 3.11; a wheel does not. A build of torch that was asked for,
# and what the machine has already, go before.
choose_versions() {
    constraints=()
    [[ -f $package/constraints.txt && ! $system_packages ]] || return 0
    "$python" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || return 0
    sed "${torch_index:+/^torch==/d}" "$package/constraints.txt" >"$scratch/constraints.txt"
    constraints=(--constraint "$scratch/constraints.txt")
    say "packages of others: the versions in $package/constraints.txt"
}

# Every version has a folder of its own, named after what is in its wheel: the same package is not installed twice.
install_package() {
    local wheels wheel name constraints options=()
    choose_versions
    if [[ $dry_run ]]; then
        say "would build a wheel of $package and install it into a virtual environment of its own below $home/releases"
        return
    fi
    umask 022
    mkdir -p "$home/releases"
    [[ -x $home/tools/bin/pip ]] || "$python" -m venv "$home/tools"
    wheels=$scratch
    "$home/tools/bin/pip" wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$wheels" "$package" ||
        fail "pip cannot make a wheel of $package (see above)"
    wheel=$(find "$wheels" -name 'lowcomm_node-*.whl' -print -quit)
    [[ $wheel ]] || fail "$package is not lowcomm-node, but $(ls "$wheels")"
    name=$(basename "$wheel")
    name=$(cut -d- -f2 <<<"$name")-$(sha256sum "$wheel" | cut -c1-12)
    release=$home/releases/$name
    if [[ -e $release/complete ]]; then
        say "lowcomm-node $name is installed already"
    else
        say "installing lowcomm-node $name (torch may take minutes)"
        rm -rf "$release"
        [[ $system_packages ]] && options+=(--system-site-packages)
        "$python" -m venv "${options[@]}" "$release"
        # What venv brings is older than what torch asks for, and hides the machine's own.
        [[ ! $system_packages ]] || "$release/bin/pip" uninstall --quiet --yes setuptools
        local pip=("$release/bin/pip" install --quiet --disable-pip-version-check)
        if [[ $torch_index ]]; then
            "${pip[@]}" --index-url "$torch_index" torch || fail "$torch_index has no torch for this machine (see above)"
        fi
        if command -v nvidia-smi >/dev/null; then
            "${pip[@]}" "${constraints[@]}" "lowcomm-node[gpu] @ file://$wheel" || fail "pip cannot install it (see above)"
        else
            "${pip[@]}" "${constraints[@]}" "$wheel" || fail "pip cannot install it (see above)"
        fi
        # Once more by itself: a version of the machine's own is no reason to leave it out.
        "${pip[@]}" --no-deps --ignore-installed "$wheel" || fail "pip cannot install it (see above)"
        "$release/bin/lowcomm-node" --version || fail "what was installed does not start (see above)"
        touch "$release/complete"
    fi
}

find_release_before() {
    release=$(readlink "$home/previous") || fail "there is no version before this one in $home/releases"
    [[ -e $release/complete ]] || fail "the version before is gone: $release"
    say "back to $(basename "$release")"
}

# The unit and the command line follow this link; nothing is written into a version that runs.
switch_to_release() {
    local now
    now=$(readlink "$home/current" || true)
    [[ ! $now || $now != "$release" ]] || return 0
    [[ ! $now ]] || run ln -sfn "$now" "$home/previous"
    run ln -sfn "$release" "$home/current.new"
    run mv -T "$home/current.new" "$home/current"
    run mkdir -p /usr/local/bin
    run ln -sfn "$home/current/bin/lowcomm-node" /usr/local/bin/lowcomm-node
    has_changed=yes
}

# write FILE MODE: standard input becomes the file; what was there, if it was something else, is kept as FILE.old.
write() {
    local text
    text=$(cat)
    [[ -f $1 && $(cat "$1") == "$text" ]] && return
    if [[ $dry_run ]]; then
        say "would write $1 (mode $2):"
        printf '    %s\n' "${text//$'\n'/$'\n    '}"
        return
    fi
    [[ -f $1 ]] && cp -p "$1" "$1.old"
    install -m "$2" /dev/null "$1.new"
    printf '%s\n' "$text" >"$1.new"
    mv "$1.new" "$1"
    has_changed=yes
}

write_settings() {
    run install -d -m 755 "$etc"
    if [[ $has_settings || ! -e $etc/config.toml ]]; then
        write "$etc/config.toml" 644 < <(
            say '# Written by bootstrap.sh; yours to edit. Every key and its default: lowcomm-node config template'
            say "state_dir = \"$state\""
            [[ ! $device ]] || printf '\n[device]\nname = "%s"\n' "$device"
            if ((${#data[@]})); then
                printf '\n[data]\npaths = ['
                printf '"%s", ' "${data[@]}"
                printf ']\n'
            fi
            printf '\n[network]\nhost = "0.0.0.0"\n'
            [[ ! $announce ]] || say "announce_host = \"$announce\""
            printf 'dht_port = %d\ngrpc_port = %d\n' "${dht_port:-4001}" "${grpc_port:-4002}"
        )
    fi
    if [[ $has_run || ! -e $etc/node.env ]]; then
        local options=()
        if [[ $manifest ]]; then
            write "$etc/run.toml" 644 <"$manifest"
            options+=(--manifest "$etc/run.toml")
        fi
        [[ ! $run_id ]] || options+=(--run "$run_id")
        write "$etc/node.env" 600 < <(
            say '# Written by bootstrap.sh; yours to edit.'
            say "LOWCOMM_PEERS=$peers"
            [[ ! $invite ]] || say "LOWCOMM_INVITE=$(tr -d '[:space:]' <"$invite")"
            say "JOIN_OPTIONS=${options[*]-}"
        )
    fi
}

# ask COMMAND...: a command of lowcomm-node as the service's user, with the variables that the service gets.
ask() {
    local variables=() line
    while read -r line; do
        [[ $line != LOWCOMM_*=?* ]] || variables+=("$line")
    done <"$etc/node.env"
    runuser -u "$user" -- env -C / HOME="$state" "${variables[@]}" "$release/bin/lowcomm-node" "$@"
}

check_node() {
    [[ $dry_run ]] && return
    local words options=()
    ask config check || fail "the settings cannot be used (see above); correct $etc/config.toml and run this again"
    systemctl is-active --quiet "$unit" && return # its ports and memory are in use
    install -d -m 700 -o "$user" -g "$user" "$state"
    read -ra words < <(sed -n 's/^JOIN_OPTIONS=//p' "$etc/node.env") || true
    while ((${#words[@]})); do
        [[ ${words[0]} != --manifest && ${words[0]} != --run ]] || options+=("${words[0]}" "${words[1]-}")
        words=("${words[@]:1}")
    done
    ask doctor "${options[@]}" || fail "this machine is not fit to join yet: see FAIL above, each with its cure, and run this again"
}

install_unit() {
    write "/etc/systemd/system/$unit" 644 <"$unit_file"
    run systemctl daemon-reload
    run systemctl enable --quiet "$unit"
}

start() {
    if [[ $dry_run ]]; then
        say "would start $unit and wait until the node is a member, $wait_s s at most"
        return
    fi
    if [[ $has_changed ]] || ! systemctl is-active --quiet "$unit"; then
        systemctl reset-failed "$unit" 2>/dev/null || true
        systemctl restart --no-block "$unit"
    fi
    local deadline=$((SECONDS + wait_s)) active text said=''
    while ((SECONDS < deadline)); do
        active=$(systemctl show --property=ActiveState --value "$unit")
        text=$(systemctl show --property=StatusText --value "$unit")
        [[ ! $text || ${text%%:*} == "${said%%:*}" ]] || say "  $text"
        said=${text:-$said}
        if [[ $active == active && ($text == training* || $text == finished* || $text == paused*) ]]; then
            say "the node is a member: lowcomm-node status, top, peers (as $user: sudo -u $user lowcomm-node status)"
            return
        fi
        [[ $active != failed ]] || break
        sleep 1
    done
    journalctl --unit "$unit" --lines 20 --no-pager --output cat >&2 || true
    fail "the node is not a member of a run yet ($(systemctl show --property=ActiveState --value "$unit")); see above, or journalctl -u $unit"
}

has_changed='' release=$home/releases/new
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
read_arguments "$@"
check_machine
if [[ $rollback ]]; then
    find_release_before
else
    make_user
    install_package
    write_settings
fi
check_node
switch_to_release
install_unit
start
