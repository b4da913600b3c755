# Sourced by the scripts beside it: where things are, and how they speak. POSIX sh.

repository=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
# The servers' programs; another place when several clones share them.
servers=${TIDEMARK_SERVERS:-$repository/.servers}
case $servers in /*) ;; *) servers=$PWD/$servers ;; esac

say() { printf '%s\n' "$*" >&2; }

die() {
    say "error: $*"
    exit 1
}

# Runs a command as root, or says which one a person has to run.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
        sudo "$@"
    else
        die "this needs root: run 'sudo $*', then this script again"
    fi
}

# Installs Debian packages that are missing, saying which.
need_packages() {
    command -v apt-get >/dev/null || die "missing here, and there is no apt-get: install what Debian calls $*, then run this script again"
    say "installing Debian packages: $*"
    as_root apt-get -qq update
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@" >/dev/null
}

# Checks that cargo is there and recent enough for Cargo.toml.
need_rust() {
    PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repository/Cargo.toml")
    if ! command -v cargo >/dev/null; then
        # Debian 13 and later have rustup as a package; older ones have only a Rust that is too old.
        ! command -v apt-get >/dev/null || as_root apt-get -qq update
        apt-cache show rustup >/dev/null 2>&1 || die "cargo is missing, and this Debian has no rustup package: install Rust $wanted or newer with rustup, then run this script again"
        need_packages rustup
        say "installing Rust (stable) with rustup"
        rustup -q toolchain install stable --profile minimal --component rustfmt --component clippy >&2
        rustup -q default stable >&2
    fi
    found=$(rustc --version | cut -d ' ' -f 2)
    oldest=$(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1)
    [ "$oldest" = "$wanted" ] || die "Rust $found is too old: $wanted or newer is needed ('rustup update stable')"
}
