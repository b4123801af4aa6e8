# shellcheck shell=bash
# attacks: root in dirty mode with a network card tries everything, once
# shellcheck disable=SC2034 # read by tools/check
needs="cpp qemu"

# The clean image is the real one. The dirty image has the attacker as its first
# process, a driver for the card, and what it takes to mount the images.
run_suite() {
    local images=$AIRLOCK_BUILD/attacks
    if ! { boot_images "$images" --mode clean &&
        boot_images "$images" --mode dirty \
            --init "$CPP/tests/modes/attack_probe" \
            --add "$images/site/policy.pem=/policy.pem" \
            --module virtio_net --module vfat --module nls_cp437 \
            --module nls_ascii; }; then
        result="0 1 0"
        return
    fi
    AIRLOCK_ATTACK_IMAGES=$images meson_suite attacks
}
