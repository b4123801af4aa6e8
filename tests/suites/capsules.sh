# shellcheck shell=bash
# capsules: what a capsule's QEMU is given, and the fence around it
# shellcheck disable=SC2034 # read by tools/check
needs=cpp

run_suite() { meson_suite capsules; }
