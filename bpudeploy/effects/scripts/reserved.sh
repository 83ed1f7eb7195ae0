# A reservation is the link "reservation"; its text is "TOKEN UNTIL OWNER WHY", UNTIL by this board's clock.

# holder: who has reserved this board, into $held (the text), $until and $holder; nobody has once UNTIL has passed.
# A text that is none of ours, or a board without a clock, has no end. $clock is told where there is a link at all.
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

# theirs OWNER: has somebody else reserved it? Then it says so. OWNER may go on with " pid ...".
theirs() {
    holder && [ "$holder" != "${1%% *}" ] && say reserved "$held"
}
