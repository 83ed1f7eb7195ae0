# rollback ROOT SIGNED TOKEN OWNER STALE: verify the previous release and swap it with the current one.
root=$1 signed=$2 token=$3 owner=$4 stale=$5

cd -- "$root" 2> /dev/null || refuse 47 "there is nothing at $root"
if theirs "$owner"; then refuse 49 "it is reserved"; fi
able "$signed"
lock "$owner" "$stale"
if theirs "$owner"; then # reserved meanwhile
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
if ! signed_by_trusted "$to" "$signed"; then
    unlock
    refuse 45 "its earlier release is not signed by a key that it trusts"
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
