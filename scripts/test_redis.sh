#!/usr/bin/env bash
# A private Redis for the tests: `test_redis.sh DIR` starts one in that directory, on a free port of 127.0.0.1 and
# without persistence, and prints its URL; `test_redis.sh stop DIR` ends it. Installs redis-server by apt where it
# is missing; the system's own service is not left running.
set -euo pipefail

if [ "${1:-}" = stop ] && [ $# = 2 ]; then
  pid=$(cat "$2/redis.pid" 2>/dev/null) || exit 0
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || exit 0
    sleep 0.1
  done
  echo "redis-server ($pid) does not end" >&2
  exit 1
fi
if [ $# != 1 ]; then
  echo "usage: $0 DIR | $0 stop DIR" >&2
  exit 2
fi

apt_install() {
  local sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

if ! command -v redis-server >/dev/null; then
  apt_install redis-server >&2
  # Debian starts what it installs.
  sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  { $sudo systemctl disable --now redis-server || $sudo service redis-server stop; } >/dev/null 2>&1 || true
fi

mkdir -p "$1"
dir=$(cd "$1" && pwd)
# The port is free now; somebody may take it before redis-server does: then the next one.
for _ in 1 2 3; do
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
  rm -f "$dir/redis.pid"
  redis-server --bind 127.0.0.1 --port "$port" --dir "$dir" --save '' --appendonly no --daemonize yes \
    --pidfile "$dir/redis.pid" --logfile "$dir/redis.log" >/dev/null
  for _ in $(seq 100); do
    if [ "$(redis-cli -h 127.0.0.1 -p "$port" ping 2>/dev/null)" = PONG ] && [ -s "$dir/redis.pid" ]; then
      echo "redis://127.0.0.1:$port"
      exit 0
    fi
    sleep 0.1
  done
done
tail -n 20 "$dir/redis.log" >&2
echo "redis-server did not answer within 10 seconds" >&2
exit 1
