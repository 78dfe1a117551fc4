#!/bin/sh
# Write requirements.lock: every package of all extras, pinned, with SHA-256 hashes.
#
#   scripts/lock.sh UV_VERSION [--upgrade | --upgrade-package NAME]
#
# Universal: Python 3.11 and newer, Linux on x86-64 and arm64, macOS. No address of any package
# index is written. Versions younger than a week are left out: stolen releases are mostly found
# within days. Versions already in the file are kept unless --upgrade is given.
set -eu
cd "$(dirname "$0")/.."
uv_version=$1
shift

environment=.venv-lock
uv=$environment/bin/uv
if [ "$("$uv" --version 2>/dev/null | cut -d ' ' -f 2)" != "$uv_version" ]; then
    "${PYTHON:-python3}" -m venv "$environment"
    "$environment/bin/python" -m pip --quiet --disable-pip-version-check install "uv==$uv_version"
fi

# uv does not read pip's settings: hand it the mirror, if one is set.
for key in :env:.index-url global.index-url; do
    mirror=$("$environment/bin/python" -m pip config get "$key" 2>/dev/null || true)
    if [ -n "$mirror" ] && [ -z "${UV_DEFAULT_INDEX:-}" ]; then
        UV_DEFAULT_INDEX=$mirror
        export UV_DEFAULT_INDEX
    fi
done

"$uv" pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
    --generate-hashes --no-annotate --no-emit-index-url --exclude-newer "7 days" \
    --custom-compile-command "make lock" --quiet --output-file requirements.lock "$@"
echo "requirements.lock: $(grep -cE '^[A-Za-z0-9._-]+==' requirements.lock) packages."
