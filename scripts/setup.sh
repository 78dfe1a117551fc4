#!/bin/sh
# Make the virtual environment that every `make` target uses, or find it in place.
#
#   scripts/setup.sh            the environment of requirements.lock, and this package in it
#   PYTHON=/path/to/python3.12  the Python to build it with
#   VENV=/path/to/folder        where it lies (default .venv)
#
# In place, a call costs a few hundredths of a second. A set-up that was interrupted is begun
# again from nothing by the next call: a half-installed package cannot be told from a whole one.
# pip does the work, not a faster tool, since pip knows the mirrors that its user has set.
set -eu
cd "$(dirname "$0")/.."

venv=${VENV:-.venv}
packages_stamp=$venv/.epg-packages  # the lock file whose packages are in it
package_stamp=$venv/.epg-package    # the pyproject.toml and the folder it serves
unfinished=$venv/.epg-unfinished    # there while packages are being installed
log=$venv/setup.log
pip_process=

packages_now() { cksum <requirements.lock; }
package_now() { pwd && cksum <pyproject.toml; }

packages_in_place() {
    [ ! -e "$unfinished" ] && [ "$(cat "$packages_stamp" 2>/dev/null)" = "$(packages_now)" ] &&
        "$venv/bin/python" -c '' 2>/dev/null
}

package_in_place() {
    [ "$(cat "$package_stamp" 2>/dev/null)" = "$(package_now)" ]
}

fail() {
    echo "epg set-up: $*" >&2
    exit 2
}

# --- A Python that will do -----------------------------------------------------------------

version_ok='import sys; sys.exit(not (3, 11) <= sys.version_info[:2])'

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        "$PYTHON" -c "$version_ok" 2>/dev/null ||
            fail "PYTHON=$PYTHON is not a Python 3.11 or newer that runs."
        echo "$PYTHON"
        return
    fi
    # python3 last: a name that exists may still be a shim that does not run.
    for candidate in python3.13 python3.12 python3.11 python3; do
        if "$candidate" -c "$version_ok" >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found. Install one (Debian, Ubuntu: 'apt install python3 python3-venv'; Fedora: 'dnf install python3.13'; macOS: 'brew install python@3.13') or call 'make PYTHON=/path/to/python3.13'."
}

# --- One set-up at a time ------------------------------------------------------------------

# Takes the lock and runs this script again under it. The kernel lets go of the lock when the last
# process that holds it ends, pip included: one that was killed leaves nothing behind, and nobody
# deletes an environment that an orphaned pip still writes to.
lock_and_run='
import fcntl, os, sys
lock_path, venv, script = sys.argv[1:]
try:
    lock = os.open(lock_path, os.O_RDWR | os.O_CREAT, 0o644)
except OSError as error:
    sys.exit(f"epg set-up: cannot write {lock_path}: {error.strerror}.")
os.set_inheritable(lock, True)
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print(f"Waiting for another set-up of {venv}.", flush=True)
    fcntl.flock(lock, fcntl.LOCK_EX)
os.execv("/bin/sh", ["sh", script, "--locked"])
'

# --- pip, quietly --------------------------------------------------------------------------

# Shows the seconds and what pip is at, on a terminal; nothing but the log elsewhere.
pip_install() {
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input install \
        --progress-bar off --no-warn-script-location "$@" >"$log" 2>&1 &
    pip_process=$!
    if [ -t 1 ]; then
        while kill -0 "$pip_process" 2>/dev/null; do
            doing=$(grep -oE '^(Collecting|Installing|Building|Downloading|Using cached)[^(]*' "$log" 2>/dev/null |
                tail -n 1 | cut -c 1-60)
            printf '\r\033[K  %s s  %s' "$(($(date +%s) - started))" "$doing"
            sleep 1
        done
        printf '\r\033[K'
    fi
    status=0
    wait "$pip_process" || status=$?
    pip_process=
    [ "$status" -eq 0 ] && return
    tail -n 15 "$log" >&2
    fail "pip failed (all of it in $log). Mend the cause and call make again."
}

# --- The work ------------------------------------------------------------------------------

if packages_in_place && package_in_place; then
    exit 0
fi
if [ "${1:-}" != --locked ]; then
    python=$(find_python)
    exec "$python" -c "$lock_and_run" "$venv.lock" "$venv" scripts/setup.sh
fi

stop_pip() {
    echo
    [ -z "$pip_process" ] || kill "$pip_process" 2>/dev/null || true
    echo "epg set-up: interrupted; the next call begins again." >&2
    exit 130
}
trap stop_pip INT TERM HUP

# Settings meant for other installations would send the packages elsewhere.
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_ROOT VIRTUAL_ENV || true
PIP_USER=0
export PIP_USER

# Everything of the lock file; once it is there, a failure further on does not cost it again.
install_packages() {
    if [ -e "$unfinished" ] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        python=$(find_python)
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            fail "$python has no venv module. Install it (Debian, Ubuntu: 'apt install python3-venv') and call make again."
        [ ! -d "$venv" ] || rm -rf "$venv"
        "$python" -m venv "$venv" || fail "$python could not make $venv."
    fi
    : >"$unfinished"
    rm -f "$packages_stamp"

    size="about 1 GB"
    not_here="sys_platform == '(win32|emscripten|linux)'"
    if [ "$(uname -s)" = Linux ]; then
        size="about 3 GB to download, 6 GB on disk (torch with CUDA)"
        not_here="sys_platform == '(win32|emscripten)'"
    fi
    count=$(grep -E '^[A-Za-z0-9._-]+==' requirements.lock | grep -cvE "$not_here")
    echo "Setting up $venv: $count packages, $size, a few minutes. Log: $log"

    # One package of the lock file has no wheel; it is built with the lock's own setuptools, not
    # with whatever is newest, hence setuptools first and no build isolation.
    awk '/^[^ #]/ { keep = /^setuptools==/ } keep' requirements.lock >"$venv/.epg-setuptools.txt"
    pip_install --require-hashes -r "$venv/.epg-setuptools.txt"
    pip_install --require-hashes --no-build-isolation --use-pep517 -r requirements.lock

    packages_now >"$packages_stamp"
    rm -f "$unfinished" "$venv/.epg-setuptools.txt"
    echo "Set up in $(($(date +%s) - started)) s."
}

install_package() {
    rm -f "$package_stamp"
    pip_install --no-deps --no-build-isolation --editable .
    package_now >"$package_stamp"
}

started=$(date +%s)
packages_in_place || install_packages # not, if the call that this one waited for has done it
package_in_place || install_package
