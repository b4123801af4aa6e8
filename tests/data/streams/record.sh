#!/bin/bash
# Records the QEMU migration streams that the unit tests and fuzz targets use.
# usage: record.sh [STOCK-QEMU [BOOT-QEMU]]
#
# STOCK-QEMU is any qemu-system-x86_64 from 7.2 on with the machines q35 and
# pc; BOOT-QEMU is what tools/build-qemu makes. Give "-" to leave one out. The
# guests never run: a stream of a paused machine has every section of a
# running one, and packs to a few kilobytes.
# shellcheck disable=SC2054 # commas are part of QEMU options
set -euo pipefail

out=$(cd "$(dirname "$0")" && pwd)
stock=${1:-qemu-system-x86_64}
boot=${2:-$out/../../../build/qemu/boot/qemu-system-x86_64}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Firmware that halts at the reset vector: streams carry ROM pages.
truncate -s 64K "$work/bios"
printf '\364\353\375' | dd of="$work/bios" bs=1 seek=65520 conv=notrunc status=none
truncate -s 1M "$work/disk" "$work/cd"
truncate -s 1440K "$work/floppy"

# record NAME HMP-COMMANDS QEMU-ARGUMENTS...: the machine's stream, packed.
record()
{
    local name=$1 before=$2
    shift 2
    # Without -d, "migrate" keeps the monitor until the stream is written.
    printf '%b' "${before}migrate \"exec:cat >$work/stream\"\nquit\n" |
        "$qemu" -S -nodefaults -display none -monitor stdio \
            -accel tcg -bios "$work/bios" "$@" >"$work/log"
    zstd -q -f -19 "$work/stream" -o "$out/$name.zst"
    printf '%-16s %8d bytes, packed %6d\n' "$name" \
        "$(stat -c %s "$work/stream")" "$(stat -c %s "$out/$name.zst")"
    rm "$work/stream"
}

shared='migrate_set_capability x-ignore-shared on\n'

# memory MACHINE SIZE: the arguments for shared guest memory.
memory()
{
    truncate -s "$2" "$work/ram"
    printf '%s\n' -m "$2" -object \
        "memory-backend-file,id=ram,size=$2,mem-path=$work/ram,share=on" \
        -machine "$1,memory-backend=ram"
}

disk=(-drive "if=none,id=disk,format=raw,file=$work/disk"
      -device virtio-blk-pci,drive=disk,addr=2)
net=(-netdev user,id=net -device virtio-net-pci,netdev=net,romfile=,addr=3)
channels=(-device virtio-serial-pci,addr=4 -device virtconsole,chardev=con
          -chardev null,id=con -device virtio-rng-pci,addr=5)
no_vapic=(-global apic-common.vapic=off)
extras=(-device VGA,romfile=,addr=6
        -device qemu-xhci,addr=7 -device usb-hub -device usb-kbd
        -device usb-tablet
        -drive "if=none,id=stick,format=raw,readonly=on,file=$work/cd"
        -device usb-storage,drive=stick
        -drive "if=none,id=cd,media=cdrom,format=raw,file=$work/cd"
        -device ide-cd,drive=cd
        -device isa-fdc -device isa-parallel,chardev=lpt
        -chardev null,id=lpt -device isa-serial,chardev=com
        -chardev null,id=com -device pvpanic
        -device isa-debugcon,chardev=dbg -chardev null,id=dbg)

recordStock()
{
    local qemu=$stock q35 pc
    mapfile -t q35 < <(memory q35 64M)
    mapfile -t pc < <(memory pc 64M)
    record q35-1cpu "$shared" "${q35[@]}" "${no_vapic[@]}" -smp 1 "${disk[@]}" \
        "${net[@]}"
    record q35-2cpu "$shared" "${q35[@]}" "${no_vapic[@]}" -smp 2 "${disk[@]}" \
        "${net[@]}" "${channels[@]}"
    record q35-4cpu "$shared" "${q35[@]}" "${no_vapic[@]}" -smp 4 "${disk[@]}" \
        "${net[@]}" "${channels[@]}"
    record q35-extras "$shared" "${q35[@]}" "${no_vapic[@]}" -smp 2 "${disk[@]}" \
        "${net[@]}" "${channels[@]}" "${extras[@]}"
    # With what Airlock does not know: vAPIC, another chip set, RAM in the stream.
    record q35-vapic "$shared" "${q35[@]}" -smp 1 "${disk[@]}"
    record pc "$shared" "${pc[@]}" -smp 1 "${disk[@]}"
    record q35-ram "" -machine q35 -m 2 "${no_vapic[@]}" -smp 1 "${disk[@]}"
}

# The boot machine: several vCPU counts, then each device switched over alone.
recordBoot()
{
    local qemu=$boot machine device
    mapfile -t machine < <(memory airlock-boot-1.0 64M)
    machine+=(-cpu Nehalem-v1)
    for cpus in 1 2 4; do
        record "boot-${cpus}cpu" "$shared" "${machine[@]}" -smp "$cpus" \
            "${disk[@]}" "${channels[@]}" \
            -device virtio-net-pci,romfile=,addr=3
    done
    for device in i8042 pit pic port92; do
        record "boot-without-$device" "$shared" "${machine[@]}" -smp 1 \
            -machine "airlock-boot-1.0,$device=off"
    done
    # A serial port needs a host side to be there; a video BIOS is not needed.
    machine+=(-serial null -parallel null -global VGA.romfile=)
    for device in serial vga ahci smbus usb hpet floppy parallel vmport tco \
        pvpanic debugcon; do
        record "boot-with-$device" "$shared" "${machine[@]}" -smp 1 \
            -machine "airlock-boot-1.0,$device=on"
    done
}

[ "$stock" = - ] || recordStock
[ "$boot" = - ] || recordBoot
