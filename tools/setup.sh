# Sourced by the tools beside it. Gives them $repo, $venv and these functions. All it says goes to stderr.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$repo/.venv

say() { echo "${0##*/}: $*" >&2; }

fail() {
    say "$@"
    exit 1
}

# Runs a command without a word, unless it fails.
quiet() {
    local output
    output=$("$@" 2>&1) || {
        printf '%s\n' "$output" >&2
        fail "this failed: $*"
    }
}

# debian WHAT PACKAGE: installs a package where that may be done without asking, else says how.
debian() {
    command -v apt-get > /dev/null || fail "$1 is missing. On Debian or Ubuntu it is the package $2; install it the way your system does."
    [ "$(id -u)" = 0 ] || fail "$1 is missing. Install it with: sudo apt-get install -y $2"
    say "installing $2"
    apt-get update -qq > /dev/null 2>&1 || true # the install will say what is wrong
    DEBIAN_FRONTEND=noninteractive quiet apt-get install -y --no-install-recommends "$2"
}

# setup [EXTRA]: the virtual environment with this checkout in it. Returns at once when that is newer than pyproject.toml.
setup() {
    local python=${PYTHON:-python3} stamp=$venv/.installed${1:+-$1}
    # The stamp holds the folder's name: an editable install does not survive a move.
    if [ "$stamp" -nt "$repo/pyproject.toml" ] && [ "$(cat "$stamp")" = "$repo" ] && [ -x "$venv/bin/python" ]; then
        return
    fi
    say "setting up $venv"
    if ! "$venv/bin/python" -m pip --version > /dev/null 2>&1; then
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null ||
            fail "Python 3.11 or newer is needed, and $python is not. Name one with: PYTHON=/path/to/python3 $0"
        # Debian's python3 can make no environment until python3-venv is there.
        "$python" -c 'import ensurepip, venv' 2> /dev/null || debian "Python's venv module" python3-venv
        quiet "$python" -m venv --clear "$venv"
    fi
    quiet "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "$repo${1:+[$1]}"
    echo "$repo" | tee "$venv/.installed" > "$stamp"
}
