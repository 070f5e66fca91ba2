# Interpreters, dependencies, environments and copies of the checkout; sourced by the other scripts here.
#
# PYTHON            interpreter to build with; if not given, the first of 3.11 to 3.14 that runs
# STACK             versions to test with: a file of .ci/requirements; if not given, the one with fairseq2 where the
#                   interpreter can have it (3.11 and 3.12), the newest elsewhere
# SPEECHSSL_CACHE   where dependencies are kept (default ~/.cache/speechssl)

versions="3.11 3.12 3.13 3.14"  # as classified in setup.py; the first two can have fairseq2

say() { echo "environment: $*" >&2; }

fail() { say "$*"; exit 1; }

has_uv() { command -v uv >/dev/null; }

# Print "3.12" for an interpreter that runs, nothing for one that does not: a name on the path may be a launcher that
# finds no Python behind it.
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

# Print the interpreter of version $1, if there is one: on the path, uv's, pyenv's, or python3 by chance.
find_python() {
    local candidate
    for candidate in "python$1" "$(uv python find --no-python-downloads "$1" 2>/dev/null || true)" \
        "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1".*/bin/python python3; do
        if [ -n "$candidate" ] && [ "$(version_of "$candidate")" = "$1" ]; then
            command -v "$candidate"
            return
        fi
    done
}

# Set $python and $version: what PYTHON names, or what .venv was made with, or the first that is found.
choose_python() {
    python=${PYTHON:-}
    if [ -z "$python" ] && [ -z "${STACK:-}" ] && [ -x .venv/bin/python ] && [ -e .venv/stack ]; then
        python=$(readlink -f .venv/bin/python)
        STACK=$(cat .venv/stack)
    fi
    if [ -n "$python" ]; then
        version=$(version_of "$python")
        [ -n "$version" ] || fail "$python does not run; name an interpreter, as PYTHON=/usr/bin/python3.13"
    else
        for version in $versions; do
            python=$(find_python "$version")
            [ -z "$python" ] || break
        done
    fi
    case " $versions " in
        *" $version "*) [ -z "$python" ] || return 0 ;;
    esac
    [ -z "$python" ] || fail "$python is Python $version, expected one of $versions; name another with PYTHON="
    fail "found no Python of $versions. Debian, Ubuntu: sudo apt-get install python3 python3-venv" \
        "(Debian 12 and newer, Ubuntu 24.04 and newer have one); with uv: uv python install 3.13; then again," \
        "or name one with PYTHON="
}

# Set $stack, as STACK says or as the interpreter allows.
choose_stack() {
    case $version in
        3.11 | 3.12) stack=${STACK:-torch2.9} ;;
        *) stack=${STACK:-newest} ;;
    esac
    [ -e ".ci/requirements/$stack.txt" ] ||
        fail "no stack of versions $stack; expected one of $(cd .ci/requirements && echo *.*.txt newest.txt)"
}

install_system_package() {
    say "installing Debian's $1"
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo=sudo
    # an update that fails (one mirror of several, say) does not matter when the install succeeds
    { $sudo apt-get update -qq || true; $sudo apt-get install -y -qq "$1" >/dev/null; } ||
        fail "could not install it; run: sudo apt-get install $1"
}

has_libsndfile() { { ldconfig -p 2>/dev/null || /sbin/ldconfig -p; } | grep 'libsndfile\.so\.1' >/dev/null; }

# Install requirement files into $dependencies: by uv, which takes a fraction of the time, or by pip.
install_requirements() {
    if has_uv; then
        uv pip install --quiet --python "$dependencies/bin/python" "$@"
    else
        "$dependencies/bin/python" -m pip install --quiet --quiet --progress-bar off --disable-pip-version-check "$@"
    fi
}

# Set $dependencies: a folder with all that the package and its tests need, made where it is not there yet. Checkouts
# share it: its name is a hash of what is in it.
prepare_dependencies() {
    choose_python
    choose_stack
    local cache=${SPEECHSSL_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/speechssl}
    local files=(.ci/requirements/tools.txt ".ci/requirements/$stack.txt")
    local key
    key=$({ cat "${files[@]}" .ci/requirements/native.txt; "$python" -c 'import sys; print(sys.version)'; } |
        sha256sum | cut -c1-12)
    dependencies=$cache/$version-$stack-$key
    [ ! -e "$dependencies/complete" ] || return 0
    mkdir -p "$cache"
    exec 9>"$cache/lock"
    flock 9
    if [ ! -e "$dependencies/complete" ]; then
        if grep -q '^fairseq2' "${files[@]}"; then
            has_libsndfile || install_system_package libsndfile1  # fairseq2 links to it; soundfile brings its own
        fi
        say "installing the dependencies into $dependencies: Python $version, $stack; about 8 GB, 2 to 8 minutes, once"
        rm -rf "$dependencies"
        if has_uv; then
            uv venv --quiet --python "$python" "$dependencies"
        else
            "$python" -c 'import ensurepip' 2>/dev/null || install_system_package "python$version-venv"
            "$python" -m venv "$dependencies"
        fi
        install_requirements -r "${files[0]}" -r "${files[1]}"
        install_requirements -r .ci/requirements/native.txt >"$dependencies/native.log" 2>&1 ||
            say "flashlight-text and kenlm could not be built ($dependencies/native.log): --flashlight stays untested"
        touch "$dependencies/complete"
    fi
    exec 9>&-
}

# Set $tools: an environment with .ci/requirements/$1.txt alone, which sees $dependencies; $2 says what is installed.
prepare_tools() {
    local key purelib='import sysconfig; print(sysconfig.get_path("purelib"))'
    key=$({ cat ".ci/requirements/$1.txt"; echo "$dependencies"; } | sha256sum | cut -c1-12)
    tools=$(dirname "$dependencies")/$1-$version-$key
    [ ! -e "$tools/complete" ] || return 0
    exec 9>"$tools.lock"
    flock 9
    if [ ! -e "$tools/complete" ]; then
        say "installing $2, into $tools, once"
        rm -rf "$tools"
        "$python" -m venv --without-pip "$tools"
        "$dependencies/bin/python" -m pip --python "$tools/bin/python" --disable-pip-version-check \
            install --quiet --quiet --progress-bar off -r ".ci/requirements/$1.txt"
        "$dependencies/bin/python" -c "$purelib" >"$("$tools/bin/python" -c "$purelib")/dependencies.pth"
        touch "$tools/complete"
    fi
    exec 9>&-
}

# Copy what git lists or would list to folder $1.
copy_checkout() {
    git rev-parse --git-dir >/dev/null || fail "what git lists is copied to be tested; run this in a clone"
    mkdir -p "$1"
    # a file that was deleted and not yet committed is listed twice here, and left out
    { git ls-files -z --cached --others --exclude-standard; git ls-files -z --deleted; } | sort -z | uniq -z -u |
        xargs -0 cp --parents --no-dereference --target-directory="$1"
    echo "gitdir: $(git rev-parse --absolute-git-dir)" >"$1/.git"  # tests ask for the commit and the list of files
    export GIT_OPTIONAL_LOCKS=0
}

# Make environment $1, which sees the dependencies, and install the package into it: $2... are arguments for pip.
make_venv() {
    local folder=$1 site said
    shift
    rm -rf "$folder"
    "$python" -m venv --without-pip "$folder"
    site=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    "$dependencies/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/dependencies.pth"
    # oneTBB: fairseq2 looks for it in the environment that runs it (x86 only)
    find "$dependencies/lib" -maxdepth 1 -name 'lib*.so*' -exec ln -s -t "$folder/lib" {} +
    said=$("$folder/bin/python" -m pip install --quiet --no-deps --no-index "$@" 2>&1) ||
        fail "cannot install speechssl: $said"
}
