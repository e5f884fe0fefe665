#!/usr/bin/env bash
# Runs tests whose threads share memory under ThreadSanitizer: it finds bytes that two threads reach,
# one of them writing, with nothing that orders them.
#
#   tests/thread_sanitizer.sh              all that is meant for it; ten minutes on two cores
#   tests/thread_sanitizer.sh WORD...      what `cargo test` is to run instead: -p rd-store --lib wal::
#
# It needs a nightly compiler (rustup toolchain install nightly) and a C compiler. Tests that fork are
# not for it: its own thread does not survive a fork.
set -euo pipefail
cd "$(dirname "$0")/.."

host=$(rustc +nightly -vV | sed -n 's/^host: //p')
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-target}/thread_sanitizer
mkdir -p "$CARGO_TARGET_DIR"
shim=$(cd "$CARGO_TARGET_DIR" && pwd)/locks

# The standard library comes built without the sanitizer. What its locks order is seen where that code is
# inlined into ours, and must be told where it is not: when a lock was contended, and when a scoped
# thread ends.
std=$(rustc +nightly --print target-libdir)/libstd-*.so
symbols=$(nm -D --defined-only $std | awk '{print $3}')
links=()
wrap() { # PATTERN C-CODE, in which ORIGINAL is the function
    local symbol
    symbol=$(grep -E "$1" <<<"$symbols") || { echo "the standard library has no $1" >&2; exit 1; }
    echo "${2//ORIGINAL/$symbol}"
    links+=("-Clink-arg=-Wl,--wrap=$symbol")
}
{
    echo 'void __tsan_acquire(void *); void __tsan_release(void *);'
    for lock in '5mutex.*14lock_contended' '6rwlock.*14read_contended' '6rwlock.*15write_contended'; do
        wrap "$lock" 'void __real_ORIGINAL(void *); void __wrap_ORIGINAL(void *lock) {
            __real_ORIGINAL(lock); __tsan_acquire(lock); }'
    done
    # Which of its first two words counts the threads is up to the compiler.
    wrap '6scoped.*29decrement_num_running_threads' 'void __real_ORIGINAL(char *, _Bool);
        void __wrap_ORIGINAL(char *scope, _Bool panicked) {
            __tsan_release(scope); __tsan_release(scope + 8); __real_ORIGINAL(scope, panicked); }'
} >"$shim.c"
cc -O1 -c "$shim.c" -o "$shim.o"

export RUSTFLAGS="-Zsanitizer=thread -Cunsafe-allow-abi-mismatch=sanitizer -Clink-arg=$shim.o ${links[*]}"
# A backtrace is made by code that the sanitizer does not see.
export RUST_BACKTRACE=0 CARGO_INCREMENTAL=0
export TSAN_OPTIONS="history_size=7 suppressions=$PWD/tests/thread_sanitizer.supp ${TSAN_OPTIONS:-}"

run() { cargo +nightly test --target "$host" "$@"; }
if [ $# -gt 0 ]; then
    run "$@"
    exit
fi
crates=()
for crate in base sys format store engine wire walwriter checkpointer backend; do
    crates+=(-p "rd-$crate")
done
run --no-fail-fast "${crates[@]}" --lib
run --no-fail-fast -p rd-engine --test stress --test namespace_stress --test transaction_stress
