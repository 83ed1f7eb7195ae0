# A reservation is the link "reservation"; its text is "TOKEN UNTIL OWNER WHY", UNTIL by this board's clock.

# holder: read the reservation into $held (the text), $until and $holder; 1 if there is none, or UNTIL has passed.
# A text of unknown format, or a board without a clock, has no end. If there is a link, $clock is set too.
holder() {
    held=''
    [ -h reservation ] || return 1
    text=$(readlink reservation) || return 1
    until=${text#* } holder=${text#* * }
    until=${until%% *} holder=${holder%% *}
    clock=$(date +%s 2> /dev/null) || clock=0
    case $text in *" "*" "*) ;; *) until=none ;; esac
    case $until in
    "" | *[!0-9]* | ????????????*) ;;
    *) [ "$until" -gt "$clock" ] || return 1 ;;
    esac
    held=$text
}

# theirs OWNER: print the reservation if it is somebody else's, otherwise return 1. OWNER may end with " pid ...".
theirs() {
    holder && [ "$holder" != "${1%% *}" ] && say reserved "$held"
}
