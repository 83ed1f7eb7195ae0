# reserve ROOT HOW TOKEN OWNER SECONDS SILENCE WHY: reserve this board for SECONDS from now, unless somebody else has it
# or is ahead in the queue. HOW is take, wait (queue; tickets not polled for SILENCE seconds are dropped) or look (print).
root=$1 how=$2 token=$3 owner=$4 seconds=$5 silence=$6 why=$7

if [ "$how" = look ]; then
    cd -- "$root" 2> /dev/null || exit 0
    now
    tickets "$silence" no
    say ahead "$ahead"
    if holder; then say reserved "$held"; fi
    exit 0
fi
enter "$root"
alone
tickets "$silence" yes
holder || :
clock=$(date +%s)
if [ -n "$held" ] && [ "$holder" = "$owner" ]; then
    :
elif [ -n "$held" ] || [ "$ahead" -gt 0 ]; then
    [ -z "$held" ] || say reserved "$held"
    [ -z "$next" ] || say next "$next"
    say ahead "$ahead"
    say state taken
    [ "$how" = wait ] || exit 0
    put "$boot $up $seconds $owner $why" "${mine:-queue/$((last + 1))-$token}"
    together
    [ -n "$mine" ] || fsync queue .
    exit 0
fi
ends=$((clock + seconds))
if [ -n "$held" ] && [ "$until" -gt "$ends" ]; then ends=$until; fi
if [ -h reservation ]; then
    put "$token $ends $owner $why" reservation
else
    ln -s "$token $ends $owner $why" reservation
fi
[ -z "$mine" ] || rm -f "$mine"
together
fsync . queue
say reserved "$token $ends $owner $why"
say state held
