# begin ROOT RELEASE BINARY SIGNED TOKEN OWNER STALE: exit if RELEASE is current; otherwise lock, and print the state.
root=$1 digest=$2 wanted=$3 signed=$4 token=$5 owner=$6 stale=$7

if [ -d "$root" ]; then
    cd -- "$root"
    if theirs "$owner"; then refuse 49 "it is reserved"; fi
    # A lock means another deployer, or one interrupted before the sync and the cleanup: then do not take this shortcut.
    if [ ! -h lock ] && [ "$(readlink current || :)" = "releases/$digest" ] &&
        intact "releases/$digest" "$signed" && [ "$binary" = "$wanted" ]; then
        say state current
        exit 0
    fi
    cd - > /dev/null
fi
enter "$root"
able "$signed"
lock "$owner" "$stale"
if theirs "$owner"; then # reserved meanwhile
    unlock
    refuse 49 "it is reserved"
fi
rm -rf trash .current.* .previous.* .lock.*
mkdir -p releases "incoming/$digest"
partial=incoming/$digest/model.bin
size=0
if [ -f "$partial" ]; then
    chmod u+w "$partial"
    size=$(wc -c < "$partial")
fi
say partial "$size"
df -Pk . | {
    read -r heading
    read -r disk blocks used free rest
    say free "$free"
}
say before "$(readlink current || :)"
if statement current; then
    say line "$line"
    say built "$built"
fi
for folder in releases/*; do
    [ -f "$folder/model.bin" ] || continue
    say base "$folder/model.bin"
    if statement "$folder" && [ "$binary" = "$wanted" ] && [ "$(sha "$folder/model.bin")" = "$wanted" ]; then
        say have "$folder/model.bin"
    fi
done
say state locked
