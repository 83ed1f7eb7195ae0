# What reserve and release share: one of them at a time, and the queue.

# born PID: when a process began, into $born; 1 if it has ended.
born() {
    line=''
    read -r line < "/proc/$1/stat" || [ -n "$line" ] || return 1
    line=${line##*") "}
    case $line in "" | [ZX]*) return 1 ;; esac
    set -f
    set -- $line
    set +f
    born=${20-}
} 2> /dev/null

# lives CLAIM: does the process that made it run still? Numbers of processes are used again: so it says when it began.
lives() {
    pid=${1#* }
    [ "${1%% *}" = "$boot" ] && born "${pid%% *}" && [ "$born" = "${pid#* }" ]
}

# alone: go on as the only one, or say that others are at it, and end. No lock stays behind that somebody would have to
# break: who wants in makes a claim under a name that is never used again, and only then looks for other claims. Of two,
# the later therefore sees the earlier, however long either is held up. It waits if its own name comes first, and gives
# way if not. The claim of a process that has ended counts for nothing, and anybody may remove it.
alone() {
    now
    [ -d queue ] || mkdir -p queue
    born $$ || born=unknown
    claim=queue/.claim.$token.$$
    ln -s "$boot $$ $born" "$claim"
    trap 'rm -f "$claim"' EXIT
    rounds=0
    while others; do
        rounds=$((rounds + 1))
        [ "$rounds" -lt 100 ] || busy
    done
    for left in queue/.new.*; do # cut off before it got its name
        [ ! -h "$left" ] || rm -f "$left"
    done
}

# together: let the next one in; all is done but to make it last, which may take a while.
together() {
    trap - EXIT
    rm -f "$claim"
}

# others: is there a claim that we have to wait for?
others() {
    before=yes found=no
    for other in queue/.claim.*; do
        if [ "$other" = "$claim" ]; then
            before=no
            continue
        fi
        text=$(readlink "$other") || continue
        if ! lives "$text"; then
            rm -f "$other"
        elif [ "$before" = yes ]; then
            busy
        else
            found=yes
        fi
    done
    [ "$found" = yes ]
}

busy() {
    say state busy
    exit 0
}

# put TEXT NAME: a link, new or changed, by one rename.
put() {
    ln -s "$1" "queue/.new.$token"
    mv -T -- "queue/.new.$token" "$2"
}

# silent TEXT SILENCE: was this ticket not polled for so long? One from before this board's start has that long after it.
silent() {
    polled=${1#* }
    polled=${polled%% *}
    case $polled in "" | *[!0-9]* | 0?* | ??????????*) return 0 ;; esac
    [ "${1%% *}" = "$boot" ] || polled=0
    [ "$((up - polled))" -gt "$2" ]
}

# tickets SILENCE DROP: those who wait. A ticket is the link queue/NUMBER-TOKEN; its text is
# "BOOT UPTIME SECONDS OWNER WHY": when it was last polled, by a clock that nobody sets, and what it asks for.
# Into $mine our own, $ahead how many come before it, or are there at all, $next the first of those, $last a number.
tickets() {
    mine='' ahead=0 next='' last=1000000000
    for ticket in queue/[1-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9][0-9]-*; do
        text=$(readlink "$ticket") || continue
        last=${ticket#queue/}
        last=${last%%-*}
        case $ticket in *-"$token") mine=$ticket ;; esac
        if [ "$mine" = "$ticket" ]; then
            continue
        elif silent "$text" "$1"; then
            [ "$2" = no ] || rm -f "$ticket"
        elif [ -z "$mine" ]; then
            ahead=$((ahead + 1))
            [ -n "$next" ] || next=$text
        fi
    done
}
