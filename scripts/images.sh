#!/bin/sh
# Build the container images, with docker or podman.
#
#   scripts/images.sh [train] [tools]      which ones; default both
#   IMAGE_PREFIX=registry.example/team/    before the names epg-train and epg-tools
#   IMAGE_TAG=0.2.0-3f2a91c04b7d           default: the version of this package
#   BASE=NAME                              base image: a mirror's, or one with a site's certificates
#   ENGINE=podman                          default: docker where it answers, else podman
#   BUILD_ARGS="--network host"            more arguments for the engine's build command
#   PUSH=1                                 push what was built
set -eu
cd "$(dirname "$0")/.."

fail() {
    echo "images: $*" >&2
    exit 2
}

engine=${ENGINE:-}
if [ -z "$engine" ]; then
    for candidate in docker podman; do
        if "$candidate" info >/dev/null 2>&1; then
            engine=$candidate
            break
        fi
    done
    [ -n "$engine" ] || fail "neither docker nor podman answers: start one, or name it by ENGINE="
fi
"$engine" info >/dev/null 2>&1 || fail "$engine does not answer: is its service running?"
# Without buildx a newer docker client refuses to build, unless told to use the old builder.
if [ "$engine" = docker ] && ! docker buildx version >/dev/null 2>&1; then
    DOCKER_BUILDKIT=0
    export DOCKER_BUILDKIT
fi

# podman's own format has no health checks.
format=
[ "$engine" != podman ] || format="--format docker"

version=$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)
commit=$(git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
tag=${IMAGE_TAG:-$version}
[ "$tag" != latest ] || fail "IMAGE_TAG=latest: Kubernetes would pull it at every start, and nobody knows what it holds; use a version or a commit"
[ $# -gt 0 ] || set -- train tools

for name in "$@"; do
    [ -f "images/$name/Dockerfile" ] || fail "no image $name: there are train and tools"
    image=${IMAGE_PREFIX:-}epg-$name:$tag
    echo "building $image (commit $commit)"
    # shellcheck disable=SC2086 # format and BUILD_ARGS are words
    "$engine" build $format --file "images/$name/Dockerfile" --tag "$image" \
        --build-arg "VERSION=$version" --build-arg "COMMIT=$commit" \
        ${BASE:+--build-arg "BASE=$BASE"} ${BUILD_ARGS:-} .
    [ -z "${PUSH:-}" ] || "$engine" push "$image"
done

echo
echo "Built. A run takes them by its parameters:"
echo "  epg submit image=${IMAGE_PREFIX:-}epg-train:$tag tools_image=${IMAGE_PREFIX:-}epg-tools:$tag recipe=digits"
