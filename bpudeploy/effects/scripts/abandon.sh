# abandon ROOT TOKEN: release the lock; the upload stays, so that the next attempt resumes it.
root=$1 token=$2

cd -- "$root" 2> /dev/null || exit 0
unlock
