// Preloaded into iperf3, never called: each TCP socket starts with the congestion control that TCP_CONGESTION names.
//
// `iperf3 -C` names it once the connection stands. Where the namespace's default is BBR, that has made the socket pace
// itself by then (bbr_init, net/ipv4/tcp_bbr.c), and it goes on doing so under any other congestion control: a timer for
// each super-packet, which slows whatever is measured.
#pragma once
