#!/bin/bash
# Shows every adopted domain to a real libvirt: its schema, its own checks at
# definition, the arguments that QEMU would get, and that adopting what libvirt
# makes of it changes nothing. Prints TAP.
#
#   libvirt-define.sh AIRLOCKCTL QEMU ADOPTED.xml...
#
# libvirtd is a private one: its own configuration and state, bind-mounted in
# a mount namespace of its own. Needs root.
set -euo pipefail

if [[ ${AIRLOCK_IN_NAMESPACE:-} != yes ]]; then
    export AIRLOCK_IN_NAMESPACE=yes
    exec unshare --mount --propagation private "$0" "$@"
fi

ctl=$1
qemu=$2
shift 2
work=$(mktemp -d "${TMPDIR:-/tmp}/airlock-define.XXXXXX")
daemon=
count=0

cleanup() {
    if [[ -n $daemon ]]; then
        kill "$daemon" 2>/dev/null || true
        wait "$daemon" 2>/dev/null || true
    fi
    umount "${mounts[@]}" 2>/dev/null || true
    rm -rf "$work"
}
mounts=()
trap cleanup EXIT

# over DIRECTORY: a private one in its place.
over() {
    local private=$work/$1
    mkdir -p "$private" "$2"
    mount --bind "$private" "$2"
    mounts+=("$2")
}

start_libvirtd() {
    over etc /etc/libvirt
    over run /run/libvirt
    over lib /var/lib/libvirt
    over cache /var/cache/libvirt
    over log /var/log/libvirt
    mkdir -p /var/lib/libvirt/qemu /var/log/libvirt/qemu
    local kind
    for kind in passwd group; do
        sed '/^libvirt-qemu:/d' "/etc/$kind" >"$work/$kind"
    done
    echo 'libvirt-qemu:x:64055:64055::/nonexistent:/usr/sbin/nologin' \
        >>"$work/passwd"
    echo 'libvirt-qemu:x:64055:' >>"$work/group"
    for kind in passwd group; do
        mount --bind "$work/$kind" "/etc/$kind"
        mounts+=("/etc/$kind")
    done
    cat >/etc/libvirt/qemu.conf <<END
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
namespaces = []
stdio_handler = "file"
memory_backing_dir = "$work/ram"
END
    cat >"$work/libvirtd.conf" <<END
unix_sock_dir = "$work/run"
auth_unix_rw = "none"
log_outputs = "2:file:$work/libvirtd.log"
END
    libvirtd --config "$work/libvirtd.conf" --pid-file "$work/libvirtd.pid" \
        >"$work/libvirtd.out" 2>&1 </dev/null &
    daemon=$!
    local try
    for try in {1..100}; do
        # Not "version", which asks the machine's own QEMU.
        if virsh_ list >/dev/null 2>&1; then
            return
        fi
        kill -0 "$daemon" 2>/dev/null || break
        sleep 0.3
    done
    echo "Bail out! libvirtd does not start (try $try)"
    sed 's/^/# /' "$work/libvirtd.out" "$work/libvirtd.log" || true
    exit 1
}

virsh_() {
    timeout 60 virsh --connect \
        "qemu:///system?socket=$work/run/libvirt-sock" "$@" </dev/null
}

# ok NAME COMMAND...
ok() {
    local name=$1
    shift
    count=$((count + 1))
    if "$@" >"$work/said" 2>&1; then
        echo "ok $count - $name"
    else
        echo "not ok $count - $name"
        sed 's/^/# /' "$work/said"
    fi
}

# here FILE: the domain for this machine, where KVM may be missing and QEMU is
# where it was built. The kept original stays as it is.
here() {
    sed -e "1s/type='kvm'/type='qemu'/" \
        -e "s|^    <emulator>.*|    <emulator>$qemu</emulator>|" "$1"
}

define() { virsh_ define --validate "$work/domain.xml"; }

# The devices that QEMU would get, at the addresses of the boot machine.
native() {
    virsh_ domxml-to-native qemu-argv --domain "$1" >"$work/argv"
    tr ' ' '\n' <"$work/argv" >"$work/words"
    local unwanted
    for unwanted in pcie-root-port ahci usb- VGA qxl balloon i8042 tpm; do
        if grep -q -- "$unwanted" "$work/words"; then
            echo "QEMU would get $unwanted:"
            cat "$work/argv"
            return 1
        fi
    done
    grep -q 'machine airlock-1.0' "$work/argv" &&
        grep -q '"virtio-serial-pci".*"addr":"0x2"' "$work/argv" &&
        grep -q '"virtio-blk-pci".*"addr":"0x8"' "$work/argv" &&
        grep -q 'memory-backend-file.*"share":true' "$work/argv" &&
        grep -q "sockets=1,.*cores=.*threads=1" "$work/argv"
}

again() {
    virsh_ dumpxml --inactive "$1" >"$work/dumped.xml"
    timeout 20 "$ctl" adopt --file "$work/dumped.xml" --json >"$work/json"
    grep -q '"changed":false' "$work/json" || {
        timeout 20 "$ctl" adopt --file "$work/dumped.xml"
        return 1
    }
}

# By the name that libvirt knows, in place, and back again.
through_libvirt() {
    local uri="qemu:///system?socket=$work/run/libvirt-sock" name=$1
    timeout 60 "$ctl" adopt "$name" --connect "$uri" --revert --apply &&
        virsh_ dumpxml --inactive "$name" >"$work/reverted.xml" &&
        ! grep -q airlock "$work/reverted.xml"
}

# A console's password is libvirt's secret: neither shown nor kept in the
# domain's metadata, where everybody who may look at the domain could read it.
password=h1dd3n-8
password_defined() {
    # Debian's QEMU: ours has no graphics.
    sed -e "1s/type='kvm'/type='qemu'/" -e "s|<graphics |&passwd='$password' |" \
        -e "s|^    <emulator>.*|    <emulator>/usr/bin/qemu-system-x86_64</emulator>|" \
        "$1" >"$work/domain.xml"
    define && virsh_ dumpxml --security-info "$2" >"$work/dumped.xml" &&
        grep -q "$password" "$work/dumped.xml"
}

password_hidden() {
    local uri="qemu:///system?socket=$work/run/libvirt-sock" name=$1 how
    for how in "" --json --diff --apply; do
        # shellcheck disable=SC2086 # nothing is no argument
        timeout 60 "$ctl" adopt "$name" --connect "$uri" $how >"$work/shown"
        grep -q graphics "$work/shown" && ! grep "$password" "$work/shown" ||
            return 1
    done
    virsh_ dumpxml --inactive "$name" >"$work/dumped.xml" &&
        grep -q 'graphics type' "$work/dumped.xml" &&
        ! grep "$password" "$work/dumped.xml"
}

# Nova's disk names a secret; libvirt wants to know it.
define_secret() {
    cat >"$work/secret.xml" <<END
<secret ephemeral='no' private='no'>
  <uuid>457eb676-33da-42ec-9a8c-9293d545c337</uuid>
  <usage type='ceph'><name>client.cinder</name></usage>
</secret>
END
    virsh_ secret-define "$work/secret.xml" >/dev/null
    printf 'AAAA' >"$work/value"
    virsh_ secret-set-value 457eb676-33da-42ec-9a8c-9293d545c337 \
        --file "$work/value" >/dev/null
}

start_libvirtd
define_secret
for file in "$@"; do
    name=$(basename "$file" .out.xml)
    here "$file" >"$work/domain.xml"
    domain=$(sed -n 's|^  <name>\(.*\)</name>$|\1|p' "$work/domain.xml")
    ok "$name: fits libvirt's schema" \
        virt-xml-validate "$work/domain.xml" domain
    ok "$name: libvirt defines it" define
    ok "$name: QEMU gets the devices of the machine" native "$domain"
    ok "$name: what libvirt makes of it is adopted" again "$domain"
    ok "$name: it goes back to what it was" through_libvirt "$domain"
    ok "$name: libvirt forgets it" virsh_ undefine "$domain"
done
file=$(dirname "$1")/proxmox-like.xml
domain=$(sed -n 's|^  <name>\(.*\)</name>$|\1|p' "$file")
ok "passwords: libvirt keeps one" password_defined "$file" "$domain"
ok "passwords: adopt shows none and keeps none" password_hidden "$domain"
echo "1..$count"
