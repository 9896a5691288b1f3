#compdef multidb
# Completion of multidb for zsh. Written by `multidb completion zsh`.
# multidb is run with the words so far and prints what may stand next; nothing that it prints is evaluated.
_multidb() {
  local line how='' tab=$'\t' program=${words[1]/#\~\//$HOME/}
  local -a before candidates
  before=("${(@Q)words[1,CURRENT-1]}")
  while IFS= read -r line; do
    if [[ -z $how ]]; then
      how=$line
    elif [[ $line == *$tab ]]; then
      candidates+=("${line%$tab}")
    else
      candidates+=("${line/$tab/:}")
    fi
  done < <(_MULTIDB_COMPLETE=zsh _MULTIDB_WORDS="${(pj:\n:)before}" _MULTIDB_WORD="${(Q)PREFIX}" "$program" 2>/dev/null)
  if [[ $how == files ]]; then
    _files
  elif (( ${#candidates} )); then
    _describe -V multidb candidates
  fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _multidb "$@"
else
  compdef _multidb multidb
fi
