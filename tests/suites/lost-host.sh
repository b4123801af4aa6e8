# shellcheck shell=bash
# lost-host: an isolated boot host hangs, and wipes its disks; another one helps
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-tiny"

run_suite() { shipped_suite lost-host; }
