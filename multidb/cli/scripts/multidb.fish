# Completion of multidb for fish. Written by `multidb completion fish`.
# multidb is run with the words so far and prints what may stand next; nothing that it prints is evaluated.
function __multidb_complete
    set -l before (commandline -opc)
    set -l current (commandline -ct)
    set -l program (string replace -r '^~/' "$HOME/" -- $before[1])
    set -l words (string join \n -- $before | string collect)
    set -l lines (_MULTIDB_COMPLETE=fish _MULTIDB_WORDS="$words" _MULTIDB_WORD="$current" $program 2>/dev/null)
    if test "$lines[1]" = files
        __fish_complete_path "$current"
    else
        printf '%s\n' $lines[2..-1]
    end
end
complete -c multidb -f -k -a '(__multidb_complete)'
