# trust ROOT LINE HOW TOKEN: add a signing key to the trusted ones. HOW is first, add or replace.
root=$1 line=$2 how=$3 token=$4

enter "$root"
command -v ssh-keygen > /dev/null || say verifier missing
mkdir -p keys
there=''
[ ! -s keys/allowed_signers ] || there=$(cat keys/allowed_signers)
case $how in
replace) wanted=$line ;;
*) case "
$there
" in
    *"
$line
"*) wanted=$there ;;
    "

") wanted=$line ;;
    *)
        [ "$how" = add ] || refuse 48 "it trusts another key already"
        wanted="$there
$line"
        ;;
    esac ;;
esac
if [ "$wanted" = "$there" ]; then
    say state present
    exit 0
fi
printf '%s\n' "$wanted" > "keys/.$token"
fsync "keys/.$token"
mv -T -- "keys/.$token" keys/allowed_signers
fsync keys
fsync .
say state installed
