#!/bin/sh
# Put the package with its data path compiled, and its programs, into build/compiled.
#
#   compile.sh            do it
#   compile.sh possible   do nothing; the status says whether it could be done
set -eu
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python
home=build/compiled
if ! command -v cc >/dev/null || ! "$python" -c 'import os, sysconfig
os.stat(sysconfig.get_path("include") + "/Python.h")' 2>/dev/null; then
    echo "compile: a C compiler and Python's headers are needed (Debian: gcc, python3-dev)"
    exit 1
fi
if [ "${1:-}" = possible ]; then
    exit 0
fi
echo "compile: one to three minutes"
rm -rf $home build/lib* build/temp*
log=build/compile.log
mkdir -p $home/bin
if ! QMPFLEECE_COMPILE=1 "$python" setup.py build --build-lib $home >$log 2>&1; then
    tail -n 20 $log
    exit 1
fi
"$python" -m compileall -q $home/qmpfleece
case $python in
*[[:space:]]*) # no interpreter's path has one: a line that is a string to Python has it started
    first="#!/bin/sh
'''exec' \"$python\" \"\$0\" \"\$@\"
' '''" ;;
*) first="#!$python" ;;
esac
while read -r name module function; do
    cat >"$home/bin/$name" <<END
$first
import sys

sys.path.insert(0, "$PWD/$home")  # before the checkout
from qmpfleece.cli.$module import $function

sys.exit($function())
END
    chmod +x "$home/bin/$name"
done <<END
qmpfleece main main
qmpfleece-qsd programs qsd
qmpfleece-qemu programs qemu
END
touch $home/.done
