# shellcheck shell=bash
# cycle: a guest through a capsule, clean, dirty, clean, twice, behind a real switch
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-tiny"

run_suite() { shipped_suite cycle; }
