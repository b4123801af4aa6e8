# shellcheck shell=bash
# switch: the switch agent on a real bridge; every frame that comes out counts
# shellcheck disable=SC2034 # read by tools/check
needs=cpp

run_suite() { meson_suite switch; }
