# abandon ROOT TOKEN: give the lock back; what has arrived stays, for the next attempt to go on from.
root=$1 token=$2

cd -- "$root" 2> /dev/null || exit 0
unlock
