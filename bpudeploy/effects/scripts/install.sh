# install ROOT RELEASE SIGNED TOKEN BEFORE KEEP STATEMENT MANIFEST SIGNATURE HAVE: verify the upload, sync it, then
# make it current. BEFORE is the current link as begin printed it; HAVE is an identical binary on the board, or empty.
root=$1 digest=$2 signed=$3 token=$4 before=$5 keep=$6
statement=$7 manifest=$8 signature=$9
shift 9
have=$1

# arrive: move from incoming/ to releases/. An existing release is never changed, only repaired.
arrive() {
    new=incoming/$digest
    mkdir -p "$new"
    [ -z "$have" ] || cp -- "$have" "$new/model.bin"
    rm -f "$new/statement" "$new/manifest.json" "$new/statement.sig"
    printf '%s' "$statement" > "$new/statement"
    printf '%s' "$manifest" > "$new/manifest.json"
    printf '%s' "$signature" > "$new/statement.sig"
    if ! whole "$new" "$digest"; then
        rm -rf "$new"
        refuse 44 "the received release is damaged"
    fi
    signed_by_trusted "$new" "$signed" || refuse 45 "this release is not signed by a key that it trusts"
    chmod a=r "$new/model.bin" "$new/statement" "$new/manifest.json" "$new/statement.sig"
    fsync "$new/model.bin" "$new/statement" "$new/manifest.json" "$new/statement.sig"
    fsync "$new"
    if [ -d "releases/$digest" ]; then
        for name in statement.sig statement manifest.json model.bin; do # the binary last: if it is correct, all files are
            mv -f -- "$new/$name" "releases/$digest/$name"
        done
        fsync "releases/$digest"
        rm -rf "$new"
    else
        mv -T -- "$new" "releases/$digest"
    fi
    fsync releases incoming
}

# retain: keep the KEEP releases that were built last, and those in use. Others are renamed before they are removed,
# so that no folder under releases/ is ever incomplete.
retain() {
    current=$(readlink current || :) previous=$(readlink previous || :)
    mkdir -p trash
    for folder in releases/*; do
        if statement "$folder"; then printf '%s %s\n' "$built" "$folder"; fi
    done | sort -rn | {
        count=0
        while read -r built folder; do
            count=$((count + 1))
            if [ "$count" -gt "$keep" ] && [ "$folder" != "$current" ] && [ "$folder" != "$previous" ]; then
                mv -T -- "$folder" "trash/${folder##*/}"
            fi
        done
    }
    rm -rf trash
    for folder in incoming/*; do rm -rf "$folder"; done
}

cd -- "$root"
renew
[ "$(readlink current || :)" = "$before" ] || refuse 46 "another release became current meanwhile"
intact "releases/$digest" "$signed" || arrive
if [ "$before" != "releases/$digest" ]; then
    if [ -n "$before" ] && intact "$before" "$signed"; then link "$before" previous; fi
    ours
    link "releases/$digest" current
fi
fsync .
retain || say untidy "$?" # the release is current and synced: the next push retries the cleanup
unlock
