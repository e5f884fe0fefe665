#!/usr/bin/env bash
# Spoils the server on purpose, one line at a time, and sees that the tests notice.
#
#   tests/sabotage.sh            all of them
#   tests/sabotage.sh NAME...    these (names of files in tests/sabotage, without .patch)
#   tests/sabotage.sh --list     says what there is
#   tests/sabotage.sh --check    says, without building anything, whether each still applies, and its test is there
#   tests/sabotage.sh --trust    does not first see the tests pass
#
# Each patch in tests/sabotage says what it spoils and which test must fail for it. It is applied to a
# copy of the tree, never to the tree itself. Every named test is first seen to pass without it.
# SABOTAGE_TARGET names a directory for what is built, to be kept for the next run.
#
# Ends with 0 if every sabotage was caught by its test, and with 1 if one survived, or something else failed.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
patches=$root/tests/sabotage
# A test that takes longer hangs, and has not caught anything.
limit=${SABOTAGE_LIMIT:-600}

field() { sed -n "s/^$1: //p" "$patches/$2.patch" | head -1; }

# Whether each patch applies to the tree as it is, and names a test that there is.
check() {
    local name word broken=0
    for patch in "$patches"/*.patch; do
        name=$(basename "$patch" .patch)
        if ! git apply --check "$patch"; then
            echo "$name does not apply" >&2
            broken=1
        fi
        word=$(field test "$name")
        word=${word##* }
        if [ "$word" != rd_sim ] && ! git grep -q --untracked -E "fn ${word##*::}\(" -- '*.rs'; then
            echo "$name names a test that is not there: $word" >&2
            broken=1
        fi
    done
    return $broken
}

names=()
trusts=
for word in "$@"; do
    case $word in
    --list)
        for patch in "$patches"/*.patch; do
            name=$(basename "$patch" .patch)
            printf '%-26s %s\n' "$name" "$(field what "$name")"
        done
        exit
        ;;
    --check)
        check
        exit
        ;;
    --trust) trusts=yes ;;
    -*)
        sed -n '2,15s/^# \{0,1\}//p' "$0"
        exit 2
        ;;
    *)
        [ -f "$patches/$word.patch" ] || { echo "there is no sabotage \"$word\"" >&2; exit 2; }
        names+=("$word")
        ;;
    esac
done
if [ ${#names[@]} = 0 ]; then
    for patch in "$patches"/*.patch; do names+=("$(basename "$patch" .patch)"); done
fi

copy=$(mktemp -d "${TMPDIR:-/tmp}/sabotage.XXXXXX")
trap 'rm -rf "$copy"' EXIT
git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$copy"
# Else git would look for the patched files in a repository around the copy.
git -C "$copy" init -q
export CARGO_TARGET_DIR=${SABOTAGE_TARGET:-$copy/target} CARGO_INCREMENTAL=0
log=$copy/output

cargo_in_copy() { (cd "$copy" && timeout "$limit" cargo "$@") >"$log" 2>&1; }

# Whether what was run has said that test $1 failed, or died by a panic in which nothing more can be said while it
# ran, by itself.
is_caught() {
    case $1 in
    rd_sim) grep -Eq '^seed [0-9]+ (FAILS:|hangs:)' "$log" ;;
    *)
        grep -Fxq "test $1 ... FAILED" "$log" ||
            grep -Fxq "test $1 - should panic ... FAILED" "$log" ||
            grep -Eq '\(signal: 6, SIGABRT' "$log"
        ;;
    esac
}

# Builds the test of sabotage $1 and all it needs; then runs it: 0 passed, 1 failed, 2 did not build,
# 3 hung, 4 there is no such test, 5 something else failed.
run_test() {
    local words status=0 chosen=() name
    read -ra words <<<"$(field test "$1")"
    name=${words[-1]}
    # The simulation is one test by itself.
    if [ "${words[-1]}" != rd_sim ]; then
        chosen=(--exact "${words[-1]}")
        unset 'words[-1]'
    fi
    if [ "$(field builds "$1")" = bins ]; then
        cargo_in_copy build --workspace --bins || return 2
    fi
    cargo_in_copy test "${words[@]}" --no-run || return 2
    cargo_in_copy test "${words[@]}" -- "${chosen[@]}" || status=$?
    [ $status = 124 ] && return 3
    grep -Eq '^(running 1 test|rd_sim)$' "$log" || return 4
    [ $status = 0 ] && return 0
    is_caught "$name" || return 5
    return 1
}

survivors=0
report() { printf '%-26s %-12s %s\n' "$1" "$2" "$3"; }

declare -A sound
for name in "${names[@]}"; do
    test=$(field test "$name")
    if [ -z "$trusts${sound[$test]:-}" ]; then
        if ! run_test "$name"; then
            cat "$log"
            echo "without any sabotage, this fails already: cargo test $test" >&2
            exit 1
        fi
        sound[$test]=yes
    fi
done

for name in "${names[@]}"; do
    if ! git -C "$copy" apply "$patches/$name.patch" 2>"$log"; then
        report "$name" "NOT APPLIED" "$(head -1 "$log")"
        survivors=$((survivors + 1))
        continue
    fi
    began=$SECONDS
    status=0
    run_test "$name" || status=$?
    case $status in
    0) outcome=SURVIVED ;;
    1) outcome=caught ;;
    2) outcome="NOT BUILT" ;;
    3) outcome=HUNG ;;
    5) outcome="failed, but not by the named test:" ;;
    *) outcome="NO TEST" ;;
    esac
    report "$name" "$outcome" "$(field test "$name") ($((SECONDS - began)) s)"
    if [ $status != 1 ]; then
        survivors=$((survivors + 1))
        tail -5 "$log" | sed 's/^/    /'
    fi
    git -C "$copy" apply -R "$patches/$name.patch"
done

echo "${#names[@]} sabotages, $((${#names[@]} - survivors)) caught"
[ $survivors = 0 ]
