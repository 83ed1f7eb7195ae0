# rollback ROOT SIGNED TOKEN OWNER STALE: previous, verified, becomes current, and the other way round.
root=$1 signed=$2 token=$3 owner=$4 stale=$5

cd -- "$root" 2> /dev/null || refuse 47 "there is nothing at $root"
if theirs "$owner"; then refuse 49 "it is reserved"; fi
able "$signed"
lock "$owner" "$stale"
if theirs "$owner"; then # since just now
    unlock
    refuse 49 "it is reserved"
fi
from=$(readlink current || :) to=$(readlink previous || :)
if [ -z "$to" ] || [ "$to" = "$from" ]; then
    unlock
    refuse 47 "it has no earlier release"
fi
if ! whole "$to" "${to##*/}"; then
    unlock
    refuse 44 "its earlier release is damaged"
fi
if ! vouched "$to" "$signed"; then
    unlock
    refuse 45 "no key that it trusts has signed its earlier release"
fi
renew
link "$to" current
fsync .
say current "${to##*/}"
say manifest "$(cat current/manifest.json)"
if [ -n "$from" ] && intact "$from" "$signed"; then
    link "$from" previous
    fsync .
fi
unlock
