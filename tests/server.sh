# What tests/with-engine and tests/with-rie have in common; they source it. The server's name is in $server.

die() {
    echo "${0##*/}: $2" >&2
    exit "$1"
}

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${TRADEWIND_ENGINES:-$root/target/engines}
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

# fetch WHOLE COMMAND: runs COMMAND unless there is the file WHOLE, which it makes last.
fetch() {
    # Whatever fails in here ends the script, so what it says is left to the trap.
    trap 'die 69 "$server could not be fetched"' EXIT
    exec 9>"$cache/lock"
    flock 9
    [[ -e $1 ]] || "$2"
    exec 9>&-
    trap - EXIT
}

# Makes a venv of pinned packages in $home. It can't be moved once made, so a
# marker, $home/whole, is to say that all is there.
make_venv() {
    python3 -m venv --clear "$home"
    "$home/bin/pip" install --quiet --disable-pip-version-check "$@" >&2
}

# From below the range that the kernel hands out to clients, so that no
# connection takes the port before the server does.
free_port() {
    local port
    while port=$((20000 + RANDOM % 10000)); (: <>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    echo "$port"
}

stop() {
    trap '' INT TERM HUP
    kill "$pid" 2>/dev/null || true
    for _ in {1..50}; do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
}

no_server() {
    tail -n 30 "$log" >&2
    die 69 "$server $1; its log: $log"
}

# serve COMMAND CURL_ARGS...: has COMMAND serve until the script ends, and waits until curl succeeds.
serve() {
    find "$cache" -maxdepth 1 -mtime +1 \( -name '*.log' -o -name '*.pid' -o -name 'ministack-lambda-*' \) \
        -exec rm -r {} +
    log=$cache/$server-$port.log
    "$1" >"$log" 2>&1 </dev/null &
    pid=$!
    trap stop EXIT
    local deadline=$((SECONDS + 60))
    until curl --silent --noproxy '*' --max-time 2 --output /dev/null "${@:2}"; do
        kill -0 "$pid" 2>/dev/null || no_server "stopped while starting"
        ((SECONDS < deadline)) || no_server "did not answer within 60 s"
        sleep 0.1
    done
    # Had another process taken the port, ours would be gone by now.
    kill -0 "$pid" 2>/dev/null || no_server "stopped while starting"
}
