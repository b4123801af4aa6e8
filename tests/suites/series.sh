# shellcheck shell=bash
# series: the QEMU patches apply without fuzz and are well formed
# shellcheck disable=SC2034 # read by tools/check
needs=

run_suite() {
    tap_program series.log "$TOOLS/build-qemu" --check-series
    tap_program series-round-trip.log "$TOOLS/qemu-series" round-trip
}
