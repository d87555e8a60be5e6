#!/bin/sh
# A night's work out of a database:
#
#   1. export what is new as a manifest,
#   2. look whether the run would work: AWS sign-in, models, devices, space,
#   3. transcribe until the morning,
#
# and then act on the exit code, which is also this script's own. It says nothing when all is well;
# else it mails what is to be done, by `mail` to MAILTO, or says it, which cron mails.
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
# what is done. Every night at 22:30:
#
#     audio-batch schedule install --at 22:30 -- nightly.sh

set -u

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
manifest=${MANIFEST:-$here/night.jsonl}
output=${OUTPUT:-$here/transcripts} # or s3://bucket/transcripts
log=${LOG:-$here/nightly.log}
talk=$here/nightly-talk.txt # what the last step said
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

# The report: standard error, or a mail.
report() {
    subject=$1
    if [ -n "$mailto" ] && command -v mail >/dev/null 2>&1; then
        { cat && printf '\nThe whole log: %s\n' "$log"; } | mail -s "audio-batch: $subject" "$mailto"
    else
        { printf '%s\n' "$subject" && cat && printf 'The whole log: %s\n' "$log"; } >&2
    fi
}

give_up() {
    tail -n 40 -- "$talk" | report "$2"
    exit "$1"
}

printf '==== %s\n' "$(date)" >>"$log"
if ! command -v audio-batch >"$talk" 2>&1; then
    give_up 127 "there is no audio-batch on PATH=$PATH"
fi

# ---- 1
code=0
audio-batch manifest from-sql --query-file "$query" --map "$columns" --prefix "$prefix" \
    -o "$manifest" >"$talk" 2>&1 || code=$?
cat -- "$talk" >>"$log"
[ "$code" -eq 0 ] || give_up "$code" "the database gave no manifest"
if [ ! -s "$manifest" ]; then
    echo "Nothing is new." >>"$log"
    exit 0
fi

# ---- 2
audio-batch doctor "$manifest" -o "$output" >"$talk" 2>&1 || code=$?
cat -- "$talk" >>"$log"
[ "$code" -eq 0 ] || give_up "$code" "the run would fail, nothing was begun"

# ---- 3. The log has all of it, what is said besides is short. A stop (Ctrl-C, a shutdown) reaches audio-batch too: wait for it to save
# its state.
trap : HUP INT TERM USR1 USR2
audio-batch run "$manifest" -o "$output" -y --until "$until" --timeout "$timeout" \
    --quiet --log-file "$log" "$@" >"$talk" 2>&1 || code=$?

case $code in
    0) ;; # every recording is done
    3) audio-batch status "$output" --failed 2>&1 | report "some recordings failed" ;;
    11) echo "That run goes on." | report "another run is at work in $output, this one did nothing" ;;
    130) ;; # the time was up: the next night goes on there
    2) give_up "$code" "a flag or a setting is wrong, nothing was begun" ;;
    4) give_up "$code" "the manifest $manifest is not valid, nothing was begun" ;;
    5) give_up "$code" "a model, a device, a sign-in or space is missing" ;;
    *) give_up "$code" "failed with exit code $code" ;;
esac
exit "$code"
