#!/bin/sh
# Set up what make's targets need; does nothing when everything is there.
#
#   setup.sh python run   .venv with the package, editable
#   setup.sh python dev   the same with the tools for development
#   setup.sh tools        the programs that the tests run, as Debian's packages
#
# Packages come through apt, as root or through sudo. Where that is not possible the script
# says what to install; the tests that need a missing program are skipped and say so.
set -eu
cd "$(dirname "$0")/.."
VENV=.venv

say() { echo "setup: $*"; }

# Print the command prefix that may install packages; fail when there is none.
root_prefix() {
    command -v apt-get >/dev/null || return 1
    if [ "$(id -u)" = 0 ]; then
        echo env
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        echo sudo
    else
        return 1
    fi
}

# Install the given packages; fail, having said what to do, when that is not possible.
install() {
    if ! prefix=$(root_prefix); then
        say "missing, and this user cannot install packages; as root, run:"
        say "    apt-get update && apt-get install --no-install-recommends $*"
        return 1
    fi
    say "installing $*"
    $prefix apt-get update -q &&
        $prefix env DEBIAN_FRONTEND=noninteractive \
            apt-get install -q -y --no-install-recommends "$@" || {
        say "apt-get failed; needed: $*"
        return 1
    }
}

# Print the first Python that is new enough and passes the given check. The distribution's comes
# first: it is built with profile feedback, and runs this program 1.3 to 1.5 times as fast as one
# that pyenv or a plain ./configure has made. PYTHON=... chooses another.
find_python() {
    for name in ${PYTHON:-/usr/bin/python3 python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$name" -c "import sys; sys.version_info >= (3, 11) or sys.exit(1)
$1" 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

setup_python() {
    if [ ! -x $VENV/bin/python ] || ! $VENV/bin/python -c 'import pip' 2>/dev/null; then
        if ! python=$(find_python 'import ensurepip, venv'); then
            install python3 python3-venv || exit 1
            python=$(find_python 'import ensurepip, venv') || {
                say "no Python 3.11 or later with the module venv was found"
                exit 1
            }
        fi
        say "making $VENV with $("$python" --version)"
        "$python" -m venv $VENV
    fi
    case $1 in
    run) what=. ;;
    dev) what='.[dev]' ;;
    *) say "unknown set-up: $1" && exit 2 ;;
    esac
    say "installing $what into $VENV"
    # "compat": a path, not an import hook that would cost each start of a program 15 ms.
    $VENV/bin/python -m pip install -q --disable-pip-version-check \
        --config-settings editable_mode=compat -e "$what"
    $VENV/bin/python -m compileall -q qmpfleece # the first start is then as fast as the others
    touch "$VENV/.$1"
    if [ "$1" = dev ]; then touch "$VENV/.run"; fi
}

setup_tools() {
    packages=
    while read -r package programs; do
        for program in $programs; do
            command -v "$program" >/dev/null || case " $packages " in
            *" $package "*) ;;
            *) packages="$packages $package" ;;
            esac
        done
    done <<END
qemu-system-x86 qemu-system-x86_64
qemu-system-common qemu-storage-daemon
qemu-utils qemu-img qemu-io qemu-nbd
nbdkit nbdkit
libnbd-bin nbdinfo nbdcopy
fio fio
END
    # shellcheck disable=SC2086  # the list is meant to be split
    if [ -n "$packages" ] && ! install $packages; then
        say "going on without:$packages; tests that need them are skipped"
    fi
}

case ${1:-} in
python) setup_python "${2:-dev}" ;;
tools) setup_tools ;;
*) say "usage: $0 python run|dev, $0 tools" && exit 2 ;;
esac
