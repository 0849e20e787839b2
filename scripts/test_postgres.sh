#!/usr/bin/env bash
# A private PostgreSQL server for tests.
#
#   scripts/test_postgres.sh DIR         starts one with its files in DIR (made if missing, else empty) and prints
#                                        its URL, for NOVASTACK_TEST_POSTGRES
#   scripts/test_postgres.sh stop DIR    stops it; DIR may be removed then
#   scripts/test_postgres.sh again DIR   starts it again with the same data, port and URL
#
# It listens on a free port of 127.0.0.1, asks for a password, and offers TLS with a certificate for 127.0.0.1
# by the authority in DIR/ca.pem. It forgets what it has when the machine crashes (fsync is off). Installs
# postgresql by apt where it is missing. PostgreSQL does not run as root: then it runs as the user postgres.
set -euo pipefail

apt_install() {
  local sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  $sudo apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

# From a folder that any user may enter.
as_user() {
  if [ "$(id -u)" = 0 ]; then
    (cd / && runuser -u postgres -- "$@")
  else
    "$@"
  fi
}

bin() { find /usr/lib/postgresql -path '*/bin/initdb' -printf '%h\n' 2>/dev/null | sort -V | tail -1; }

start() {
  as_user "$(bin)/pg_ctl" --silent -D "$dir/data" -l "$dir/log" -w -t 60 start >&2 || { tail "$dir/log" >&2; exit 1; }
}

create() {
  [ -n "$(bin)" ] && command -v openssl >/dev/null || apt_install postgresql openssl
  mkdir -p "$dir"
  [ -z "$(ls -A "$dir")" ] || { echo "$dir is not empty" >&2; exit 1; }
  chmod 711 "$dir"
  [ "$(id -u)" != 0 ] || chown postgres "$dir"
  local password=test-password port
  as_user sh -c 'umask 077; printf "%s\n" "$1" >"$2"' sh "$password" "$dir/password"
  as_user "$(bin)/initdb" -D "$dir/data" -U novastack -A scram-sha-256 --pwfile "$dir/password" -E UTF8 \
    --locale=C.UTF-8 >/dev/null
  port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')

  as_user openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=novastack-test-authority \
    -keyout "$dir/ca.key" -out "$dir/ca.pem" 2>/dev/null
  as_user openssl req -newkey rsa:2048 -nodes -subj /CN=127.0.0.1 -keyout "$dir/data/server.key" \
    -out "$dir/server.csr" 2>/dev/null
  as_user sh -c 'echo "subjectAltName=IP:127.0.0.1,DNS:localhost" >"$1/server.ext"' sh "$dir"
  as_user openssl x509 -req -in "$dir/server.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca.key" -CAcreateserial -days 30 \
    -extfile "$dir/server.ext" -out "$dir/data/server.crt" 2>/dev/null

  as_user sh -c 'cat >>"$1/data/postgresql.conf"' sh "$dir" <<SETTINGS
listen_addresses = '127.0.0.1'
port = $port
unix_socket_directories = ''
ssl = on
fsync = off
full_page_writes = off
max_connections = 500
SETTINGS
  start
  echo "postgres://novastack:$password@127.0.0.1:$port/postgres"
}

case ${1-} in
  stop) dir=$(realpath "${2:?usage: $0 stop DIR}") && as_user "$(bin)/pg_ctl" --silent -D "$dir/data" -m immediate stop >&2 ;;
  again) dir=$(realpath "${2:?usage: $0 again DIR}") && start ;;
  "" | -*) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  *) dir=$(realpath -m "$1") && create ;;
esac
