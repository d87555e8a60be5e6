#!/bin/sh
# A night's run that says nothing unless somebody has to do something: cron mails what it says.
#
#     night.sh [MANIFEST [OUTPUT_FOLDER [flags of `audio-batch run`]]]
#
# The whole talk goes to night.log in the output folder. The exit code is audio-batch's own.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
manifest=${1:-$here/manifest.json}
output=${2:-$here/out}
[ $# -eq 0 ] || shift
[ $# -eq 0 ] || shift
log=$output/night.log

say() { printf '%s\n' "$*" >&2; }

mkdir -p -- "$output"
# A stop (Ctrl-C, `timeout`, a scheduler, a shutdown) reaches audio-batch too: wait for it to save its state.
trap : HUP INT TERM USR1 USR2
code=0
audio-batch run "$manifest" -o "$output" -y "$@" >>"$log" 2>&1 || code=$?

case $code in
    0) ;; # every recording is done
    3)
        say "Some recordings failed, the others are done. What failed stays so until a run with"
        say "--retry-failed, or until the file has changed:"
        audio-batch status "$output" --failed >&2
        ;;
    11) say "Another run is at work in $output: this one did nothing." ;;
    130) say "The run was stopped. What was done is kept; the next run goes on from there." ;;
    *)
        case $code in
            2) say "A flag or a setting is wrong; nothing was begun." ;;
            4) say "The manifest $manifest is not valid; nothing was begun." ;;
            5) say "A model, a device or space is missing." ;;
            126 | 127) say "There is no audio-batch on this PATH: $PATH" ;;
            *) say "audio-batch failed with exit code $code." ;;
        esac
        say "The end of $log:"
        tail -n 20 -- "$log" >&2
        ;;
esac
exit "$code"
