#!/bin/sh
# Serves a pool to whoever reaches this machine: for a container. NEGMERGE_AUTH names a file with one user:password a
# line; without it anybody may look, and the app is read only. Further options go to `negmerge demo`.
set -eu
if [ -n "${NEGMERGE_AUTH:-}" ]; then
    set -- --auth "$NEGMERGE_AUTH" "$@"
else
    set -- --public "$@"
fi
# On a Space gradio would watch for changes of its files and ask the Hub for news.
unset SYSTEM SPACE_ID
exec negmerge demo --pool "${NEGMERGE_POOL:-/srv/negmerge/pool}" --host 0.0.0.0 --port "${PORT:-7860}" "$@"
