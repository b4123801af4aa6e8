# shellcheck shell=bash
# power-cut: a capsule whose power goes at each step of the cycle
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu"

run_suite() { shipped_suite power-cut; }
