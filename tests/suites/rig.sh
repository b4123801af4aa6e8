# shellcheck shell=bash
# rig: tools/rig: up, shells, a guest's boot with a capture, down; nothing left
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-tiny"
work=
capture=

# holds NAME COMMAND...: one case.
holds() {
    local name=$1
    shift
    if "$@"; then
        say "ok - $name"
        add_result "1 0 0"
    else
        say "not ok - $name"
        add_result "0 1 0"
    fi
}

rig() { timeout 1500 "$TOOLS/rig" "$@" </dev/null; }

# remember_namespaces: those of the rig that is up, to be looked for later.
remember_namespaces() {
    local host pid
    pid=$(sed 's/.*"init":{"pid":\([0-9]*\).*/\1/' "$AIRLOCK_BUILD/rig/processes")
    readlink "/proc/$pid/ns/pid" "/proc/$pid/ns/mnt"
    for host in "$@"; do rig shell "$host" readlink /proc/self/ns/net; done
}

# remembered FILE HOST...: the same into a file, all of them.
remembered() {
    local to=$1
    shift
    remember_namespaces "$@" >"$to" && [[ $(wc -l <"$to") -eq $((2 + $#)) ]]
}

# search KIND COMMAND...: what it finds, a line each, after KIND; 1 is its way to
# say "nothing". A search that cannot be done is a trace too.
search() {
    local kind=$1 status=0 found
    shift
    found=$("$@") || status=$?
    [[ $status -le 1 ]] || echo "$kind: status $status"
    [[ -z $found ]] || printf '%s\n' "$kind: ${found//$'\n'/$'\n'$kind: }"
}

namespaces_of() { lsns -n -o NS | grep -Fxf <(tr -cd '0-9\n' <"$1"); }

links() {
    ip -br link | grep -E '^(boot0|prod0|cap0|cable|mgmt0?|switch0|host0)\b'
}

# traces FILE: of the rig: namespaces as above, processes, mounts and interfaces
# outside of them, files.
traces() {
    search namespace namespaces_of "$1"
    search process pgrep -fa -- \
        "keep --build $AIRLOCK_BUILD|$AIRLOCK_BUILD/rig/"
    search mount grep "$AIRLOCK_BUILD/rig" /proc/mounts
    search interface links
    search file find "$AIRLOCK_BUILD" -maxdepth 1 -name rig
}

# shows_traces FILE: while the rig is up the same searches find it. (Mounts and
# interfaces are in namespaces of its own.)
shows_traces() {
    local found kind
    found=$(traces "$1")
    for kind in namespace process file; do
        [[ $found == *"$kind: "* ]] || return 1
    done
    [[ $found != *": status "* ]]
}

leaves_nothing() {
    local left
    left=$(traces "$1")
    say "${left:-no trace of it}"
    [[ -s $1 && -z $left ]]
}

up_is_refused() { ! rig up --no-setup 2>"$work/again" && grep -q 'up already' "$work/again"; }

exit_status_passes() {
    local status=0
    rig shell boot sh -c 'exit 7' || status=$?
    [[ $status -eq 7 ]]
}

# The host agent's metrics are on the administrator's network.
hosts_are_apart() {
    local metrics='exec 3<>/dev/tcp/10.10.0.3/9557'
    [[ $(rig shell boot ip -br link) == *cap0* ]] &&
        [[ $(rig shell production ip -br link) == *eth0* ]] &&
        [[ $(rig shell production ip -br link) != *cap0* ]] &&
        [[ $(rig shell switch bridge link) == *boot0* ]] &&
        rig shell administrator bash -c "$metrics" &&
        ! rig shell boot bash -c "$metrics" 2>/dev/null
}

port_is_open() {
    rig shell administrator airlockctl switch ports | grep -q '^boot0 .* open'
}

guest_comes_back() {
    rig shell production virsh start demo || return
    local end=$((SECONDS + 1200))
    until [[ $(rig shell production airlockctl jobs demo) == *done* ]]; do
        [[ $SECONDS -lt $end ]] || return 1
        sleep 2
    done
    [[ $(rig shell production virsh domstate demo) == running* ]]
}

mac_of() { rig shell "$1" cat "/sys/class/net/$2/address"; }

# frames_are_shut_in FILE: reads the capture with nothing of ours: from each
# cut-off to the proof that opened the port again, all that came out at the
# other port is the switch's or the production host's; and before, it is not.
frames_are_shut_in() {
    /usr/bin/python3 - "$1" "$(mac_of switch br0)" "$(mac_of switch prod0)" \
        "$(mac_of switch boot0)" "$(mac_of production eth0)" <<'PY'
import struct, sys

own = {bytes.fromhex(mac.replace(":", "")) for mac in sys.argv[2:]}
names, frames = [], []  # (time, name, outgoing, bytes)
data = open(sys.argv[1], "rb").read()
at = 0
while at < len(data):
    kind, length = struct.unpack_from(">II", data, at)
    body = data[at + 8 : at + length - 4]
    if kind == 1:
        size = struct.unpack_from(">H", body, 10)[0]
        names.append(body[12 : 12 + size].decode())
    if kind == 6:
        number, high, low, size = struct.unpack_from(">IIII", body)
        options = body[20 + (size + 3) // 4 * 4 :]
        code, _, flags = (
            struct.unpack_from(">HHI", options) if len(options) >= 8 else (0, 0, 0)
        )
        frames.append(
            (high << 32 | low, names[number], code == 2 and flags == 2,
             body[20 : 20 + size]))
    at += length
frames.sort(key=lambda frame: frame[0])

through = {"open": 0, "cut off": 0}
state, proof, since_proof, cuts, opens = "open", None, [], 0, 0
for time, name, outgoing, frame in frames:
    if name == "airlock-switchd":
        text = frame[14:].decode()
        if "cut off" in text:
            state, cuts, proof, since_proof = "cut off", cuts + 1, None, []
        else:
            # What came out from the address of the proof, since the proof, came
            # with the lease.
            leased = since_proof.count(proof)
            through["cut off"] -= leased
            through["open"] += leased
            state, opens = "open", opens + 1
    elif name == "boot0" and not outgoing and frame[12:14] == b"\x88\xb5":
        proof, since_proof = frame[6:12], []
    elif name == "prod0" and outgoing and frame[6:12] not in own:
        through[state] += 1
        if state == "cut off":
            since_proof.append(frame[6:12])
print(f"{cuts} cut-offs, {opens} proofs, frames of the boot host at prod0: {through}")
sys.exit(0 if cuts == opens == 1 and through["cut off"] == 0
         and through["open"] > 0 else 1)
PY
}

killed_up_leaves_nothing() {
    local pid status=0
    "$TOOLS/rig" up --no-setup </dev/null >"$work/killed" 2>&1 &
    pid=$!
    until [[ -s $AIRLOCK_BUILD/rig/status && -s $AIRLOCK_BUILD/rig/processes ]]; do
        kill -0 "$pid" || return 1
        sleep 0.2
    done
    remembered "$work/killed-namespaces" &&
        shows_traces "$work/killed-namespaces" || return 1
    kill -KILL "$pid" || return 1
    wait "$pid" 2>/dev/null || status=$?
    # One that had ended by itself would show nothing.
    [[ $status -eq 137 ]] && rig down && leaves_nothing "$work/killed-namespaces"
}

capture_ends_well() {
    capture=
    kill -TERM "$1" && wait "$1"
}

# Also when somebody has ended this suite half way.
undo_suite() {
    [[ -z $capture ]] || kill "$capture" 2>/dev/null || true
    [[ -z $work ]] || rig down >/dev/null 2>&1 || true
    rm -rf "$work"
}

run_suite() {
    work=$(mktemp -d)
    # What was left by one that was interrupted.
    rig down >/dev/null || true
    holds "up" rig up --no-setup
    holds "a second one is refused" up_is_refused
    holds "a command's exit status is that of shell" exit_status_passes
    holds "each host has its own network" hosts_are_apart
    holds "the boot host's port is open" port_is_open
    "$TOOLS/rig" capture -o "$work/frames" </dev/null 2>"$work/capture" &
    capture=$!
    holds "a guest boots on the boot host and comes back" guest_comes_back
    sleep 2
    holds "the capture ends well" capture_ends_well "$capture"
    cat "$work/capture"
    holds "nothing came through while the port was cut off" \
        frames_are_shut_in "$work/frames"
    holds "each host has namespaces" remembered "$work/namespaces" \
        production switch boot administrator
    holds "it can be seen while it is up" shows_traces "$work/namespaces"
    holds "down" rig down
    holds "nothing is left" leaves_nothing "$work/namespaces"
    holds "nor of an up that was killed" killed_up_leaves_nothing
}
