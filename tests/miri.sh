#!/usr/bin/env bash
# Runs tests under Miri, the interpreter of the compiler's own intermediate code: it finds undefined
# behaviour in the rooms that hold `unsafe` (areas and frames of shared memory, latches, futexes) and
# bytes that two threads reach with nothing that orders them, on a memory that reorders more than this
# processor does.
#
#   tests/miri.sh                 all that is meant for it; a minute
#   tests/miri.sh WORD...         what `cargo miri test` is to run instead: -p rd-base --lib
#
# It needs a nightly compiler with Miri: rustup toolchain install nightly --component miri,rust-src.
# Miri has no shared mappings, no ppoll, no fork and no coroutines: memory from the heap stands for a
# segment (shared/sys/src/heap.rs), and events, processes and simulations are not for it.
set -euo pipefail
cd "$(dirname "$0")/.."

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/miri
export MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS:-}"

run() { cargo +nightly miri test "$@"; }
if [ $# -gt 0 ]; then
    run "$@"
    exit
fi
run -p rd-sys --lib -- frame:: latch:: shm::
