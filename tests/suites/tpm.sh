# shellcheck shell=bash
# tpm: sealing, quotes and enrolment with a real software TPM
# shellcheck disable=SC2034 # read by tools/check
needs=cpp

run_suite() { meson_suite tpm; }
