# Completion of multidb for bash. Written by `multidb completion bash`.
# multidb is run with the line so far and prints what may stand next; nothing that it prints is evaluated.
_multidb() {
  local line how='' program=${1/#\~\//$HOME/}
  COMPREPLY=()
  while IFS= read -r line; do
    if [ -z "$how" ]; then
      how=$line
    else
      COMPREPLY+=("${line%%$'\t'*}")
    fi
  done < <(_MULTIDB_COMPLETE=bash _MULTIDB_LINE="${COMP_LINE:0:COMP_POINT}" _MULTIDB_BREAKS="$COMP_WORDBREAKS" \
    "$program" 2>/dev/null)
  if [ "$how" = files ]; then
    compopt -o default 2>/dev/null
  fi
}
complete -F _multidb multidb
