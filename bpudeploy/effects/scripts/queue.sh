# Shared by reserve and release: mutual exclusion, and the queue.

# born PID: read a process's start time into $born; 1 if it has ended.
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

# lives CLAIM: is the process of a claim still running? PIDs are reused, so a claim has the start time too.
lives() {
    pid=${1#* }
    [ "${1%% *}" = "$boot" ] && born "${pid%% *}" && [ "$born" = "${pid#* }" ]
}

# alone: continue as the only one, or print "busy" and exit. There is no lock that could become stale: each process
# creates a claim with a unique name and only then looks for other claims, so of two the later sees the earlier,
# whatever the delays. The claim with the first name waits, the others give up. Claims of ended processes are ignored,
# and anybody may remove them.
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
    for left in queue/.new.*; do # interrupted before its rename
        [ ! -h "$left" ] || rm -f "$left"
    done
}

# together: let the next process in; only the sync is left, which may take a while.
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

# put TEXT NAME: create or replace a link by one rename.
put() {
    ln -s "$1" "queue/.new.$token"
    mv -T -- "queue/.new.$token" "$2"
}

# silent TEXT SILENCE: was this ticket not polled for SILENCE seconds? After a reboot the time starts anew.
silent() {
    polled=${1#* }
    polled=${polled%% *}
    case $polled in "" | *[!0-9]* | 0?* | ??????????*) return 0 ;; esac
    [ "${1%% *}" = "$boot" ] || polled=0
    [ "$((up - polled))" -gt "$2" ]
}

# tickets SILENCE DROP: read the queue. A ticket is the link queue/NUMBER-TOKEN; its text is
# "BOOT UPTIME SECONDS OWNER WHY": the boot and uptime of the last poll, and the request.
# Sets $mine to our own, $ahead to the number before it (or of all), $next to the first of those, $last to a number.
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
