#!/bin/sh
# Check the manifests in k8s/ and the Dockerfiles in images/, without a cluster and offline.
#
#   scripts/check-manifests.sh             this repository
#   scripts/check-manifests.sh FOLDER      another folder with k8s/ or images/ in it (a test's)
#   PYTHON=/path/to/python3.12             the Python to build .venv-checks with
#
# One line per tool where all is well; all findings and exit code 1 where not. What is not followed
# stands in .checkov.yaml and .hadolint.yaml, with its reason. References, selectors and the like
# are checked by tests/unit/k8s/test_manifests.py.
#
# The tools live in .venv-checks, made once from the hash-pinned scripts/check-manifests.lock.
set -eu
cd "$(dirname "$0")/.."
here=$(pwd)
venv=$here/.venv-checks
lock=$here/scripts/check-manifests.lock
stamp=$venv/.epg-lock # a copy of the lock file, written when everything is installed
kubernetes=1.34

# Kinds without a schema in kubernetes-validate; any other unknown kind is a mistake.
custom='PodMonitor|PrometheusRule'

fail() {
    echo "check-manifests: $*" >&2
    exit 2
}

set_up() {
    python=${PYTHON:-python3}
    "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
        fail "$python is not a Python 3.11 or newer with its venv module: set PYTHON=/path/to/python3.12"
    echo "Setting up $(basename "$venv"): $(grep -cE '^[A-Za-z0-9._-]+==' "$lock") packages, 450 MB on disk, a minute or two."
    rm -rf "$venv"
    "$python" -m venv "$venv" || fail "$python could not make $venv"
    "$venv/bin/python" -m pip --disable-pip-version-check --no-input install --progress-bar off \
        --require-hashes --only-binary :all: -r "$lock" >"$venv/setup.log" 2>&1 || {
        tail -n 15 "$venv/setup.log" >&2
        fail "pip failed (all of it in $venv/setup.log)"
    }
    cp "$lock" "$stamp"
}

# Settings meant for other installations would send the packages elsewhere.
unset PYTHONHOME PYTHONPATH PIP_TARGET PIP_PREFIX PIP_ROOT PIP_USER VIRTUAL_ENV || true
cmp -s "$lock" "$stamp" || set_up

cd "${1:-.}"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0

# report TOOL SUMMARY: what $work/TOOL says is wrong, or the summary.
report() {
    if [ -s "$work/$1" ]; then
        echo "$1:" >&2
        sed 's/^/  /' "$work/$1" >&2
        status=1
    else
        echo "$1: $2"
    fi
}

# --- Manifests as they lie, and the overlays as kustomize builds them --------------------------

manifests=$(find k8s -name '*.yaml' ! -name kustomization.yaml ! -path 'k8s/rules/*' 2>/dev/null | sort)
overlays=$(find k8s -name kustomization.yaml -exec dirname {} \; 2>/dev/null | sort)
built=
: >"$work/kustomize"
if [ -n "$overlays" ] && command -v kubectl >/dev/null; then
    mkdir "$work/built"
    for overlay in $overlays; do
        kubectl kustomize --load-restrictor LoadRestrictionsNone "$overlay" \
            >"$work/built/$(basename "$overlay").yaml" 2>>"$work/kustomize" ||
            echo "$overlay cannot be built" >>"$work/kustomize"
    done
    built=$(find "$work/built" -name '*.yaml' | sort)
    report kustomize "$(echo "$overlays" | wc -l | tr -d ' ') overlays built"
elif [ -n "$overlays" ]; then
    echo "kustomize: overlays are not built, kubectl is not installed"
fi

if [ -n "$manifests" ]; then
    # shellcheck disable=SC2086 # a list of our own file names
    "$venv/bin/kubernetes-validate" --strict -k "$kubernetes" $manifests $built >"$work/validated" 2>&1 ||
        echo "exit code $?" >>"$work/validated"
    # It passes over a kind that it does not know, with a warning.
    grep -vE "^INFO |^WARN .* schema for kind ($custom) with api version monitoring.coreos.com/v1 " \
        "$work/validated" >"$work/kubernetes-validate" || true
    report kubernetes-validate "$(grep -c '^INFO ' "$work/validated") objects fit Kubernetes $kubernetes"
fi

# --- Policies ----------------------------------------------------------------------------------

folders=
for folder in k8s images; do
    [ ! -d "$folder" ] || folders="$folders -d $folder"
done
[ ! -d "$work/built" ] || folders="$folders -d $work/built"
[ -n "$folders" ] || fail "there is neither k8s/ nor images/ in $(pwd)"
# shellcheck disable=SC2086 # options
"$venv/bin/checkov" --config-file "$here/.checkov.yaml" $folders >"$work/checkov" 2>&1 ||
    echo "exit code $?" >>"$work/checkov"
passed=$(awk '/^Passed checks: / { n += $3 } END { print n + 0 }' "$work/checkov")
[ "$passed" -gt 0 ] || echo "nothing was checked" >>"$work/checkov"
if ! grep -qE '^(Check: |exit code |nothing )' "$work/checkov"; then
    : >"$work/checkov"
fi
report checkov "$passed checks passed"

# --- Dockerfiles -------------------------------------------------------------------------------

dockerfiles=$(find images -name Dockerfile 2>/dev/null | sort)
if [ -n "$dockerfiles" ]; then
    # shellcheck disable=SC2086 # a list of our own file names
    "$venv/bin/hadolint" --no-color --config "$here/.hadolint.yaml" $dockerfiles >"$work/hadolint" 2>&1 ||
        [ -s "$work/hadolint" ] || echo "failed without a word" >"$work/hadolint"
    report hadolint "$(echo "$dockerfiles" | wc -l | tr -d ' ') Dockerfiles"
fi

exit "$status"
