#!/bin/sh
# Write requirements.lock, every package of all extras, and the images' parts of it: pinned, with
# SHA-256 hashes.
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

# lock OUTPUT INPUT [ARGUMENTS]...
lock() {
    output=$1
    input=$2
    shift 2
    "$uv" pip compile "$input" --universal --python-version 3.11 --generate-hashes --no-annotate \
        --no-emit-index-url --exclude-newer "7 days" --custom-compile-command "make lock" --quiet \
        --output-file "$output" "$@"
    echo "$output: $(grep -cE '^[A-Za-z0-9._-]+==' "$output") packages."
}

lock requirements.lock pyproject.toml --all-extras "$@"
# The images take the same versions: what was tested is what runs.
same="--constraint requirements.lock"
# shellcheck disable=SC2086 # two words
{
    lock images/train/requirements.lock pyproject.toml $same
    lock images/tools/requirements.lock images/tools/requirements.in $same
    lock images/kfp.lock images/kfp.in $same --no-deps
    lock images/build.lock images/build.in $same
}
# Tools of `make check-k8s`, in an environment of their own.
lock scripts/check-manifests.lock scripts/check-manifests.in "$@"
