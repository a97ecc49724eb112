"""Scripts with which shells query `completion` for completions of a command line, printed by `--show-completion`."""

from __future__ import annotations

from collections.abc import Mapping

from rescompile.cli.completion import OPEN_ENDS, WANTS_FILES

# bash splits words at the characters of COMP_WORDBREAKS and replaces only the last piece: the part before it is removed
# from each answer.
_BASH = r"""
_rescompile_completion() {
    local line=${COMP_LINE:0:COMP_POINT} answer word status typed breaks= kept=
    answer=$(_RESCOMPILE_COMPLETE="$line" "$1" 2>/dev/null)
    status=$?
    COMPREPLY=()
    typed=${line##*[[:space:]]}
    if [ "$status" = @WANTS_FILES@ ]; then
        compopt -o filenames 2>/dev/null
        typed=${typed#-*=}
        while IFS= read -r word; do COMPREPLY+=("$word"); done < <(compgen -f -- "$typed")
        return 0
    fi
    for word in = :; do
        case $COMP_WORDBREAKS in *"$word"*) breaks+=$word ;; esac
    done
    if [ -n "$breaks" ]; then kept=${typed%"${typed##*[$breaks]}"}; fi
    while IFS=$'\t' read -r word _; do
        if [ -n "$word" ]; then COMPREPLY+=("${word#"$kept"}"); fi
    done <<< "$answer"
    if [ "${#COMPREPLY[@]}" = 1 ]; then
        case ${COMPREPLY[0]} in *[@OPEN_ENDS@]) compopt -o nospace 2>/dev/null ;; esac
    fi
    return 0
}

complete -F _rescompile_completion rescompile
"""

_ZSH = r"""
#compdef rescompile

_rescompile() {
    local answer code word help entry
    local -a finished open
    answer=$(_RESCOMPILE_COMPLETE="${(j: :)words[1,CURRENT-1]} $PREFIX" "${words[1]}" 2>/dev/null)
    code=$?
    if (( code == @WANTS_FILES@ )); then
        if [[ $PREFIX == -*=* ]]; then compset -P '*='; fi
        _files
        return
    fi
    while IFS=$'\t' read -r word help; do
        if [[ -z $word ]]; then continue; fi
        entry=${word//:/\\:}
        if [[ -n $help ]]; then entry+=":$help"; fi
        if [[ $word == *[@OPEN_ENDS@] ]]; then open+=("$entry"); else finished+=("$entry"); fi
    done <<< "$answer"
    _describe -t values 'rescompile' finished -- open -S ''
}

if [[ ${zsh_eval_context[-1]} == loadautofunc ]]; then
    _rescompile "$@"
else
    compdef _rescompile rescompile
fi
"""

_FISH = r"""
function __rescompile_complete
    set --local line (commandline --cut-at-cursor --current-process | string collect)
    set --local answer (_RESCOMPILE_COMPLETE="$line" rescompile 2>/dev/null)
    if test $status = @WANTS_FILES@
        __fish_complete_path (commandline --current-token --cut-at-cursor | string replace --regex '^-[^=]*=' '')
    else
        string join \n -- $answer
    end
end

complete --command rescompile --no-files --arguments '(__rescompile_complete)'
"""

_NAMES = {"WANTS_FILES": str(WANTS_FILES), "OPEN_ENDS": OPEN_ENDS}


def _filled(script: str) -> str:
    """Return a script with the names of the protocol."""
    for name, value in _NAMES.items():
        script = script.replace(f"@{name}@", value)
    return script.lstrip()


#: By shell.
SCRIPTS: Mapping[str, str] = {
    shell: _filled(script) for shell, script in (("bash", _BASH), ("zsh", _ZSH), ("fish", _FISH))
}
