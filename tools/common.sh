# Shared by the scripts in tools/ (sourced, never run): where the checkout is, how to speak, where cargo is.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Everything these scripts say goes to stderr, so that their stdout can be used by the caller.
say() { printf '[pgvigil] %s\n' "$*" >&2; }
die() {
    printf '[pgvigil] error: %s\n' "$*" >&2
    exit 1
}

# rustup puts cargo where a shell that is not a login shell does not look.
find_cargo() {
    if ! command -v cargo >/dev/null 2>&1; then
        local bin="${CARGO_HOME:-$HOME/.cargo}/bin"
        [ -x "$bin/cargo" ] || die "cargo was not found: install a Rust toolchain (1.88 or newer), see https://rustup.rs"
        PATH="$bin:$PATH"
        export PATH
    fi
    cargo --version >/dev/null || die "cargo is there but does not run"
}

target_dir() { printf '%s\n' "${CARGO_TARGET_DIR:-$checkout/target}"; }

# step "what" command...: says what runs and how long it took; its failure ends the script.
step() {
    local what=$1 began=$SECONDS
    shift
    say "$what"
    if ! "$@"; then
        die "failed: $what"
    fi
    say "$what: done in $((SECONDS - began)) s"
}
