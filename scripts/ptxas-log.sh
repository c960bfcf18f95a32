#!/bin/sh
# ptxas-log.sh NVCC ARGUMENTS...: runs it and keeps what it says in OBJECT.ptxas, where check-cuda-build.mjs reads
# registers, spills and stack frames. CMake puts it before nvcc.
previous='' object=''
for argument; do
  [ "$previous" = -o ] && object=$argument
  previous=$argument
done
"$@" 2>"$object.ptxas"
code=$?
grep -Ev '^ptxas info|bytes stack frame|^$' "$object.ptxas" >&2
exit $code
