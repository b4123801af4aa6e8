# shellcheck shell=bash
# unit: the C++ libraries by themselves, GoogleTest
# shellcheck disable=SC2034 # read by tools/check
needs=cpp

run_suite() { meson_suite unit; }
