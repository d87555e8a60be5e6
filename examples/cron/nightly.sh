#!/bin/sh
# A night's work out of a database:
#
#   1. tell the database what it was not told yet, export what is new as a manifest,
#   2. look whether the run would work: AWS sign-in, models, devices, space,
#   3. transcribe until the morning,
#
# and then act on the exit code, which is also this script's own. It says nothing when all is well;
# else it mails what is to be done, by `mail` to MAILTO, or says it, which cron mails.
#
# A row that makes no entry, or a recording that is missing, holds up no other: it is told at the
# end. What failed is told once, not every night.
#
#     nightly.sh [flags of `audio-batch run`]
#
# Change: the settings below. What is secret goes into nightly.env beside this file, which nobody
# else may read (chmod 600 nightly.env):
#
#     AUDIO_BATCH_DATABASE_URL=postgresql://transcriber:secret@db.example.org/media
#     AUDIO_BATCH_RESULTS_DB=$AUDIO_BATCH_DATABASE_URL
#
# With AUDIO_BATCH_RESULTS_DB each outcome is written back as it is there, and nightly.sql leaves out
# what is done. audio-batch is looked for in venv/bin beside this file, on PATH, and in ~/.local/bin.
# Every night at 22:30:
#
#     audio-batch schedule install --at 22:30 -- nightly.sh

set -u

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
manifest=${MANIFEST:-$here/night.jsonl}
fresh=$here/night-new.jsonl
unfinished=$here/nightly.unfinished # is there while a night's run has not come to its end
output=${OUTPUT:-$here/transcripts} # or s3://bucket/transcripts
log=${LOG:-$here/nightly.log}
talk=$here/nightly-talk.txt # what the last step said
rows=$here/nightly-rows.txt # those of the database that make no entry
query=$here/nightly.sql
columns=${COLUMNS_OF:-id=uuid,uri=s3_key,name=title}
prefix=${PREFIX:-s3://my-bucket/}
until=${UNTIL:-06:00}   # begin nothing that would not be done by then
timeout=${TIMEOUT:-2h}  # the most that one recording may take
mailto=${MAILTO:-}

if [ -f "$here/nightly.env" ]; then
    set -a # so that programs get them
    . "$here/nightly.env"
    set +a
fi
# The PATH of cron and systemd is short.
PATH=$here/venv/bin:$PATH${HOME:+:$HOME/.local/bin}
export PATH

# The report: standard error, or a mail, with the rows that were left out.
report() {
    subject=$1
    if [ -s "$rows" ]; then
        { cat && printf '\nRows of the database that make no entry:\n' && cat -- "$rows"; } | tell
    else
        tell
    fi
}

tell() {
    if [ -n "$mailto" ] && command -v mail >/dev/null 2>&1; then
        { cat && printf '\nThe whole log: %s\n' "$log"; } | mail -s "audio-batch: $subject" "$mailto"
    else
        { printf '%s\n' "$subject" && cat && printf 'The whole log: %s\n' "$log"; } >&2
    fi
}

# What a night with nothing else to tell ends with.
leave() {
    [ -s "$rows" ] || exit "$1"
    echo "All others went their way." | report "rows of the database cannot be used"
    [ "$1" -ne 0 ] || exit 3
    exit "$1"
}

give_up() {
    tail -n 40 -- "$talk" | report "$2"
    exit "$1"
}

printf '==== %s\n' "$(date)" >>"$log"
rm -f -- "$rows"
if ! command -v audio-batch >"$talk" 2>&1; then
    give_up 127 "there is no audio-batch on PATH=$PATH"
fi

# ---- 1. What the database was not told last night it would offer, or hold back, for ever. Before
# the first night there is no table and no run; where it is down, the export says so.
if [ -n "${AUDIO_BATCH_RESULTS_DB:-}" ]; then
    audio-batch results create >>"$log" 2>&1
    audio-batch results push "$output" >>"$log" 2>&1
fi
code=0
audio-batch manifest from-sql --query-file "$query" --map "$columns" --prefix "$prefix" \
    --skip-invalid -o "$fresh" >"$talk" 2>&1 || code=$?
cat -- "$talk" >>"$log"
case $code in
    0) ;;
    3) mv -f -- "$talk" "$rows" ;; # the others are written
    *) give_up "$code" "the database gave no manifest" ;;
esac
if [ -s "$fresh" ]; then
    mv -f -- "$fresh" "$manifest" || give_up 5 "the manifest $manifest cannot be written"
elif [ -e "$unfinished" ] && [ -s "$manifest" ]; then
    echo "Nothing is new, and the last night's run goes on." >>"$log"
else
    echo "Nothing is new." >>"$log"
    leave 0
fi

# ---- 2. With the same flags as the run.
code=0
audio-batch doctor "$manifest" -o "$output" --allow-missing "$@" >"$talk" 2>&1 || code=$?
cat -- "$talk" >>"$log"
[ "$code" -eq 0 ] || give_up "$code" "the run would fail, nothing was begun"

# ---- 3. The log has all of it, what is said besides is short. A stop may come to this shell alone:
# it is handed on, and the run's state is waited for. (To what is begun with & Ctrl-C means nothing.)
run=
stopped=0
trap 'stopped=1; kill -TERM $run 2>/dev/null' HUP INT TERM
trap 'stopped=1; kill -USR1 $run 2>/dev/null' USR1 USR2
: >"$unfinished"
audio-batch run "$manifest" -o "$output" -y --until "$until" --timeout "$timeout" \
    --allow-missing --quiet --log-file "$log" "$@" >"$talk" 2>&1 &
run=$!
while :; do
    stopped=0
    code=0
    wait "$run" || code=$?
    # A signal ends `wait`, not the run.
    [ "$stopped" -eq 1 ] || break
done
case $code in 0 | 3) rm -f -- "$unfinished" ;; esac

case $code in
    0) leave 0 ;; # every recording is done
    3)
        if audio-batch status "$output" --new-failures >"$talk" 2>&1; then
            echo "No new failures; those from before: audio-batch status $output --failed" >>"$log"
            leave 3
        fi
        report "some recordings failed" <"$talk"
        ;;
    11) echo "That run goes on." | report "another run is at work in $output, this one did nothing" ;;
    130) leave 130 ;; # the time was up: the next night goes on there
    2) give_up "$code" "a flag or a setting is wrong, nothing was begun" ;;
    4) give_up "$code" "the manifest $manifest is not valid, nothing was begun" ;;
    5) give_up "$code" "a model, a device, a sign-in or space is missing" ;;
    *) give_up "$code" "failed with exit code $code" ;;
esac
exit "$code"
