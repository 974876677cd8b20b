// What the programs in the kernel (../programs) and the daemon share: the maps, by which they meet, and the values in
// them. Both sides compile this file, so that neither can see a value otherwise than the other.
//
// Numbers are in host byte order unless they say "network byte order". Times are nanoseconds of CLOCK_MONOTONIC.
#pragma once
#include <stdint.h>

// The maps, numbered in the order in which a program names them (programs/kernel.h).
enum kernel_map {
  // array of 1 `kernel_settings`.
  KERNEL_MAP_SETTINGS,
  // array of 1 map: the table of IPv4, a trie of `kernel_prefix` to `kernel_holder`. It is replaced whole, so that a packet sees
  // all of one publication: what is looked up for it is of one family, and so of one table.
  KERNEL_MAP_TABLE,
  // The same of IPv6, whose keys are `kernel_prefix_ipv6`.
  KERNEL_MAP_TABLE_IPV6,
  // hash of `kernel_endpoint` to a time: until when a peer there may be sent datagrams by the kernel path.
  KERNEL_MAP_ABLE,
  // array of KERNEL_FLOWS `kernel_flow`.
  KERNEL_MAP_FLOWS,
  // array for each CPU of KERNEL_PEER_SLOTS `kernel_peer_counts`.
  KERNEL_MAP_PEERS,
  // array for each CPU of KERNEL_EVENTS counts.
  KERNEL_MAP_EVENTS,
  // array for each CPU of 1 `kernel_crowd`.
  KERNEL_MAP_CROWDS,
  // array of 1 time, in the daemon's memory as well: when the last packet went by that somebody waits for (any but a bare
  // acknowledgement). It is up to KERNEL_AWAITED_STEP late.
  KERNEL_MAP_AWAITED,
  // array of 2 * KERNEL_WORKERS `kernel_passage`, in the daemon's memory as well: of each worker, those out and then those in
  // (`kernel_way`).
  KERNEL_MAP_PASSAGES,
  KERNEL_MAPS,
};

// In the upper half of a constant that stands for a map, whose lower half is its number: the loader puts the map there.
#define KERNEL_MAP_MARK 0x6D617021u

// Places for flows, a power of two: 2.5 MiB. Flows that share one only keep each other out of the kernel path.
#define KERNEL_FLOWS 65536
// A slot for each peer that is counted by itself, and one for all others (`PeerCounterBlock`).
#define KERNEL_PEER_SLOTS 4097
// Peers that are able at the same time at most: as many as a snapshot holds.
#define KERNEL_ABLE_LIMIT 65536

// Nanoseconds: the packets of one step write the time once.
#define KERNEL_AWAITED_STEP 1000000ull

// Workers that packets may be left to at most, a power of two.
#define KERNEL_WORKERS 64
// Received datagrams of at most so many bytes are noted each, wherever they stand among those that were merged; of larger ones
// the first and the last. No node takes larger packets than this past its process (--kernel-path-bytes).
#define KERNEL_NOTED_BYTES 1024

// An address on the underlay, network byte order. One of IPv4 has the first word, and the others are 0: those that a data
// plane knows are all of one family, which its programs are compiled for.
struct kernel_address {
  uint32_t words[4];
};

struct kernel_settings {
  // The programs take nothing any more from this time on: whoever looks after the table is gone. They count and note what they
  // leave to the ring all the same.
  uint64_t valid_until;
  // The interface that carries the underlay, and the TUN device.
  uint32_t underlay_index;
  uint32_t tunnel_index;
  // This node's address on the underlay.
  struct kernel_address underlay_address;
  // The address and the port that the network had before, where the ring receives from them still; 0 where it does not.
  struct kernel_address former_address;
  // The network's port, network byte order.
  uint16_t port;
  // Network byte order.
  uint16_t former_port;
  // Inner packets of more bytes are left to the ring.
  uint16_t packet_limit;
  // Among how many workers flows and datagrams are steered, 1 to KERNEL_WORKERS; 0: nobody has said.
  uint16_t workers;
  // The largest inner packet that is taken from peers, bytes.
  uint32_t mtu;
  uint32_t unused;
};

// The two ways through the ring.
enum kernel_way {
  // From the TUN device to the underlay.
  KERNEL_WAY_OUT,
  // From the underlay to the TUN device.
  KERNEL_WAY_IN,
  KERNEL_WAYS,
};

// One way through one worker. Each packet that a program leaves to the ring is counted, and gets a ticket: the next number of
// its way, over all workers. The worker says up to which ticket everything is through: sent, written or lost. The programs
// write the first two lines, and the worker the third.
struct kernel_passage {
  // Packets, on the way in datagrams, that were left to this worker. Counted before the packet gets its ticket.
  uint64_t entered;
  // The last ticket of the way: in the first worker's passage.
  uint64_t tickets;
  uint64_t unused[6];
  // A ticket that somebody waits for: a flow could go past the process, were all up to it through. In a line of its own, which
  // the worker looks at in each round, and which is written where a flow is kept back.
  uint64_t wanted;
  uint64_t unused_beside_wanted[7];
  // Whatever was left to this worker with this ticket or an earlier one is through.
  uint64_t through;
  // How many had been left to it when everything was through: while it has not been left more, everything is.
  uint64_t entered_through;
  // Of those that were left to it, how many it has taken or found to be lost: for a thread that goes on in another's place.
  uint64_t accounted;
  uint64_t unused_by_worker[5];
};

struct kernel_prefix {
  // 0 to 32 bits.
  uint32_t length;
  // Network byte order.
  uint32_t address;
};

struct kernel_prefix_ipv6 {
  // 0 to 128 bits.
  uint32_t length;
  // Network byte order.
  uint32_t address[4];
};

enum kernel_holder_kind {
  // A peer with an endpoint of this node's own family.
  KERNEL_HOLDER_PEER,
  // This node's own pods.
  KERNEL_HOLDER_OWN,
  // Somebody that only the ring knows how to reach.
  KERNEL_HOLDER_OTHER,
};

struct kernel_endpoint {
  struct kernel_address address;
  // Network byte order.
  uint16_t port;
  uint16_t unused;
};

struct kernel_holder {
  struct kernel_endpoint endpoint;
  // Where the peer's packets are counted: below KERNEL_PEER_SLOTS.
  uint32_t counter_slot;
  // One of `kernel_holder_kind`.
  uint32_t kind;
};

struct kernel_flow {
  // Until when the flow's packets go out by the ring, whatever is through.
  uint64_t bulk_until;
  // The ticket of the flow's last packet that was left to the ring, on the way out; 0: none was.
  uint64_t sent_ticket;
  // The same of those that came in.
  uint64_t received_ticket;
  // When the count of `unanswered` began.
  uint64_t window_began;
  // Small packets sent in this window since the other side last sent one: by the kernel path, or by the ring as a flood.
  uint32_t unanswered;
  // 1 where the flow goes out by the ring for being a flood, or part of one, and was not in the kernel path since; else 0.
  uint32_t is_flood;
};

// The flows of one CPU that nobody answers, together.
struct kernel_crowd {
  // When the count of `unanswered` began.
  uint64_t window_began;
  // Small packets sent by the kernel path in this window, but for the first few of each flow.
  uint64_t unanswered;
  // The same of those that went by the ring as floods.
  uint64_t flooding;
};

struct kernel_peer_counts {
  uint64_t packets_sent;
  uint64_t bytes_sent;
  uint64_t packets_received;
  uint64_t bytes_received;
  // 0: never.
  uint64_t last_received;
};

// What is counted beside the peers.
enum kernel_event {
  // Packets that went out by the kernel path, and their bytes.
  KERNEL_EVENT_SENT,
  KERNEL_EVENT_SENT_BYTES,
  // Packets that came in by it, and their bytes.
  KERNEL_EVENT_RECEIVED,
  KERNEL_EVENT_RECEIVED_BYTES,
  // Small packets to and from able peers that went by the ring because their flow was there.
  KERNEL_EVENT_KEPT_IN_ORDER,
  // Datagrams in the kernel path's form to our port that the ring was left to judge.
  KERNEL_EVENT_LEFT_TO_RING,
  // Packets lost because the kernel had no memory for them.
  KERNEL_EVENT_FAILED,
  KERNEL_EVENTS,
};
