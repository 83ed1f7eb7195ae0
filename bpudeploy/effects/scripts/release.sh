# release ROOT HOW TOKEN OWNER: end the reservation. HOW is mine, force (anybody's), or leave (only leave the queue).
root=$1 how=$2 token=$3 owner=$4

cd -- "$root" 2> /dev/null || exit 0
if [ "$how" = leave ]; then
    rm -f queue/*-"$token"
    exit 0
fi
[ -h reservation ] || exit 0
alone
if [ "$how" = mine ] && theirs "$owner"; then refuse 49 "it is reserved"; fi
if holder; then say reserved "$held"; fi
rm -f reservation
together
fsync .
