# shellcheck shell=bash
# nics: a card on a bridge, DHCP after each return
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu image-tiny"

run_suite() { meson_suite nics; }
