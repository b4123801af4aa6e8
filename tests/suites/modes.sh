# shellcheck shell=bash
# modes: a boot host as a VM with OVMF and a software TPM: clean, dirty, clean
# shellcheck disable=SC2034 # read by tools/check
needs=cpp


# Same inputs, same bytes: all but the signature, which has a time in it.
same_images() {
    probe_image "$modes" clean "$modes/again" &&
        cmp "$modes/clean.unsigned.efi" "$modes/again/clean.unsigned.efi"
}

run_suite() {
    local modes=$BOOT_PROBE
    if ! { probe_image "$modes" clean "$modes" &&
        probe_image "$modes" clean "$modes/second" --generation 2 &&
        probe_image "$modes" dirty "$modes" --add "$modes/site/policy.pem=/policy.pem"; }
    then
        result="0 1 0"
        return
    fi
    AIRLOCK_MODES_IMAGES=$modes meson_suite modes
    if same_images; then
        say "ok - the same inputs give the same image"
        add_result "1 0 0"
    else
        say "not ok - the same inputs give the same image"
        add_result "0 1 0"
    fi
}
