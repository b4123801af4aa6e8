# shellcheck shell=bash
# modes: a boot host as a VM with OVMF and a software TPM: clean, dirty, clean
# shellcheck disable=SC2034 # read by tools/check
needs=cpp

# The images have the real first process of each mode and, as its work, a
# program that does what a test orders.
modes_image() {
    local mode=$1 to=$2
    shift 2
    logged "modes-image-$mode" "$TOOLS/build-boot-image" \
        --site "$modes/site" --mode "$mode" --output "$to" \
        --kernel-cache "$AIRLOCK_BUILD/boot-kernel" \
        --init "$CPP/tests/modes/modes_${mode}_probe" "$@"
}

# Same inputs, same bytes: all but the signature, which has a time in it.
same_images() {
    modes_image clean "$modes/again" &&
        cmp "$modes/clean.unsigned.efi" "$modes/again/clean.unsigned.efi"
}

run_suite() {
    local modes=$AIRLOCK_BUILD/modes
    site_in "$modes" || return
    if ! { modes_image clean "$modes" &&
        modes_image clean "$modes/second" --generation 2 &&
        modes_image dirty "$modes" --add "$modes/site/policy.pem=/policy.pem"; }
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
