# shellcheck shell=bash
# Completion of airlockctl(1) for bash.

# The first column of the table, without its head.
_airlockctl_ports() {
    airlockctl switch ports 2>/dev/null | sed -n '3,$s/ .*//p'
}

_airlockctl_complete() {
    local current=${COMP_WORDS[COMP_CWORD]} word command="" sub="" i
    local previous=${COMP_WORDS[COMP_CWORD - 1]}
    local commands="adopt list status jobs events retry release pki check"
    commands+=" switch"
    COMPREPLY=()
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        [[ $word != -* ]] || continue
        if [[ " $commands " == *" $word "* && -z $command ]]; then
            command=$word
        elif [[ $command == pki || $command == switch ]] && [[ -z $sub ]]; then
            sub=$word
        fi
    done
    case $previous in
    --file | -o | --output | --emulator | --config | --socket | --dir | \
        --root | --key)
        mapfile -t COMPREPLY < <(compgen -f -- "$current")
        return
        ;;
    --cpu)
        mapfile -t COMPREPLY < <(compgen -W \
            "$(virsh cpu-models x86_64 2>/dev/null)" -- "$current")
        return
        ;;
    --method)
        mapfile -t COMPREPLY < <(compgen -W "mac mac96 quote" -- "$current")
        return
        ;;
    --booted)
        mapfile -t COMPREPLY < <(compgen -W \
            "auto guest-agent shell serial: idle: after:" -- "$current")
        return
        ;;
    esac
    case $command:$previous in
    jobs:--domain)
        mapfile -t COMPREPLY < <(compgen -W \
            "$(airlockctl list --names 2>/dev/null)" -- "$current")
        return
        ;;
    jobs:--result)
        mapfile -t COMPREPLY < <(compgen -W "done failed abandoned" \
            -- "$current")
        return
        ;;
    jobs:--since)
        mapfile -t COMPREPLY < <(compgen -W "15m 12h 7d" -- "$current")
        return
        ;;
    esac
    local choices
    case $command:$sub in
    :)
        choices="$commands --json --socket --version --help"
        ;;
    adopt:)
        choices="--file --diff --apply --revert --output --connect --cpu
            --emulator --force-virtio --booted --tenant --limit --json
            $(virsh list --all --name 2>/dev/null)"
        ;;
    status: | retry: | release:)
        choices="--json $(airlockctl list --names 2>/dev/null)"
        ;;
    jobs:)
        choices="--domain --tenant --server --result --open --since --limit
            --json
            $(airlockctl list --names 2>/dev/null)"
        ;;
    list:) choices="--names --json" ;;
    events:) choices="--follow --json" ;;
    check:) choices="--config --connect --json" ;;
    pki:) choices="init issue" ;;
    pki:init) choices="--dir --name --days --json" ;;
    switch:) choices="ports status cut enroll rotate" ;;
    switch:ports) choices="--json --socket" ;;
    switch:enroll)
        choices="--method --root --output --key --address --json --socket
            $(_airlockctl_ports)"
        ;;
    switch:rotate)
        choices="--root --output --json --socket $(_airlockctl_ports)"
        ;;
    switch:*) choices="--json --socket $(_airlockctl_ports)" ;;
    pki:issue) choices="hostd bootd switchd --dir --host --days --json" ;;
    *) choices="--json --help" ;;
    esac
    mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
}

complete -F _airlockctl_complete airlockctl
