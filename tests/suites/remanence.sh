# shellcheck shell=bash
# remanence: what one tenant had is nowhere in a capsule while the next one boots
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu"

run_suite() { shipped_suite remanence; }
