# Sourced by the other scripts: a virtual environment in .venv, installed once and then reused.

# prepare_environment REQUIREMENTS_FILE: afterwards $VENV_PYTHON runs with everything in it.
# A stamp in the environment remembers what was installed, so a second call costs nothing and a
# changed requirements file (or another Python) installs again.
prepare_environment() {
    local requirements="$1"
    local venv="${LIIF_VENV:-.venv}"
    local base="${PYTHON:-python3}"
    VENV_PYTHON="$venv/bin/python"

    if ! "$base" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
        echo "error: $base is missing or older than Python 3.10; set PYTHON to a newer one" >&2
        return 1
    fi
    local wanted
    wanted="$("$base" --version) $(cat requirements.txt "$requirements" | cksum)"
    local stamp="$venv/installed-$(basename "$requirements")"
    if [ -x "$VENV_PYTHON" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
        echo "environment: $venv is up to date"
        return 0
    fi
    if ! "$VENV_PYTHON" -m pip --version >/dev/null 2>&1; then
        echo "environment: making $venv"
        if ! "$base" -m venv --clear "$venv"; then
            echo "error: $base cannot make a virtual environment (on Debian and Ubuntu:" \
                "apt install python3-venv)" >&2
            return 1
        fi
    fi
    echo "environment: installing $requirements into $venv (PyTorch is large; some minutes)"
    if ! "$VENV_PYTHON" -m pip install --quiet --disable-pip-version-check -r "$requirements"; then
        echo "error: pip could not install $requirements; its message is above" >&2
        return 1
    fi
    echo "$wanted" >"$stamp"
}
