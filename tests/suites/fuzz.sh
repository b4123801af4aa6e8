# shellcheck shell=bash
# fuzz: parsers of hostile bytes: seeds, then new inputs by libFuzzer
# shellcheck disable=SC2034 # read by tools/check
needs="cpp fuzz"

# Seeds run in every build; new inputs need clang and its own build, with the
# address and undefined-behaviour sanitizers.
build_fuzz() {
    local dir=$AIRLOCK_BUILD/fuzz targets
    if [[ ! -f $dir/build.ninja ]]; then
        CXX=clang++ CC=clang logged fuzz-setup meson setup "$dir" \
            "$AIRLOCK_ROOT" -Dfuzzers=true -Db_lundef=false \
            -Doptimization=1 -Db_sanitize=address,undefined \
            '-Dcpp_args=-g1 -fsanitize=fuzzer-no-link' || return 1
    fi
    mapfile -t targets < <(fuzz_targets)
    logged fuzz-build ninja -C "$dir" "${targets[@]/%/_fuzz}"
}

fuzz_targets() {
    find "$AIRLOCK_ROOT/tests/fuzz" -name '*_fuzz.cpp' -printf '%f\n' |
        sed 's/_fuzz\.cpp$//' | sort | sed 's|^|tests/fuzz/|'
}

# fuzz TARGET: its output goes to a log, its exit status to a file.
fuzz() {
    local target=$1 name=${1##*/} seeds=() corpus status=0
    corpus=$AIRLOCK_BUILD/fuzz/corpus/$name
    mkdir -p "$corpus"
    if [[ -d $AIRLOCK_ROOT/tests/fuzz/seeds/$name ]]; then
        seeds=("$AIRLOCK_ROOT/tests/fuzz/seeds/$name")
    fi
    # A fixed seed: the same inputs, and so the same result, in each CI run.
    "$AIRLOCK_BUILD/fuzz/${target}_fuzz" -runs="$AIRLOCK_FUZZ_RUNS" \
        -seed=1 -timeout=10 -rss_limit_mb=2048 -max_total_time="$fuzz_seconds" \
        -print_final_stats=1 -artifact_prefix="$LOG_DIR/fuzz-$name-" \
        "$corpus" "${seeds[@]}" >"$LOG_DIR/fuzz-$name.log" 2>&1 || status=$?
    echo "$status" >"$LOG_DIR/fuzz-$name.status"
}

report_target() {
    local name=${1##*/} log
    log=$LOG_DIR/fuzz-$name.log
    if [[ $(cat "$LOG_DIR/fuzz-$name.status") == 0 ]]; then
        say "ok - $name: $(sed -n \
            's/^stat::number_of_executed_units: *//p' "$log") inputs"
        add_result "1 0 0"
    else
        tail -n 30 "$log"
        say "not ok - $name; log: $log"
        add_result "0 1 0"
    fi
}

run_suite() {
    local target running=0
    meson_suite fuzz
    # The time limit keeps CI in its bounds; --full runs all inputs.
    fuzz_seconds=60
    [[ $AIRLOCK_FULL -eq 0 ]] || fuzz_seconds=0
    rm -f "$LOG_DIR"/fuzz-*.status
    for target in $(fuzz_targets); do
        if [[ $running -eq $(nproc) ]]; then
            wait -n
            running=$((running - 1))
        fi
        fuzz "$target" &
        running=$((running + 1))
    done
    wait
    for target in $(fuzz_targets); do report_target "$target"; done
}
