#!/bin/sh
# A night with a database: what is new goes in, what became of it goes back.
#
#     export AUDIO_BATCH_DATABASE_URL='postgresql://night:${PGPASSWORD}@db.example/archive'
#     PGPASSWORD=… ./night.sh [SHELF [flags of `audio-batch run`]]
#
# Without a URL it is archive.db here, an SQLite database. The exit code is audio-batch's own.
set -eu

cd -- "$(dirname -- "$0")"
: "${AUDIO_BATCH_DATABASE_URL:=sqlite:///archive.db}"
AUDIO_BATCH_RESULTS_DB=$AUDIO_BATCH_DATABASE_URL
export AUDIO_BATCH_DATABASE_URL AUDIO_BATCH_RESULTS_DB
shelf=${1:-3}
[ $# -eq 0 ] || shift

# The first night's query asks the table, too. It is left as it is where it is there.
audio-batch results create
audio-batch manifest from-sql --query-file new.sql --param "shelf=$shelf" --out new.jsonl
if [ ! -s new.jsonl ]; then
    # What the database could not be told last time is due all the same.
    [ ! -d out ] || exec audio-batch results push out
    exit 0
fi
exec audio-batch run new.jsonl --config ../audio-batch.toml --root ../audio -o out -y "$@"
