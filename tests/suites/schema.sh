# shellcheck shell=bash
# schema: every byte that the production machine saves, against the tables
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu"

run_suite() { meson_suite schema; }
