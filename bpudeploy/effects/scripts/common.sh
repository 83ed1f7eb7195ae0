# What every script begins with. POSIX sh; parameters come as $1, $2, ..., never inside this text.
# Answers are lines "@ NAME VALUE" on standard output: whatever else a login prints there is not ours.
set -eu
umask 022
unset CDPATH
export LC_ALL=C

say() { printf '@ %s %s\n' "$1" "$2"; }

# refuse STATUS REASON: statuses are those of bpudeploy.effects.script.Refusal.
refuse() {
    printf '%s\n' "$2" >&2
    exit "$1"
}

# enter ROOT: go there; a root that is not there yet is made, and made to last.
enter() {
    if [ ! -d "$1" ]; then
        mkdir -p -- "$1"
        sync
    fi
    cd -- "$1"
}

# fsync PATH...: files and directories. Where sync(1) takes no names, everything is written out.
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

# statement FOLDER: read what it says into $release, $binary, $line and $built.
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

# whole FOLDER DIGEST: does it hold the release DIGEST, every byte of it?
whole() {
    [ -f "$1/manifest.json" ] && [ -f "$1/model.bin" ] && statement "$1" || return 1
    [ "$release" = "$2" ] || return 1
    sum=$({ printf '["release",' && cat "$1/manifest.json" && printf ']'; } | sha256sum) || return 1
    [ "${sum%% *}" = "$release" ] || return 1
    [ "$(sha "$1/model.bin")" = "$binary" ]
}

# vouched FOLDER SIGNED: has a key that this board trusts signed its statement (or is signing off)?
vouched() {
    [ "$2" = yes ] || return 0
    ssh-keygen -Y verify -f keys/allowed_signers -I bpudeploy -n bpudeploy-release \
        -s "$1/statement.sig" < "$1/statement" > /dev/null 2>&1
}

# intact FOLDER SIGNED: both, for a folder that is named by its release.
intact() { whole "$1" "${1##*/}" && vouched "$1" "$2"; }

# able SIGNED: refuse a board that could not hold a release to what it says.
able() {
    command -v sha256sum > /dev/null || refuse 40 "it has no sha256sum"
    [ "$1" = yes ] || return 0
    command -v ssh-keygen > /dev/null || refuse 41 "it has no ssh-keygen"
    case $(ssh-keygen -Y verify 2>&1 < /dev/null) in
    *"option -- Y"*) refuse 41 "its ssh-keygen is older than OpenSSH 8.1" ;;
    esac
    [ -s keys/allowed_signers ] || refuse 42 "it trusts no signing key yet"
}

# link TO NAME: one rename(2), so there is no moment without the link.
link() {
    ln -s "$1" ".$2.$token"
    mv -T -- ".$2.$token" "$2"
}

# now: this boot's name, and its seconds so far: a clock that nobody sets, whatever the date is thought to be.
now() {
    boot=unknown up=0
    read -r boot < /proc/sys/kernel/random/boot_id || :
    read -r up rest < /proc/uptime || :
    up=${up%%.*}
} 2> /dev/null

# lock OWNER STALE: take the lock, a link whose text is "TOKEN BOOT SECONDS OWNER"; or say who holds it, and end.
# STALE is the text of a lock whose holder has shown no life for long enough; a lock of another boot is stale too.
lock() {
    now
    held=$(readlink lock || :)
    stale=$2
    case $held in "" | *" $boot "*) ;; *" "*" "*" "*) stale=$held ;; esac
    if [ -n "$held" ] && [ "$held" = "$stale" ]; then
        if why=$(mv -- lock ".lock.$token" 2>&1); then
            taken=$(readlink ".lock.$token" || :)
            if [ -n "$taken" ] && [ "$taken" != "$stale" ]; then
                ln -s "$taken" lock 2> /dev/null || : # it changed hands just now: give it back
            fi
            rm -f ".lock.$token"
        elif [ "$(readlink lock || :)" = "$stale" ]; then
            refuse 1 "$why"
        fi
    fi
    if ln -s "$token $boot $up $1" lock 2> /dev/null; then return 0; fi
    held=$(readlink lock || :)
    if [ -z "$held" ]; then # given back just now, or the file system says no: then ln tells why
        ln -s "$token $boot $up $1" lock
        return 0
    fi
    say held "$held"
    say now "$boot $up"
    say life "$(ls -lnR incoming 2> /dev/null | sha256sum)"
    exit 0
}

# ours: refuse to go on if somebody has taken the lock over.
ours() {
    case $(readlink lock || :) in
    "$token "*) ;;
    *) refuse 43 "its lock was taken over while we were silent" ;;
    esac
}

# renew: a new sign of life.
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
