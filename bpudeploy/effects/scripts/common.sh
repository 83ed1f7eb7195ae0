# Included in every script. POSIX sh; parameters are passed as $1, $2, ..., never inserted into this text.
# Results are lines "@ NAME VALUE" on standard output; other lines, such as a login's greeting, are ignored.
set -eu
umask 022
unset CDPATH
export LC_ALL=C

say() { printf '@ %s %s\n' "$1" "$2"; }

# refuse STATUS REASON: exit with a status of bpudeploy.effects.script.Refusal.
refuse() {
    printf '%s\n' "$2" >&2
    exit "$1"
}

# enter ROOT: cd there; create and sync it if missing.
enter() {
    if [ ! -d "$1" ]; then
        mkdir -p -- "$1"
        sync
    fi
    cd -- "$1"
}

# fsync PATH...: sync files and directories, or everything if sync(1) takes no names.
fsync() {
    if [ -z "${by_name-}" ]; then
        if sync . 2>/dev/null; then by_name=yes; else by_name=no; fi
    fi
    if [ "$by_name" = yes ]; then sync -- "$@"; else sync; fi
}

sha() {
    sum=$(sha256sum < "$1") || return 1
    printf '%s' "${sum%% *}"
}

# statement FOLDER: read a statement into $release, $binary, $line and $built.
statement() {
    release='' binary='' line='' built=0
    [ -f "$1/statement" ] || return 1
    while read -r key value; do
        case $key in
        release) release=$value ;;
        binary) binary=$value ;;
        line) line=$value ;;
        built) built=$value ;;
        esac
    done < "$1/statement"
}

# whole FOLDER DIGEST: does the folder contain the complete release DIGEST?
whole() {
    [ -f "$1/manifest.json" ] && [ -f "$1/model.bin" ] && statement "$1" || return 1
    [ "$release" = "$2" ] || return 1
    sum=$({ printf '["release",' && cat "$1/manifest.json" && printf ']'; } | sha256sum) || return 1
    [ "${sum%% *}" = "$release" ] || return 1
    [ "$(sha "$1/model.bin")" = "$binary" ]
}

# signed_by_trusted FOLDER SIGNED: is the statement signed by a trusted key (or signing off)?
signed_by_trusted() {
    [ "$2" = yes ] || return 0
    ssh-keygen -Y verify -f keys/allowed_signers -I bpudeploy -n bpudeploy-release \
        -s "$1/statement.sig" < "$1/statement" > /dev/null 2>&1
}

# intact FOLDER SIGNED: both, for a folder that is named after its release.
intact() { whole "$1" "${1##*/}" && signed_by_trusted "$1" "$2"; }

# able SIGNED: refuse a board that cannot verify releases.
able() {
    command -v sha256sum > /dev/null || refuse 40 "it has no sha256sum"
    [ "$1" = yes ] || return 0
    command -v ssh-keygen > /dev/null || refuse 41 "it has no ssh-keygen"
    case $(ssh-keygen -Y verify 2>&1 < /dev/null) in
    *"option -- Y"*) refuse 41 "its ssh-keygen is older than OpenSSH 8.1" ;;
    esac
    [ -s keys/allowed_signers ] || refuse 42 "it trusts no signing key yet"
}

# link TO NAME: replace a link atomically, by rename(2).
link() {
    ln -s "$1" ".$2.$token"
    mv -T -- ".$2.$token" "$2"
}

# now: the boot id and the uptime in seconds, which do not depend on the date.
now() {
    boot=unknown up=0
    read -r boot < /proc/sys/kernel/random/boot_id || :
    read -r up rest < /proc/uptime || :
    up=${up%%.*}
} 2> /dev/null

# lock OWNER STALE: take the lock, a link whose text is "TOKEN BOOT SECONDS OWNER"; or print its holder, and exit.
# STALE is the text of a lock that may be taken over; a lock of another boot is stale too.
lock() {
    now
    held=$(readlink lock || :)
    stale=$2
    case $held in "" | *" $boot "*) ;; *" "*" "*" "*) stale=$held ;; esac
    if [ -n "$held" ] && [ "$held" = "$stale" ]; then
        if why=$(mv -- lock ".lock.$token" 2>&1); then
            taken=$(readlink ".lock.$token" || :)
            if [ -n "$taken" ] && [ "$taken" != "$stale" ]; then
                ln -s "$taken" lock 2> /dev/null || : # it was taken by another deployer meanwhile: restore it
            fi
            rm -f ".lock.$token"
        elif [ "$(readlink lock || :)" = "$stale" ]; then
            refuse 1 "$why"
        fi
    fi
    if ln -s "$token $boot $up $1" lock 2> /dev/null; then return 0; fi
    held=$(readlink lock || :)
    if [ -z "$held" ]; then # released meanwhile, or the file system is read-only: then ln reports why
        ln -s "$token $boot $up $1" lock
        return 0
    fi
    say held "$held"
    say now "$boot $up"
    say life "$(ls -lnR incoming 2> /dev/null | sha256sum)"
    exit 0
}

# ours: refuse to continue if the lock was taken over.
ours() {
    case $(readlink lock || :) in
    "$token "*) ;;
    *) refuse 43 "its lock was taken over by another deployer" ;;
    esac
}

# renew: update the lock's time.
renew() {
    ours
    held=$(readlink lock)
    now
    owner=${held#* * * }
    link "$token $boot $up $owner" lock
}

unlock() {
    case $(readlink lock || :) in "$token "*) rm -f lock ;; esac
}
